"""Kinds of defects that are new: regions of a size and shape, anywhere or at one place, that hardly were before."""

from __future__ import annotations

import math
from dataclasses import dataclass

import duckdb
import numpy as np

from diffad_ray.analytics.recurrence import log_binomial_tail
from diffad_ray.analytics.report.places import HORIZONTAL, NINTH, SIZE_NAME, VERTICAL
from diffad_ray.analytics.report.rates import Rate

FEWEST, SMALLEST_RATIO, SIGNIFICANT = 5, 30.0, 0.01
"""A new kind has so many images, a rate that rose by this factor, and so small a p-value after Bonferroni's correction
for all kinds."""
SHAPES = ("compact", "long")


@dataclass(frozen=True)
class NewKind:
    """Regions of one size and shape that are new.

    Attributes:
        detector, fingerprint: whose regions.
        place: the ninth of the image, such as `top left`; None: anywhere.
        size: `small`, `medium` or `large`.
        shape: `compact` or `long`.
        now, earlier: images with such a region among the images with a score.
        p: an upper bound of the p-value, after correction.
    """

    detector: str
    fingerprint: str
    place: str | None
    size: str
    shape: str
    now: Rate
    earlier: Rate
    p: float

    @property
    def condition(self) -> str:
        """SQL of the regions of this kind, over the table `found`."""
        conditions = [f"{SIZE_NAME} = '{self.size}'", f"is_long = {self.shape == 'long'}".lower()]
        if self.place is not None:
            down, across = self.place.split()
            conditions.append(f"{NINTH['y']} = {VERTICAL.index(down)} AND {NINTH['x']} = {HORIZONTAL.index(across)}")
        return " AND ".join(conditions)


def new_kinds(connection: duckdb.DuckDBPyConnection) -> list[NewKind]:
    """Return the kinds that are new since the period before, most images first.

    A kind at one place is left out where the same size and shape are new anywhere. Nothing is new where the period
    before has no images with a score.
    """
    scored = {
        fingerprint: (now, earlier)
        for fingerprint, now, earlier in connection.execute(
            "SELECT detector_fingerprint, coalesce(sum(scored) FILTER (is_now), 0)::BIGINT, "
            "coalesce(sum(scored) FILTER (NOT is_now), 0)::BIGINT FROM cells GROUP BY 1"
        ).fetchall()
    }
    look = "detector, detector_fingerprint, named, is_long"
    rows = connection.execute(
        f"SELECT {look}, v, h, count(DISTINCT image_id) FILTER (is_now), count(DISTINCT image_id) FILTER (NOT is_now) "
        f"FROM (SELECT *, {SIZE_NAME} AS named, {NINTH['y']} AS v, {NINTH['x']} AS h FROM found) "
        f"GROUP BY GROUPING SETS (({look}), ({look}, v, h))"
    ).fetchall()
    told = []
    for detector, fingerprint, size, is_long, v, h, now, earlier in rows:
        of_now, of_earlier = scored[fingerprint]
        if now < FEWEST or not of_earlier or now / of_now < SMALLEST_RATIO * earlier / of_earlier:
            continue
        share = np.array(of_now / (of_now + of_earlier))
        bound = float(log_binomial_tail(np.array(now), np.array(now + earlier), share))
        p = min(1.0, math.exp(bound) * len(rows))
        if p < SIGNIFICANT:
            place = None if v is None else f"{VERTICAL[v]} {HORIZONTAL[h]}"
            rates = Rate(now, of_now), Rate(earlier, of_earlier)
            told.append(NewKind(detector, fingerprint, place, size, SHAPES[is_long], *rates, p))
    anywhere = {(one.fingerprint, one.size, one.shape) for one in told if one.place is None}
    kept = [one for one in told if one.place is None or (one.fingerprint, one.size, one.shape) not in anywhere]
    return sorted(kept, key=lambda one: (-one.now.count, one.fingerprint, one.place or "", one.size, one.shape))
