"""Where on the product regions lie: the Pareto by place and size, and the density.

Places are relative to the image, so that images of different sizes are counted together: x and y are in [0, 1].
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import duckdb
import numpy as np

from diffad_ray.analytics.recurrence import GRID, cell

PARETO = 12
VERTICAL, HORIZONTAL = ("top", "middle", "bottom"), ("left", "centre", "right")
SMALL, MEDIUM = 0.03, 0.1
"Limits below which a region is called so, and otherwise `large`: of the root of its share of the image's area."
LONG = 3
"A region is long if its box has sides with this ratio or a larger one, as that of a scratch has."
NINTH = {axis: f"greatest(0, least(2, floor(3 * {axis})))::INT" for axis in ("x", "y")}
"SQL of the third of the image in which a region lies, from 0 on, along each direction."
SIZE_NAME = f"CASE WHEN size < {SMALL} THEN 'small' WHEN size < {MEDIUM} THEN 'medium' ELSE 'large' END"
"SQL of the name of a region's size."


@dataclass(frozen=True)
class Bar:
    """A bar of the Pareto: regions of one size in one ninth of the image, in the period and in the one before."""

    detector: str
    place: str
    size: str
    now: int
    earlier: int
    cumulative_share: float


@dataclass(frozen=True)
class Density:
    """Regions of a detector by place: `cells` [GRID][GRID], row by row from the top; `regions` is their sum."""

    detector: str
    fingerprint: str
    regions: int
    cells: list[list[int]]


def place_name(x: float, y: float) -> str:
    """Return the ninth of an image in which a place lies.

    Example:
        >>> place_name(0.5, 0.1)
        'top centre'
    """
    return f"{VERTICAL[min(2, int(3 * y))]} {HORIZONTAL[min(2, int(3 * x))]}"


def pareto(connection: duckdb.DuckDBPyConnection) -> list[Bar]:
    """Return the most frequent combinations of place and size, with the cumulative share of all regions."""
    sql = (
        f"SELECT detector, {NINTH['x']} AS h, {NINTH['y']} AS v, {SIZE_NAME} AS named, "
        "count(*) FILTER (is_now) AS now, count(*) FILTER (NOT is_now) AS earlier FROM found GROUP BY ALL "
        "ORDER BY now DESC, earlier DESC, detector, h, v, named"
    )
    rows = connection.execute(sql).fetchall()
    total = sum(row[4] for row in rows)
    bars, so_far = [], 0
    for detector, h, v, size, now, earlier in rows[:PARETO]:
        so_far += now
        share = so_far / total if total else 0.0
        bars.append(Bar(detector, f"{VERTICAL[v]} {HORIZONTAL[h]}", size, now, earlier, share))
    return bars


def densities(connection: duckdb.DuckDBPyConnection) -> list[Density]:
    """Return where the regions of each detector lie in the period, the detector with the most regions first."""
    keys = f"detector, detector_fingerprint, {cell('y')}, {cell('x')}"
    sql = f"SELECT {keys}, count(*) FROM found WHERE is_now GROUP BY ALL ORDER BY ALL"
    cells: dict[tuple[str, str], np.ndarray] = defaultdict(lambda: np.zeros((GRID, GRID), np.int64))
    for detector, fingerprint, row, column, count in connection.execute(sql).fetchall():
        cells[detector, fingerprint][row, column] = count
    made = [Density(*key, int(counts.sum()), counts.tolist()) for key, counts in cells.items()]
    return sorted(made, key=lambda one: (-one.regions, one.fingerprint))
