"""The thresholds by which a replica decides: those in force of a table, else the own ones of its detectors."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import NamedTuple

from diffad_ray.bundles.bundle import Bundle
from diffad_ray.errors import UserError
from diffad_ray.serving.refusals import Refused
from diffad_ray.serving.settings import ServingSettings
from diffad_ray.table.reading import existing
from diffad_ray.table.thresholds import AppliedThreshold, in_force

log = logging.getLogger(__name__)


class InForce(NamedTuple):
    """The threshold in force of a detector, and where its review band begins; see `AppliedThreshold`."""

    reject: float
    review: float | None


class Thresholds:
    """The thresholds in force of a table, read again from time to time; used in one event loop.

    Without a table, the own threshold of each detector is in force. A table to which requests are recorded need not
    exist yet. A table that only gives thresholds must exist, because a wrong name would change decisions silently.
    """

    def __init__(self, settings: ServingSettings):
        self.table = settings.thresholds or settings.record_table
        self.seconds = settings.threshold_seconds
        self.problem = ""
        self._must_exist = settings.thresholds not in (None, settings.record_table)
        self._applied: Mapping[str, AppliedThreshold] | None = None if self.table else {}
        self._read_at = time.monotonic()

    @property
    def age(self) -> float:
        """Seconds since the thresholds were read; 0 without a table."""
        return time.monotonic() - self._read_at if self.table else 0.0

    async def read(self) -> None:
        """Read the thresholds, if they are older than `threshold_seconds`. If they can't be read, those that were read
        before stay in force; without any, the replica is not ready."""
        if self.table is None or (self._applied is not None and self.age < self.seconds):
            return
        try:
            found = await asyncio.to_thread(self._found, self.table)
        except (UserError, OSError) as error:
            self.problem = f"the thresholds of {self.table} can't be read: {error}"
            log.warning("%s", self.problem)
            return
        if found != self._applied:
            log.info("thresholds in force of %s: %s", self.table, {key: one.reject for key, one in found.items()})
        self._applied, self._read_at, self.problem = found, time.monotonic(), ""

    def _found(self, table: str) -> dict[str, AppliedThreshold]:
        if self._must_exist and self._applied is None:
            existing(table)
        return in_force(table)

    def not_ready(self) -> str:
        """Return why no decision can be made; empty if one can."""
        return self.problem if self._applied is None else ""

    def of(self, bundle: Bundle) -> InForce:
        """Return what is in force for a detector.

        Raises:
            Refused: 503, because the thresholds could not be read yet.
        """
        if self._applied is None:
            raise Refused(503, "the thresholds in force can't be read now", retry_after=10)
        applied = self._applied.get(bundle.fingerprint)
        return InForce(applied.reject, applied.review) if applied else InForce(bundle.calibration.threshold, None)
