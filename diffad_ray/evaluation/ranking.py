"""Exact metrics of a ranking: every distinct score is a threshold, and tied items are one step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


class BestF1(NamedTuple):
    """The largest F1 over all thresholds, an oracle: its threshold is chosen on the test labels."""

    f1: np.ndarray
    "[...]"
    threshold: np.ndarray
    "[...] the highest threshold that reaches this F1"


@dataclass(frozen=True)
class Ranking:
    """Counts of defective and normal items at each step of a falling threshold.

    The steps are the K distinct scores of defective items. Between two steps only false positives are added, so the
    steps determine the ROC, precision-recall and per-region-overlap curves. Arrays are [..., K]; leading axes, if any,
    are resamples of the same items.

    Attributes:
        thresholds: [K] float, falling.
        hits: number of defective items with exactly this score.
        before, after: numbers of normal items that score higher, and at least as high.
        normals: [...] number of all normal items, at least one.
    """

    thresholds: np.ndarray
    hits: np.ndarray
    before: np.ndarray
    after: np.ndarray
    normals: np.ndarray

    @property
    def found(self) -> np.ndarray:
        """[..., K] number of defective items that score at least as high."""
        return np.cumsum(self.hits, axis=-1)

    def auroc(self) -> np.ndarray:
        """Return [...], the area under the ROC curve, ties half."""
        return self.area(self.hits / self.hits.sum(axis=-1, keepdims=True))

    def average_precision(self) -> np.ndarray:
        """Return [...], the average precision as scikit-learn defines it: a step sum of precision over recall."""
        found = self.found
        calls = np.maximum(found + self.after, 1)  # a resample may have no call at the highest steps
        return (self.hits * found / calls).sum(axis=-1) / found[..., -1]

    def best_f1(self) -> BestF1:
        """Return the largest F1 over all thresholds."""
        found = self.found
        f1 = 2 * found / (found + self.after + found[..., -1:])
        best = f1.argmax(axis=-1)
        return BestF1(np.take_along_axis(f1, best[..., None], axis=-1)[..., 0], self.thresholds[best])

    def area(self, gains: np.ndarray, limit: float = 1.0) -> np.ndarray:
        """Return [...], the area under a curve over the false-positive rate up to `limit`, divided by `limit`.

        Args:
            gains: [..., K] rise of the curve at each step; the rise is linear over tied normal items.
            limit: largest false-positive rate, in (0, 1].
        """
        normals = np.asarray(self.normals)[..., None]
        start, end = self.before / normals, self.after / normals
        first, last = np.minimum(start, limit), np.minimum(end, limit)
        ramp = (last - first) ** 2 / np.maximum(2 * (end - start), np.finfo(np.float64).tiny)
        return (gains * (ramp + limit - last)).sum(axis=-1) / limit


def ranking(scores: np.ndarray, labels: np.ndarray) -> Ranking | None:
    """Rank items [N] with finite scores; `labels` are true for defective items. None without either kind."""
    if not labels.any() or labels.all():
        return None
    thresholds, hits = np.unique(scores[labels], return_counts=True)
    normals = np.sort(scores[~labels])
    below, upto = (np.searchsorted(normals, thresholds, side) for side in ("left", "right"))
    count = len(normals)
    return Ranking(thresholds[::-1], hits[::-1], (count - upto)[::-1], (count - below)[::-1], np.array(count))
