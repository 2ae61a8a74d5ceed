"""Numbers of drift: changes of a daily figure, control charts, a binomial test, PSI and Wasserstein distance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, lgamma, log

import numpy as np

FEWEST_DAYS = 5
"Days before a change, without which the variation from day to day is unknown."
SURE = 4.0
"""Standard errors that a change must have. A table has many groups and figures, which are looked at every night. The
usual 2 or 3 would raise an alarm a week."""
CHART_LIMIT = 3.0
"Standard deviations between the centre of a control chart and its limits, as is usual."
RATIO_OF_MEDIAN = 1.2533
"Standard error of a median of normal values, divided by that of their mean."
SMALLEST_SHARE = 1e-4
"Of a bin, in the population stability index, which has no value for empty bins."


@dataclass(frozen=True)
class Shift:
    """A change of a daily figure that has lasted until the last day.

    Attributes:
        first: number of the first day after the change.
        before, after: medians of the daily figures.
        errors: the difference in standard errors, which come from the variation from day to day.
    """

    first: int
    before: float
    after: float
    errors: float

    @property
    def difference(self) -> float:
        return self.after - self.before

    @property
    def relative(self) -> float:
        """The difference as a share of the level before."""
        return self.difference / abs(self.before) if self.before else 0.0


def find_shift(values: np.ndarray, noise: np.ndarray) -> Shift | None:
    """Return the change of the level of a daily figure [D]; None if there is none that chance does not explain.

    The change divides the days so that the absolute deviations from the medians of both sides are smallest. Its
    standard error comes from the deviations of the days before, so it contains all that varies from day to day. With a
    million images a day, the sampling error alone would call every day a change.

    Args:
        noise: [D], sampling standard error of each value, which is the least that a day can vary.

    Example:
        >>> days = np.array([5.0, 5.1, 4.9, 5.0, 5.1, 4.9, 4.0, 4.1])
        >>> find_shift(days, np.full(8, 0.01)).first
        6
    """
    days = len(values)
    if days <= FEWEST_DAYS:
        return None
    costs = [_deviation(values[:k]) + _deviation(values[k:]) for k in range(FEWEST_DAYS, days)]
    first = FEWEST_DAYS + int(np.argmin(costs))
    before, after = values[:first], values[first:]
    low, high = float(np.median(before)), float(np.median(after))
    spread = max(1.4826 * float(np.median(np.abs(before - low))), float(np.median(noise)))
    if spread == 0:
        spread = max(abs(low), abs(high)) * 1e-9
    if low == high:
        return None
    error = RATIO_OF_MEDIAN * spread * (1 / first + 1 / (days - first)) ** 0.5
    errors = (high - low) / error
    # The spread is itself uncertain after few days.
    return Shift(first, low, high, errors) if abs(errors) >= SURE * (1 + FEWEST_DAYS / first) else None


def _deviation(values: np.ndarray) -> float:
    return float(np.abs(values - np.median(values)).sum())


def share_angle(counts: np.ndarray, totals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the angles of shares (Anscombe), and their sampling standard errors, which do not depend on the shares.

    The difference of two angles is Cohen's effect size h.
    """
    angles = 2 * np.arcsin(np.sqrt(np.clip((counts + 0.375) / (totals + 0.75), 0, 1)))
    return angles, 1 / np.sqrt(totals + 0.5)


@dataclass(frozen=True)
class ChartDay:
    """A day of a control chart: a share, and the limits within which it varies by chance."""

    share: float
    lower: float
    upper: float

    @property
    def is_outside(self) -> bool:
        return not self.lower <= self.share <= self.upper


def share_chart(counts: np.ndarray, totals: np.ndarray, days_before: int) -> list[ChartDay]:
    """Return a Laney p' chart of shares, counts [D] of totals [D], whose limits come from the first days.

    A p-chart expects the variation of a binomial distribution only. With large totals its limits are so narrow that
    each day lies outside. Laney's chart multiplies them by the standard deviation of the standardised shares, estimated
    from the differences of successive days (Laney, Quality Engineering 14, 2002). The factor is at least 1.
    """
    centre = float(counts[:days_before].sum() / totals[:days_before].sum())
    sampling = np.sqrt(centre * (1 - centre) / totals)
    shares = counts / totals
    factor = 1.0
    if days_before > 1 and centre > 0:
        standardised = (shares - centre)[:days_before] / sampling[:days_before]
        factor = max(1.0, float(np.abs(np.diff(standardised)).mean()) / 1.128)
    width = CHART_LIMIT * factor * sampling
    return [
        ChartDay(float(share), max(0.0, centre - float(w)), min(1.0, centre + float(w)))
        for share, w in zip(shares, width, strict=True)
    ]


def binomial_test(count: int, total: int, share: float) -> float:
    """Return the two-sided p-value of `count` of `total` where `share` is expected: twice the smaller tail.

    Example:
        >>> round(binomial_test(9, 10, 0.5), 4)
        0.0215
    """
    if total == 0 or not 0 < share < 1:
        return 1.0
    upward = count > total * share
    step, end = (1, total + 1) if upward else (-1, -1)
    logs = log(share), log(1 - share)
    tail = 0.0
    for k in range(count, end, step):
        ways = lgamma(total + 1) - lgamma(k + 1) - lgamma(total - k + 1)
        term = exp(ways + k * logs[0] + (total - k) * logs[1])
        tail += term
        # Terms fall faster than geometrically away from the mean.
        if term < tail * 1e-12:
            break
    return min(1.0, 2 * tail)


def stability_index(before: Sequence[float], after: Sequence[float]) -> float:
    """Return the population stability index (PSI) of two histograms with the same bins: their symmetric divergence.

    Usual words for it: below 0.1 alike, up to 0.25 somewhat moved, above it moved.

    Example:
        >>> stability_index([10, 10], [100, 100])
        0.0
    """
    shares = []
    for counts in (before, after):
        values = np.asarray(counts, dtype=np.float64)
        values = np.maximum(values / max(values.sum(), 1.0), SMALLEST_SHARE)
        shares.append(values / values.sum())
    return float(((shares[1] - shares[0]) * np.log(shares[1] / shares[0])).sum())


def wasserstein(before: np.ndarray, after: np.ndarray) -> float:
    """Return the Wasserstein distance of two distributions that are given by quantiles [L] at equal levels.

    It has the unit of the values, and is the mean distance by which the values must be moved.
    """
    return float(np.abs(np.asarray(after) - np.asarray(before)).mean())
