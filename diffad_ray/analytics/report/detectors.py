"""The detectors and thresholds in force, and what false alarms they promise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import duckdb
import numpy as np

from diffad_ray.table.detectors import KnownDetector
from diffad_ray.table.thresholds import AppliedThreshold


@dataclass(frozen=True)
class DetectorInForce:
    """A detector that scored images of the period.

    Attributes:
        detector, fingerprint: which; `kind`, `location`: as the table knows them, else None.
        images: with a score in the period; `alerts`: rejected ones.
        threshold: from which score on an image is rejected, which may be of people or the detector's own; None where
            rows of the period were judged by several.
        applied: the threshold that people applied, with who and why; None: the detector's own is in force.
        calibration_images: of its calibration split, or None.
        false_alarm_rate: the share of good images that the calibration expects at or over the threshold, or None.
    """

    detector: str
    fingerprint: str
    kind: str | None
    location: str | None
    images: int
    alerts: int
    threshold: float | None
    applied: AppliedThreshold | None
    calibration_images: int | None
    false_alarm_rate: float | None

    @property
    def expected_false_alarms(self) -> float | None:
        """False alarms that the calibration expects of the images of the period, if all of them are good."""
        return None if self.false_alarm_rate is None else self.false_alarm_rate * self.images


def detectors_in_force(
    connection: duckdb.DuckDBPyConnection,
    known: Mapping[str, KnownDetector],
    applied: Mapping[str, AppliedThreshold],
) -> list[DetectorInForce]:
    """Return the detectors of the period, the one with the most images first.

    Args:
        known, applied: by fingerprint, as far as the table has them.
    """
    sql = (
        "SELECT detector, detector_fingerprint, sum(scored)::BIGINT AS images, sum(alerts)::BIGINT, "
        "min(low_threshold), max(high_threshold) FROM cells WHERE is_now GROUP BY ALL HAVING images > 0 "
        "ORDER BY images DESC, detector_fingerprint"
    )
    found = []
    for name, fingerprint, images, alerts, low, high in connection.execute(sql).fetchall():
        document = known.get(fingerprint)
        calibration = document.calibration if document else None
        threshold = low if low == high else None
        rate = None
        if calibration is not None and threshold is not None:
            rate = float(calibration.tail_probability(np.array([threshold]))[0])
        found.append(
            DetectorInForce(
                detector=name,
                fingerprint=fingerprint,
                kind=document.kind if document else None,
                location=document.location if document else None,
                images=images,
                alerts=alerts,
                threshold=threshold,
                applied=applied.get(fingerprint),
                calibration_images=calibration.images if calibration else None,
                false_alarm_rate=rate,
            )
        )
    return found
