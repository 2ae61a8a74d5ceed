"""Confidence intervals of shares, and the effect size of two shares."""

from __future__ import annotations

import math
from dataclasses import dataclass

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


def cohens_h(share: float, earlier: float) -> float:
    """Return the difference of two shares after the arcsine transformation, in [-pi, pi]."""
    return 2 * (math.asin(math.sqrt(share)) - math.asin(math.sqrt(earlier)))
