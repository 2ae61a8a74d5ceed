"""Figures of a ranking, exact: every distinct score is a threshold, and tied items are passed in one step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


class BestF1(NamedTuple):
    """The largest F1 that any threshold reaches: an oracle, for it is chosen on the labels that judge it."""

    f1: np.ndarray
    "[...]"
    threshold: np.ndarray
    "[...] the highest one that reaches it"


@dataclass(frozen=True)
class Ranking:
    """Defective and normal items in the order of their scores, as the steps of a falling threshold.

    A step is a distinct score that defective items have. Between two steps only false alarms come, so K steps hold all
    of the ROC, the precision-recall and the per-region-overlap curve. Arrays are [..., K]: the leading axes, if any,
    are resamples of the same items.

    Attributes:
        thresholds: [K] float, falling.
        hits: defective items of that very score.
        before, after: normal items that score higher, and those that score at least as high.
        normals: [...] all normal items, at least one.
    """

    thresholds: np.ndarray
    hits: np.ndarray
    before: np.ndarray
    after: np.ndarray
    normals: np.ndarray

    @property
    def found(self) -> np.ndarray:
        """[..., K] defective items that score at least as high."""
        return np.cumsum(self.hits, axis=-1)

    def auroc(self) -> np.ndarray:
        """[...] area under the ROC curve: the probability that a defective item outranks a normal one, ties half."""
        return self.area(self.hits / self.hits.sum(axis=-1, keepdims=True))

    def average_precision(self) -> np.ndarray:
        """[...] the step sum of precision over recall, as scikit-learn has it, not the trapezoid."""
        found = self.found
        calls = np.maximum(found + self.after, 1)  # a resample may have none at the highest steps
        return (self.hits * found / calls).sum(axis=-1) / found[..., -1]

    def best_f1(self) -> BestF1:
        """F1 at its best threshold."""
        found = self.found
        f1 = 2 * found / (found + self.after + found[..., -1:])
        best = f1.argmax(axis=-1)
        return BestF1(np.take_along_axis(f1, best[..., None], axis=-1)[..., 0], self.thresholds[best])

    def area(self, gains: np.ndarray, limit: float = 1.0) -> np.ndarray:
        """[...] area under a curve over the false-positive rate, up to `limit` and as a share of it.

        Args:
            gains: [..., K] by how much the curve rises at each step; in a straight line while tied normal items come.
        """
        normals = np.asarray(self.normals)[..., None]
        start, end = self.before / normals, self.after / normals
        first, last = np.minimum(start, limit), np.minimum(end, limit)
        ramp = (last - first) ** 2 / np.maximum(2 * (end - start), np.finfo(np.float64).tiny)
        return (gains * (ramp + limit - last)).sum(axis=-1) / limit


def ranking(scores: np.ndarray, labels: np.ndarray) -> Ranking | None:
    """The ranking of items [N] with finite scores; `labels` are true for defective ones. None without either kind."""
    if not labels.any() or labels.all():
        return None
    thresholds, hits = np.unique(scores[labels], return_counts=True)
    normals = np.sort(scores[~labels])
    below, upto = (np.searchsorted(normals, thresholds, side) for side in ("left", "right"))
    count = len(normals)
    return Ranking(thresholds[::-1], hits[::-1], (count - upto)[::-1], (count - below)[::-1], np.array(count))
