"""Statistics of two yes-or-no judgements of the same images: agreement, difference, and McNemar's test."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from diffad_ray.intervals import Z_95, Interval, wilson


@dataclass(frozen=True)
class Agreement:
    """How many of the same images two detectors call alerts.

    Attributes:
        images: number of images; `both`, `neither`: of those that both or neither call alerts.
        came: number of images that only the new detector calls alerts; `went`: only the old one.

    Example:
        >>> found = Agreement(images=1000, both=20, came=10, went=30)
        >>> found.old_alerts, found.new_alerts, found.neither
        (50, 30, 940)
    """

    images: int
    both: int
    came: int
    went: int

    @property
    def neither(self) -> int:
        return self.images - self.both - self.came - self.went

    @property
    def old_alerts(self) -> int:
        return self.both + self.went

    @property
    def new_alerts(self) -> int:
        return self.both + self.came

    @property
    def share(self) -> float:
        """The share of the images on which the detectors agree."""
        return (self.both + self.neither) / self.images

    @property
    def kappa(self) -> float | None:
        """Cohen's kappa in [-1, 1]: 1 is full agreement, 0 is chance. None if both detectors always say the same one
        thing, because chance alone then gives full agreement."""
        old, new = self.old_alerts / self.images, self.new_alerts / self.images
        by_chance = old * new + (1 - old) * (1 - new)
        return None if by_chance == 1 else (self.share - by_chance) / (1 - by_chance)

    @property
    def p_value(self) -> float:
        """The p-value of McNemar's exact test, two-sided: how often chance alone gives alert counts that differ as much
        as these, if an image that only one detector calls an alert is as likely to be of one as of the other."""
        return binomial_half(min(self.came, self.went), self.came + self.went)

    @property
    def cohen_g(self) -> float | None:
        """Cohen's g in [-0.5, 0.5], the effect size of McNemar's test: the share of the alerts that came among those
        that came or went, minus 0.5. About 0.05 is small, 0.15 medium, 0.25 large. None if none came or went."""
        changed = self.came + self.went
        return None if changed == 0 else self.came / changed - 0.5

    @property
    def difference(self) -> Interval:
        """The alert rate of the new detector minus that of the old one, with the interval of Agresti and Min (2005) for
        pairs: Wald's interval after half an image is added to each of the four counts."""
        came, went, images = self.came + 0.5, self.went + 0.5, self.images + 2
        centre = (came - went) / images
        half = Z_95 * math.sqrt(max(0.0, (came + went) - (came - went) ** 2 / images)) / images
        value = (self.came - self.went) / self.images
        return Interval(value, max(-1.0, min(value, centre - half)), min(1.0, max(value, centre + half)))

    def figures(self) -> dict[str, Any]:
        """Return all counts and figures by name, for JSON."""
        names = ("images", "both", "came", "went", "neither", "old_alerts", "new_alerts", "share", "kappa", "p_value")
        return {
            **{name: getattr(self, name) for name in (*names, "cohen_g")},
            "old_rate": asdict(wilson(self.old_alerts, self.images)),
            "new_rate": asdict(wilson(self.new_alerts, self.images)),
            "difference": asdict(self.difference),
        }


def binomial_half(fewer: int, total: int) -> float:
    """Return the two-sided p-value of `fewer` heads in `total` throws of a fair coin, with `fewer` <= `total` / 2.

    Example:
        >>> round(binomial_half(1, 10), 6)
        0.021484
    """
    if 2 * fewer >= total:
        return 1.0
    log_factorials = math.lgamma(total + 1) - math.lgamma(fewer + 1) - math.lgamma(total - fewer + 1)
    largest = math.exp(log_factorials - total * math.log(2))
    # From the likeliest count down, each term is the one before times a ratio below 1.
    term = tail = 1.0
    for heads in range(fewer, 0, -1):
        term *= heads / (total - heads + 1)
        tail += term
        if term < tail * 1e-17:
            break
    return min(1.0, 2 * largest * tail)
