"""Calibration: what scores mean, learnt from normal images that the training did not see."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

TAIL_SHARE = 0.1
"Share of the normal scores, the largest, to which the tail is fitted."
KEPT_QUANTILES = 1001


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The distribution of normal scores, and the threshold that spends a false-alarm budget.

    Up to the `TAIL_SHARE` largest scores the distribution is the empirical one. Beyond, the excesses are taken as
    exponential (peaks over threshold), and the tail is what k of them predict of the next one: (1 + x / (k mean))^-k,
    heavier the fewer they are. So a budget of 1 % can be set from fewer than 100 images without overspending it much,
    and no score is given the probability 0.

    Attributes:
        false_alarm_rate: share of normal images that may be called anomalous.
        threshold: score from which an image is anomalous.
        images: number of held-back normal images.
        quantiles: equidistant quantiles of their scores, the smallest and the largest included.
        tail_start, tail_scale, tail_count: score where the tail begins, mean of the excesses, and their number.
    """

    false_alarm_rate: float
    threshold: float
    images: int
    quantiles: tuple[float, ...]
    tail_start: float
    tail_scale: float
    tail_count: int

    def __post_init__(self) -> None:
        # JSON gives a list.
        object.__setattr__(self, "quantiles", tuple(self.quantiles))

    @classmethod
    def from_scores(cls, scores: np.ndarray, false_alarm_rate: float = 0.01) -> Self:
        """Calibrate on the scores [K] of normal images, K >= 2.

        Raises:
            ValueError: too few scores, a score that is not finite, or a rate outside (0, 1).
        """
        scores = np.sort(np.asarray(scores, dtype=np.float64))
        if len(scores) < 2 or not np.isfinite(scores).all():
            raise ValueError("calibration needs the finite scores of at least 2 normal images")
        if not 0 < false_alarm_rate < 1:
            raise ValueError(f"false_alarm_rate {false_alarm_rate} must lie between 0 and 1")
        start = float(np.quantile(scores, 1 - TAIL_SHARE))
        excess = scores[scores > start] - start
        count = max(1, len(excess))
        # All scores alike: the tail still needs a scale to be a distribution.
        scale = float(excess.mean()) if len(excess) else max(abs(start), 1e-6) * 1e-3
        if false_alarm_rate < TAIL_SHARE:
            threshold = start + scale * count * ((TAIL_SHARE / false_alarm_rate) ** (1 / count) - 1)
        else:
            threshold = float(np.quantile(scores, 1 - false_alarm_rate))
        quantiles = np.quantile(scores, np.linspace(0, 1, min(len(scores), KEPT_QUANTILES)))
        return cls(
            false_alarm_rate=false_alarm_rate,
            threshold=threshold,
            images=len(scores),
            quantiles=tuple(quantiles.tolist()),
            tail_start=start,
            tail_scale=scale,
            tail_count=count,
        )

    def tail_probability(self, scores: np.ndarray) -> np.ndarray:
        """Share of normal images that score at least as high, for scores [N]; in (0, 1], comparable over detectors."""
        scores = np.asarray(scores, dtype=np.float64)
        levels = np.linspace(0, 1, len(self.quantiles))
        body = 1 - np.interp(scores, self.quantiles, levels)
        excess = np.maximum(scores - self.tail_start, 0) / (self.tail_count * self.tail_scale)
        tail = np.maximum(TAIL_SHARE * (1 + excess) ** -self.tail_count, np.finfo(np.float64).tiny)
        return np.where(scores > self.tail_start, tail, np.maximum(body, TAIL_SHARE))
