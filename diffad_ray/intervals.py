"""Confidence intervals of shares, and the effect size of two shares."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95
Z_95 = 1.959963984540054
"The quantile of the normal distribution between whose negative and itself 95 % lie."


@dataclass(frozen=True)
class Interval:
    """A share in [0, 1], or a difference of two shares in [-1, 1], with its 95 % interval."""

    value: float
    low: float
    high: float


def wilson(count: float, of: float) -> Interval:
    """Return the share of `count` in `of` > 0 with the 95 % interval of Wilson (1927), which holds for few images, too.

    Both numbers are divided by the dispersion of the counts where these scatter more than a binomial distribution says.

    Example:
        >>> found = wilson(2, 10)
        >>> round(found.value, 3), round(found.low, 3), round(found.high, 3)
        (0.2, 0.057, 0.51)
    """
    share, spread = count / of, Z_95**2 / of
    middle = (share + spread / 2) / (1 + spread)
    half = Z_95 / (1 + spread) * math.sqrt(share * (1 - share) / of + spread / (4 * of))
    return Interval(share, max(0.0, min(share, middle - half)), min(1.0, max(share, middle + half)))


def exact_interval(count: int, of: int) -> Interval:
    """Return the share of `count` in `of` with the exact interval of Clopper and Pearson (1934) for a binomial count.

    Of none, nothing is known: the share is 0, and its interval [0, 1].

    Example:
        >>> found = exact_interval(0, 3000)
        >>> round(found.low, 5), round(found.high, 5)
        (0.0, 0.00123)
    """
    if of == 0:
        return Interval(0.0, 0.0, 1.0)
    beyond = (1 - CONFIDENCE) / 2
    low = 0.0 if count == 0 else _root(lambda p: 1 - _at_most(count - 1, of, p) - beyond)
    high = 1.0 if count == of else _root(lambda p: beyond - _at_most(count, of, p))
    return Interval(count / of, low, high)


def cohens_h(share: float, earlier: float) -> float:
    """Return the difference of two shares after the arcsine transformation, in [-pi, pi]."""
    return 2 * (math.asin(math.sqrt(share)) - math.asin(math.sqrt(earlier)))


def _at_most(count: int, of: int, p: float) -> float:
    """Return the probability of at most `count` successes in `of` trials of probability p in (0, 1)."""
    hits = np.arange(count + 1)
    log_ways = np.concatenate([[0.0], np.cumsum(np.log((of - hits[1:] + 1) / hits[1:]))])
    return float(np.exp(log_ways + hits * math.log(p) + (of - hits) * math.log1p(-p)).sum())


def _root(rising: Callable[[float], float]) -> float:
    """Return where a function of a probability that rises with it crosses 0, by bisection."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if rising(middle) < 0:
            low = middle
        else:
            high = middle
    return (low + high) / 2
