"""Calibration: the distribution of scores of normal images held back from the training (the calibration split)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np

TAIL_SHARE, FEWEST_EXCESSES = 0.1, 6
"""The tail is fitted to the largest `TAIL_SHARE` of the scores, or to the `FEWEST_EXCESSES` largest, whichever is more,
but to half of the scores at most."""
KEPT_SCORES = 500
FEWEST_SCORES = 2
ENOUGH_ABOVE = 5
"Held-back images that must be expected above the threshold, so that they set it without cross-fitted scores."
MOST_STRETCHED = 3.0
ERRORS = 0.62, 2.0
"""Standard errors of the median and of its distance to the 0.9 quantile, of one image with exponential scores, as
shares of this distance; those of n images are smaller by sqrt(n)."""
FALSE_ALARM_RATE = 0.01


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The distribution of normal scores, and the threshold for a given false-positive rate.

    A new normal image scores at least as high as the i-th of n calibration images with probability
    (n - i + 1) / (n + 1), for any distribution (conformal prediction). So a rate of 1 % needs 99 images. Beyond the
    highest score, the tail is the predictive distribution of k exponential excesses, (1 + x / (k mean))^-k. It is
    heavier for fewer excesses, allows a threshold with fewer images, and gives no score the probability 0.

    Attributes:
        false_alarm_rate: share of normal images that may be called anomalous, in (0, 1).
        threshold: an image is anomalous if its score is at least this.
        images: number n of images in the calibration split, cross-fitted ones included.
        scores, ranks: ascending scores and their ranks in 1 to n; with many images, all of the highest scores and an
            evenly spaced selection of the others.
        cross_fitted: scores of images that the detector was trained on, each by statistics fitted without it, as they
            were given; empty if held-back images alone set the threshold.
        tail_scale, tail_count: mean and number k of the excesses over the quantile where the tail begins. The relative
            standard error of the mean is about 1 / sqrt(k).

    Example:
        >>> calibration = Calibration.from_scores(np.arange(199.0), false_alarm_rate=0.01)
        >>> calibration.threshold
        197.0
        >>> calibration.tail_probability(np.array([99.0])).tolist()
        [0.5]
    """

    false_alarm_rate: float
    threshold: float
    images: int
    scores: tuple[float, ...]
    ranks: tuple[int, ...]
    tail_scale: float
    tail_count: int
    cross_fitted: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        # Bundles store tuples as JSON lists.
        object.__setattr__(self, "scores", tuple(self.scores))
        object.__setattr__(self, "ranks", tuple(self.ranks))
        object.__setattr__(self, "cross_fitted", tuple(self.cross_fitted))

    @classmethod
    def from_scores(
        cls, scores: np.ndarray, false_alarm_rate: float = FALSE_ALARM_RATE, cross_fitted: Sequence[float] = ()
    ) -> Self:
        """Calibrate on the scores [K] of normal images, K >= 2.

        Unless these images suffice (`ENOUGH_ABOVE`), `cross_fitted` scores join them, see `aligned`. New images then
        need not be exchangeable with all of them; in theory the rate may double (CV+, Barber et al. 2021).

        Args:
            scores: of images that the detector was not trained on.
            cross_fitted: see `Calibration`.

        Raises:
            ValueError: too few scores, a score that is not finite, or a rate outside (0, 1).
        """
        scores = np.sort(np.asarray(scores, dtype=np.float64))
        if len(scores) < FEWEST_SCORES or not np.isfinite(scores).all():
            raise ValueError(f"calibration needs the finite scores of at least {FEWEST_SCORES} normal images")
        if not 0 < false_alarm_rate < 1:
            raise ValueError(f"false_alarm_rate {false_alarm_rate} must lie between 0 and 1")
        apart = () if false_alarm_rate * (len(scores) + 1) >= ENOUGH_ABOVE else tuple(cross_fitted)
        if not np.isfinite(apart).all():
            raise ValueError("a cross-fitted score is not finite")
        if apart:
            scores = np.sort(np.concatenate([scores, aligned(np.array(apart), scores)]))
        share = max(TAIL_SHARE, min(0.5, FEWEST_EXCESSES / len(scores)))
        start = float(np.quantile(scores, 1 - share))
        excess = scores[scores > start] - start
        # With equal scores there are no excesses, but the tail still needs a positive scale.
        scale = float(excess.mean()) if len(excess) else max(abs(start), 1e-6) * 1e-3
        count, n = max(1, len(excess)), len(scores)
        beyond = false_alarm_rate * (n + 1)
        if beyond < 1:
            threshold = float(scores[-1]) + scale * count * (beyond ** (-1 / count) - 1)
        else:
            threshold = float(np.interp(n + 1 - beyond, np.arange(1, n + 1), scores))
            if (scores >= threshold).sum() > beyond:
                # Tied scores would exceed the rate, so the threshold moves to the next float32, the type of scores.
                threshold = float(np.nextafter(np.float32(threshold), np.float32(np.inf)))
        spread = np.linspace(0, n - 1, min(n, KEPT_SCORES)).round().astype(int)
        kept = np.union1d(spread, np.arange(max(0, n - KEPT_SCORES), n))
        return cls(
            false_alarm_rate=false_alarm_rate,
            threshold=threshold,
            images=n,
            scores=tuple(scores[kept].tolist()),
            ranks=tuple((kept + 1).tolist()),
            tail_scale=scale,
            tail_count=count,
            cross_fitted=apart,
        )

    def tail_probability(self, scores: np.ndarray) -> np.ndarray:
        """Return the share of normal images that score at least as high as each of scores [N]; in (0, 1].

        Tail probabilities are comparable between detectors.
        """
        scores = np.asarray(scores, dtype=np.float64)
        lowest, highest, n = self.scores[0], self.scores[-1], self.images
        distinct, shares = self._steps
        body = np.where(scores <= lowest, 1.0, np.interp(scores, distinct, shares))
        excess = np.maximum(scores - highest, 0) / (self.tail_count * self.tail_scale)
        tail = (1 + excess) ** -float(self.tail_count) / (n + 1)
        return np.where(scores > highest, np.maximum(tail, np.finfo(np.float64).tiny), body)

    def threshold_at(self, rate: float) -> float:
        """Return the smallest float32, the type of scores, whose tail probability is at most a rate in (0, 1].

        Below 1 / (images + 1) it lies in the fitted tail, beyond all scores of the calibration split. If no float32 has
        so small a tail probability, the largest float32 is returned.

        Example:
            >>> Calibration.from_scores(np.arange(199.0)).threshold_at(0.01)
            197.0
        """
        # There are 2**32 float32 values, so the bisection over their places ends after 32 steps.
        high = int(np.finfo(np.float32).max.view(np.int32))
        low = -high
        while low < high:
            middle = (low + high) // 2
            if self.tail_probability(np.array([_at(middle)]))[0] <= rate:
                high = middle
            else:
                low = middle + 1
        return _at(high)

    @cached_property
    def _steps(self) -> tuple[np.ndarray, np.ndarray]:
        """The distinct scores in ascending order, and the share of normal images that score at least as high."""
        # Images that share a score are all "at least as high": the first of equal ones decides.
        distinct, first = np.unique(self.scores, return_index=True)
        return distinct, (self.images + 1 - np.array(self.ranks)[first]) / (self.images + 1)


