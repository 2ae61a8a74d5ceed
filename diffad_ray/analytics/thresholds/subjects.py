"""The detectors whose thresholds are looked at, and the rows that count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import duckdb
import numpy as np

from diffad_ray.analytics.period import Period
from diffad_ray.bundles.calibration import Calibration
from diffad_ray.errors import UserError
from diffad_ray.sql import quoted
from diffad_ray.table.detectors import KnownDetector, read_detectors
from diffad_ray.table.thresholds import AppliedThreshold, in_force, score_at_least


@dataclass(frozen=True)
class Subject:
    """A detector with scores in a period.

    Attributes:
        images: that it scored in the period.
        reject: the threshold in force; without an applied one, that of the newest row.
        applied: the threshold in force, if a person applied it.
        known: what the table knows of the detector; None for a table that was last scored by an older version.
    """

    fingerprint: str
    name: str
    images: int
    reject: float
    applied: AppliedThreshold | None
    known: KnownDetector | None

    @property
    def calibration(self) -> Calibration | None:
        return self.known.calibration if self.known else None

    @property
    def review(self) -> float | None:
        return self.applied.review if self.applied else None

    def rate(self, threshold: float) -> float | None:
        """Return the tail probability of a threshold, if the calibration is known."""
        return None if self.calibration is None else float(self.calibration.tail_probability(np.array([threshold]))[0])

    def threshold_at(self, rate: float) -> float:
        """Return the threshold at a false-alarm rate.

        Raises:
            UserError: the table does not know the calibration.
        """
        if self.calibration is None:
            raise UserError(
                f"the table has no calibration of the detector {self.name} ({self.fingerprint}), because an older "
                "version scored it: the next `diffad-ray score` with this detector writes it, also if nothing is new. "
                "Until then choose by --alerts-per-night, --from-verdicts or --threshold"
            )
        return self.calibration.threshold_at(rate)


def scored_in(period: Period, subjects: Sequence[Subject] = ()) -> str:
    """Return an SQL condition for rows of `scores` with a score, in a period, of some detectors or of all."""
    condition = f"score IS NOT NULL AND run_date BETWEEN DATE '{period.since}' AND DATE '{period.until}'"
    return f"{condition} AND {of_detectors(subjects)}" if subjects else condition


def of_detectors(subjects: Sequence[Subject]) -> str:
    """Return an SQL condition for rows of some detectors."""
    return f"detector_fingerprint IN ({', '.join(quoted(subject.fingerprint) for subject in subjects)})"


def find_subjects(
    connection: duckdb.DuckDBPyConnection, table: str, period: Period, detector: str | None
) -> list[Subject]:
    """Return the detectors with scores in a period, those with most images first.

    Args:
        table: the normalised location.
        detector: the name or the beginning of the fingerprint of the wanted ones; None: all.

    Raises:
        UserError: there is none.
    """
    applied, known = in_force(table), read_detectors(table)
    found = connection.execute(
        "SELECT detector_fingerprint, any_value(detector), count(*), arg_max(threshold, scored_at) FROM scores "
        f"WHERE {scored_in(period)} GROUP BY 1 ORDER BY 3 DESC, 1"
    ).fetchall()
    if not found:
        raise UserError(f"no image of {period} has a score: choose another period with --since and --until")
    wanted = [row for row in found if detector is None or row[1] == detector or row[0].startswith(detector)]
    if not wanted:
        names = ", ".join(f"{name} ({fingerprint})" for fingerprint, name, _, _ in found)
        raise UserError(f"no detector {detector} has scores in {period}: those that have are {names}")
    return [
        Subject(
            fingerprint=fingerprint,
            name=name,
            images=images,
            reject=_reject(applied.get(fingerprint), known.get(fingerprint), threshold),
            applied=applied.get(fingerprint),
            known=known.get(fingerprint),
        )
        for fingerprint, name, images, threshold in wanted
    ]


def _reject(applied: AppliedThreshold | None, known: KnownDetector | None, of_rows: float) -> float:
    """The threshold in force. The rows have it rounded; the detector's own one may be a little higher or lower."""
    if applied is not None:
        return applied.reject
    if known is not None and np.float32(known.threshold) == np.float32(of_rows):
        return score_at_least(known.threshold)
    return float(of_rows)
