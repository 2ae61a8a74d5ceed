"""Whether the images of a group look different: brightness, contrast and sharpness, day by day."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass

import duckdb
import numpy as np

from diffad_ray.analytics.report.counts import ALL, sql_of
from diffad_ray.analytics.report.rates import two_sided
from diffad_ray.analytics.report.rows import MEASURES

SIGNIFICANT, SMALLEST_EFFECT, SMALLEST_CHANGE = 0.01, 0.5, 0.05
"""A change is told with so small a p-value after Bonferroni's correction, so large an effect, and a mean that changed
by so large a share."""


@dataclass(frozen=True)
class LightChange:
    """A measure of the images of a group that changed since the period before.

    Attributes:
        measure: `brightness`, `contrast` or `sharpness`, as `images/quality.py` defines them.
        column, value: the group.
        since: the first day of the new level, as an ISO date.
        now, earlier: means over its images since then, and over those of the period before.
        effect: Cohen's d: the difference of the means in standard deviations of single images before.
        p: of a t-test between daily means, after correction.
    """

    measure: str
    column: str
    value: str
    since: str
    now: float
    earlier: float
    effect: float
    p: float


@dataclass(frozen=True)
class _Day:
    """Images of a day with a measure, their sum, and the sum of their squares."""

    day: str
    images: int
    total: float
    squares: float


def light_changes(connection: duckdb.DuckDBPyConnection, columns: tuple[str, ...]) -> list[LightChange]:
    """Return what changed, the largest effect first. Groups of less than two days in a period are not compared.

    Days are compared and not images, since a whole day has the same light. A measure is told for the groups of one
    column, the one that has its largest effect: a dim camera makes the images of its line darker, too.
    """
    drafts = []
    for column in (ALL, *columns):
        for measure in MEASURES:
            days: dict[str, tuple[list[_Day], list[_Day]]] = defaultdict(lambda: ([], []))
            sql = (
                f"SELECT {sql_of(column, columns)}, is_now, day, sum(measured)::BIGINT AS images, "
                f"sum({measure}), sum({measure}_squares) FROM cells GROUP BY ALL HAVING images > 0 ORDER BY day"
            )
            for value, is_now, day, *figures in connection.execute(sql).fetchall():
                days[value][0 if is_now else 1].append(_Day(str(day), *figures))
            for value, (now, earlier) in days.items():
                if len(now) > 1 and len(earlier) > 1:
                    drafts.append(_compared(measure, column, value, now, earlier))
    told = [one for one in drafts if _matters(one, len(drafts))]
    corrected = [LightChange(**{**vars(one), "p": min(1.0, one.p * len(drafts))}) for one in told]
    ranked = sorted(corrected, key=lambda one: (-abs(one.effect), one.column, one.value, one.measure))
    leading = {one.measure: one.column for one in reversed(ranked)}
    return [one for one in ranked if one.column == leading[one.measure]]


def _compared(measure: str, column: str, value: str, now: list[_Day], earlier: list[_Day]) -> LightChange:
    means, before = (np.array([day.total / day.images for day in days]) for days in (now, earlier))
    step = _largest_step(means, before)
    mean, mean_before = _mean(now[step:]), _mean(earlier)
    count = sum(day.images for day in earlier)
    variance = sum(day.squares for day in earlier) / count - mean_before**2
    # Days of the same light differ by the noise of their images, which a few days may hide.
    noise = max(variance, 0.0) * (1 / count + 1 / sum(day.images for day in now[step:]))
    after = means[step:]
    pooled = ((after - after.mean()) ** 2).sum() + ((before - before.mean()) ** 2).sum()
    freedom = len(after) + len(before) - 2
    error = math.sqrt(pooled / freedom * (1 / len(after) + 1 / len(before)) + noise) if freedom else math.inf
    t = abs(after.mean() - before.mean()) / error if error > 0 else (0.0 if mean == mean_before else math.inf)
    deviation = math.sqrt(max(variance, 1e-12))
    p = min(1.0, two_sided(t, freedom) * len(means))
    return LightChange(measure, column, value, now[step].day, mean, mean_before, (mean - mean_before) / deviation, p)


def _largest_step(means: np.ndarray, before: np.ndarray) -> int:
    """The first day of the new level, which divides all days into the two parts that differ least within."""
    whole = np.concatenate([before, means])

    def squares(start: int) -> float:
        parts = np.split(whole, [len(before) + start])
        return float(sum(((part - part.mean()) ** 2).sum() for part in parts))

    return min(range(len(means)), key=squares)


def _mean(days: list[_Day]) -> float:
    return sum(day.total for day in days) / sum(day.images for day in days)


def _matters(one: LightChange, tests: int) -> bool:
    is_large = abs(one.now - one.earlier) >= SMALLEST_CHANGE * abs(one.earlier)
    return is_large and abs(one.effect) >= SMALLEST_EFFECT and one.p * tests < SIGNIFICANT