def aligned(cross_fitted: np.ndarray, held_back: np.ndarray) -> np.ndarray:
    """Return cross-fitted scores [K], moved and stretched as far as held-back images [N] show them to be too low.

    The networks of a detector have seen the first and not the second. Afterwards neither the median of the first nor
    its distance to the 0.9 quantile is below that of held-back images by more than a standard error, unless they had to
    be stretched by more than `MOST_STRETCHED`: then nearly all of the first are equal.

    Example:
        >>> aligned(np.array([0.0, 1.0, 2.0]), 5.0 + np.arange(201) / 100).round(1).tolist()
        [5.0, 6.0, 7.0]
        >>> aligned(np.array([5.0, 6.0, 7.0]), np.array([0.0, 0.5, 1.0])).tolist()
        [5.0, 6.0, 7.0]
    """
    (median, high), (usual, beyond) = (np.quantile(scores, [0.5, 0.9]) for scores in (cross_fitted, held_back))
    of_median, of_distance = (error / len(held_back) ** 0.5 for error in ERRORS)
    distance = beyond - usual
    stretch = np.clip(distance * (1 - of_distance) / max(high - median, 1e-6), 1.0, MOST_STRETCHED)
    return max(median, usual - of_median * distance) + stretch * (cross_fitted - median)


def _at(place: int) -> float:
    """Return the float32 at a place in the ascending order of all finite ones, where 0.0 has the place 0."""
    return float(np.copysign(np.int32(abs(place)).view(np.float32), place))
