"""Distributions of scores, by detector: of the period, of the one before, and of the calibration split."""

from __future__ import annotations

from dataclasses import dataclass

import duckdb
import numpy as np

from diffad_ray.bundles.calibration import Calibration
from diffad_ray.sql import quoted

BINS = 40


@dataclass(frozen=True)
class Scores:
    """The scores of a detector.

    Attributes:
        edges: [BINS + 1] of the bins, in the unit of the score.
        now, earlier: images by bin [BINS], of the period and of the one before.
        calibration: the share of normal images by bin [BINS], as the calibration split has it; empty where the table
            does not know the calibration.
    """

    detector: str
    fingerprint: str
    edges: list[float]
    now: list[int]
    earlier: list[int]
    calibration: list[float]


def scores(connection: duckdb.DuckDBPyConnection, calibrations: dict[str, Calibration]) -> list[Scores]:
    """Return the distributions of the detectors that scored images of the period, most images first.

    Args:
        calibrations: by fingerprint, as far as they are known.
    """
    sql = (
        "SELECT detector, detector_fingerprint, min(lowest), max(highest), sum(scored) FILTER (is_now) AS images "
        "FROM cells WHERE scored > 0 GROUP BY ALL HAVING images > 0 ORDER BY images DESC, detector_fingerprint"
    )
    made: dict[str, Scores] = {}
    for detector, fingerprint, low, high, _ in connection.execute(sql).fetchall():
        calibration = calibrations.get(fingerprint)
        edges = _edges(low, high, calibration)
        shares = [] if calibration is None else (-np.diff(_at_least(calibration, edges))).tolist()
        made[fingerprint] = Scores(detector, fingerprint, edges.tolist(), [0] * BINS, [0] * BINS, shares)
    if not made:
        return []
    bins = ", ".join(f"({quoted(n)}, {one.edges[0]}, {one.edges[1] - one.edges[0]})" for n, one in made.items())
    counted = connection.execute(
        f"SELECT detector_fingerprint, is_now, least({BINS - 1}, floor((score - low) / width))::INT, count(*) "
        f"FROM (SELECT detector_fingerprint, is_now, score FROM asked WHERE score IS NOT NULL) "
        f"JOIN (VALUES {bins}) AS bins(detector_fingerprint, low, width) USING (detector_fingerprint) GROUP BY ALL"
    ).fetchall()
    for fingerprint, is_now, number, count in counted:
        (made[fingerprint].now if is_now else made[fingerprint].earlier)[number] = count
    return list(made.values())


def _edges(low: float, high: float, calibration: Calibration | None) -> np.ndarray:
    """Edges [BINS + 1] of bins that hold all scores, those of the calibration too."""
    if calibration is not None:
        low, high = min(low, calibration.scores[0]), max(high, calibration.scores[-1])
    pad = max(1e-3 * (high - low), abs(high) * 1e-6, 1e-9)
    return np.linspace(low - pad, high + pad, BINS + 1)


def _at_least(calibration: Calibration, edges: np.ndarray) -> np.ndarray:
    """The share of normal images that score at least as high as each edge; all of them lie between the outer edges."""
    shares = calibration.tail_probability(edges)
    shares[0], shares[-1] = 1.0, 0.0
    return shares
