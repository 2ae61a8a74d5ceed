"""The gates of a run: what they promise, and what their audits found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import duckdb

from diffad_ray.errors import percent
from diffad_ray.gates.bound import missed_share
from diffad_ray.sql import quoted

MOST_EXAMPLES = 10
BY_DETECTOR, BY_GATE = "detector", "gate"
"Values of the column `scored_by`."


@dataclass(frozen=True)
class PlannedGate:
    """A gate that takes the first look at the images of a detector.

    Attributes:
        detector, detector_fingerprint: name and fingerprint of the detector.
        fingerprint: that of the gate.
        limit: images with a lower `score_of_gate` pass.
        promise: share of what the detector flags that the gate may pass.
        audit: share of the passed images that go through the detector too.
    """

    detector: str
    detector_fingerprint: str
    fingerprint: str
    limit: float
    promise: float
    audit: float


@dataclass(frozen=True)
class GateCheck:
    """What the audit of a gate found in a run.

    Attributes:
        gate: fingerprint of the gate.
        images: number of images that the gate looked at.
        passed: of these, the ones that it would pass.
        audited: of the passed ones, those that went through the detector too.
        missed: of the audited ones, those that the detector flags.
        caught: images that the gate does not pass and the detector flags.
        share, low, high: the share of what the detector flags that the gate would pass, with its 95 % interval.
        examples: locations of missed images.
    """

    detector: str
    detector_fingerprint: str
    gate: str
    promise: float
    images: int
    passed: int
    audited: int
    missed: int
    caught: int
    share: float
    low: float
    high: float
    examples: list[str]

    @property
    def is_broken(self) -> bool:
        """Whether the audit excludes that the gate keeps its promise."""
        return self.low > self.promise

    @property
    def sentences(self) -> Iterator[str]:
        """What people should know, the worst first."""
        interval = f"95 % interval {percent(self.low)} to {percent(self.high)}"
        missed = f"{percent(self.share)} of what the detector flags ({interval})"
        if self.is_broken:
            yield (
                f"THE GATE OF {self.detector} BREAKS ITS PROMISE: it would miss {missed}, and promises at most "
                f"{percent(self.promise)}. Score again without --gate and with --force, make the gate anew, and look "
                f"at {', '.join(self.examples)}"
            )
        share = self.passed / self.images if self.images else 0.0
        yield (
            f"the gate of {self.detector} passed {self.passed} of {self.images} images ({percent(share)}); of "
            f"{self.audited} audited ones the detector flags {self.missed}, so the gate misses {missed}; the promise "
            f"is {percent(self.promise)}"
        )


def check_gates(connection: duckdb.DuckDBPyConnection, rows: str, gates: Sequence[PlannedGate]) -> list[GateCheck]:
    """Return what the rows of a run say of its gates.

    Args:
        rows: what follows FROM, the rows of one run.
    """
    return [_check(connection, rows, gate) for gate in gates]


def _check(connection: duckdb.DuckDBPyConnection, rows: str, gate: PlannedGate) -> GateCheck:
    passes = f"score_of_gate < {gate.limit!r}::FLOAT"
    audited = f"{passes} AND scored_by = {quoted(BY_DETECTOR)}"
    counts = ", ".join(
        f"count(*) FILTER ({condition})"
        for condition in (
            "score_of_gate IS NOT NULL",
            passes,
            audited,
            f"{audited} AND is_anomalous",
            f"NOT ({passes}) AND is_anomalous",
        )
    )
    of_gate = f"FROM {rows} WHERE detector_fingerprint = {quoted(gate.detector_fingerprint)}"
    ((images, passed, looked_at, missed, caught),) = connection.execute(f"SELECT {counts} {of_gate}").fetchall()
    worst = f"{audited} AND is_anomalous ORDER BY score DESC, image_uri LIMIT {MOST_EXAMPLES}"
    examples = [uri for (uri,) in connection.execute(f"SELECT image_uri {of_gate} AND {worst}").fetchall()]
    share = missed_share(passed, looked_at, missed, caught)
    return GateCheck(
        detector=gate.detector,
        detector_fingerprint=gate.detector_fingerprint,
        gate=gate.fingerprint,
        promise=gate.promise,
        images=images,
        passed=passed,
        audited=looked_at,
        missed=missed,
        caught=caught,
        share=share.value,
        low=share.low,
        high=share.high,
        examples=examples,
    )
