"""Rates of two periods compared: a test that knows how much days differ by themselves, and an effect size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from diffad_ray.intervals import cohens_h, wilson

MEDIAN_CHI2 = 0.4549
"Median of the chi-squared distribution with one degree of freedom."


@dataclass(frozen=True)
class Rate:
    """`count` of `of` things, such as alerts of images."""

    count: int
    of: int

    @property
    def share(self) -> float | None:
        """In [0, 1]; None of nothing."""
        return self.count / self.of if self.of else None


@dataclass(frozen=True)
class Dispersion:
    """How much rates differ from day to day.

    Attributes:
        factor: variance of a day's rate, as a multiple of the binomial variance; at least 1.
        pairs: pairs of successive days that it was measured on; 0: it is assumed to be 1.
    """

    factor: float = 1.0
    pairs: int = 0


@dataclass(frozen=True)
class RateChange:
    """A rate against an earlier one.

    Attributes:
        now, earlier: the two rates.
        difference: of the shares, and `low`, `high`: the ends of its 95 % interval.
        ratio: of the shares; None if the earlier one is 0.
        effect: Cohen's h, the difference of 2 asin(sqrt(share)): in [-pi, pi], and independent of n. 0.2 is called
            small, 0.5 medium and 0.8 large.
        p: two-sided p-value of "both rates are the same".
    """

    now: Rate
    earlier: Rate
    difference: float
    low: float
    high: float
    ratio: float | None
    effect: float
    p: float


def compare_rates(now: Rate, earlier: Rate, dispersion: Dispersion | None = None) -> RateChange:
    """Compare two rates, each of at least one thing.

    The test is the signed root of the likelihood ratio. It is divided by the root of the dispersion, and then follows
    Student's t with as many degrees of freedom as there are pairs of days, as for quasi-binomial counts. The interval
    is Newcombe's, from Wilson intervals of both rates with n / dispersion things.

    Example:
        >>> change = compare_rates(Rate(30, 1000), Rate(10, 1000))
        >>> round(change.ratio, 1), round(change.effect, 3), round(change.p, 4)
        (3.0, 0.148, 0.0011)
    """
    dispersion = dispersion or Dispersion()
    a, b = now.count / now.of, earlier.count / earlier.of
    together = (now.count + earlier.count) / (now.of + earlier.of)
    statistic = _likelihood(now, a, together) + _likelihood(earlier, b, together)
    score = math.sqrt(max(0.0, statistic) / dispersion.factor)
    of_now = wilson(now.count / dispersion.factor, now.of / dispersion.factor)
    of_earlier = wilson(earlier.count / dispersion.factor, earlier.of / dispersion.factor)
    return RateChange(
        now=now,
        earlier=earlier,
        difference=a - b,
        low=a - b - math.hypot(a - of_now.low, of_earlier.high - b),
        high=a - b + math.hypot(of_now.high - a, b - of_earlier.low),
        ratio=a / b if b else None,
        effect=cohens_h(a, b),
        p=two_sided(score, dispersion.pairs),
    )


def dispersion_of(periods: Sequence[Sequence[Rate]]) -> Dispersion:
    """Measure how much the rates of successive days differ, beyond chance.

    Each pair of successive days gives a squared difference over its binomial variance. The median of these ratios is
    divided by the median that chance alone gives. One jump within a period therefore counts little, as in a control
    chart of moving ranges.

    Args:
        periods: rates by day, of each period; days that follow each other across periods make no pair.
    """
    ratios = []
    for days in periods:
        counted = [day for day in days if day.of]
        for first, second in pairwise(counted):
            share = (first.count + second.count) / (first.of + second.of)
            variance = share * (1 - share) * (1 / first.of + 1 / second.of)
            if variance > 0:
                ratios.append((first.count / first.of - second.count / second.of) ** 2 / variance)
    if not ratios:
        return Dispersion()
    return Dispersion(max(1.0, float(np.median(ratios)) / MEDIAN_CHI2), len(ratios))


def two_sided(t: float, freedom: int) -> float:
    """Return the two-sided p-value of Student's t, by Wallace's normal approximation (1959).

    Args:
        t: at least 0.
        freedom: degrees of freedom; 0: `t` is a normal score.
    """
    if freedom:
        t = math.sqrt(freedom * math.log1p(t * t / freedom)) * (8 * freedom + 1) / (8 * freedom + 3)
    return math.erfc(t / math.sqrt(2))


def _likelihood(rate: Rate, share: float, expected: float) -> float:
    """Twice the logarithm of the likelihood ratio of a rate's own share against an expected one."""
    total = 0.0
    if rate.count:
        total += rate.count * math.log(share / expected)
    if rate.of - rate.count:
        total += (rate.of - rate.count) * math.log((1 - share) / (1 - expected))
    return 2 * total
