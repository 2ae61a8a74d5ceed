"""Metrics over all pixels of all maps, in memory that does not grow with the number of images."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Self

import cv2
import numpy as np

from diffad_ray.evaluation.ranking import Ranking

MOST_DISTINCT = 1 << 23
"Largest number of distinct values kept, 100 to 200 MB; the test maps of a product rarely have more."
MOST_WAITING = 1 << 24
"Number of pixels that are merged at once; a merge per image would sort earlier pixels again each time."
FPR_LIMIT = 0.3
"Upper limit of the false-positive rate in AUPRO (Bergmann et al. 2021)."


class Counted(NamedTuple):
    """Distinct values, ascending, and C sums of weights for each."""

    values: np.ndarray
    "[K] float32"
    sums: np.ndarray
    "[C,K] float64, which count the pixels of the largest archive exactly"

    def cut(self, bits: int) -> Counted:
        """Return the counts with the last `bits` mantissa bits of the values dropped."""
        # Dropping bits keeps the order, so equal values are adjacent.
        return _put_together(_cut(self.values, bits), self.sums) if bits and len(self.values) else self


class PixelCounts:
    """Counts of normal and defective pixels per map value, with the defective pixels' shares of their regions.

    A region is an 8-connected component of a mask, as in the code of the authors of MVTec AD. Each pixel covers
    1 / area of its region. The sum of these shares over all values >= a threshold, divided by the number of regions, is
    the per-region overlap at this threshold (Bergmann et al. 2021, Eq. 4), so no counts per region are needed.

    Up to `MOST_DISTINCT` distinct values are kept, and metrics are exact. Beyond, the last mantissa bits of the values
    are dropped one by one, which ties adjacent values; the result does not depend on the order of maps or sums.
    """

    def __init__(self) -> None:
        self.dropped_bits = 0
        "dropped bits of the 23 of a float32 mantissa; 0 means exact"
        self.regions = 0
        self._normal = Counted(np.zeros(0, np.float32), np.zeros((1, 0)))
        self._defective = Counted(np.zeros(0, np.float32), np.zeros((2, 0)))
        self._waiting_normal: list[np.ndarray] = []
        self._waiting_defective: list[tuple[np.ndarray, np.ndarray]] = []
        self._waiting = 0

    def add(self, anomaly_map: np.ndarray, mask: np.ndarray) -> None:
        """Add the pixels of an anomaly map [H,W] float32, finite, with its mask [H,W] bool."""
        if not np.isfinite(anomaly_map).all():
            raise ValueError("the anomaly map holds values that are not finite")
        anomaly_map = anomaly_map.astype(np.float32, copy=False)
        self._waiting_normal.append(anomaly_map[~mask])
        if mask.any():
            count, regions, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
            share = 1 / np.maximum(stats[:, cv2.CC_STAT_AREA], 1)  # the background may have no pixel
            self._waiting_defective.append((anomaly_map[mask], share[regions[mask]]))
            self.regions += count - 1  # without the background
        self._waiting += mask.size
        if self._waiting > MOST_WAITING:
            self._merge()

    @classmethod
    def sum(cls, several: Iterable[PixelCounts]) -> Self:
        """Return the sum of several counts."""
        total, parts = cls(), list(several)
        for one in parts:
            one._merge()
        bits = total.dropped_bits = max((one.dropped_bits for one in parts), default=0)
        for one in parts:
            total.regions += one.regions
            total._normal = _joined(total._normal, one._normal.cut(bits))
            total._defective = _joined(total._defective, one._defective.cut(bits))
        total._coarsen()
        return total

    def auroc(self) -> float | None:
        """Return the area under the ROC curve; None without defective or without normal pixels."""
        found = self._ranking()
        return None if found is None else float(found.auroc())

    def average_precision(self) -> float | None:
        """Return the average precision, a step sum over recall; None without defective or without normal pixels."""
        found = self._ranking()
        return None if found is None else float(found.average_precision())

    def f1_max(self) -> float | None:
        """Return the largest F1 over all thresholds, an oracle; None without defective or without normal pixels."""
        found = self._ranking()
        return None if found is None else float(found.best_f1().f1)

    def aupro(self, limit: float = FPR_LIMIT) -> float | None:
        """Return AUPRO: the area under per-region overlap over the false-positive rate, from 0 to `limit`, / `limit`.

        Every distinct value is a threshold, tied pixels are one step, and the curve is linearly interpolated at the
        limit. 1 is best; chance is 0.15 at the limit 0.3. None without defective or without normal pixels.
        """
        found = self._ranking()
        return None if found is None else float(found.area(self._defective.sums[1, ::-1] / self.regions, limit))

    def _ranking(self) -> Ranking | None:
        self._merge()
        normal, thresholds = np.append(0, np.cumsum(self._normal.sums[0])), self._defective.values
        if not len(thresholds) or not normal[-1]:
            return None
        below, upto = (normal[np.searchsorted(self._normal.values, thresholds, side)] for side in ("left", "right"))
        count, hits = normal[-1], self._defective.sums[0]
        return Ranking(thresholds[::-1], hits[::-1], (count - upto)[::-1], (count - below)[::-1], count)

    def _merge(self) -> None:
        """Merge the waiting pixels into the counts."""
        if not self._waiting:
            return
        # Normal pixels all have weight 1, so sorting their values suffices; no sort order must be applied to weights.
        values, pixels = np.unique(_cut(np.concatenate(self._waiting_normal), self.dropped_bits), return_counts=True)
        self._normal = _joined(self._normal, Counted(values, pixels[None].astype(np.float64)))
        if self._waiting_defective:
            values, shares = (np.concatenate(parts) for parts in zip(*self._waiting_defective, strict=True))
            counted = _counted(_cut(values, self.dropped_bits), np.stack([np.ones(len(shares)), shares]))
            self._defective = _joined(self._defective, counted)
        self._waiting_normal, self._waiting_defective, self._waiting = [], [], 0
        self._coarsen()

    def _coarsen(self) -> None:
        """Drop mantissa bits until there are at most `MOST_DISTINCT` values."""
        while True:
            if len(self._normal.values) + len(self._defective.values) <= MOST_DISTINCT or self.dropped_bits == 23:
                return
            self.dropped_bits += 1
            self._normal, self._defective = self._normal.cut(self.dropped_bits), self._defective.cut(self.dropped_bits)


def _joined(*parts: Counted) -> Counted:
    """Merge separate counts into one."""
    filled = [part for part in parts if len(part.values)]
    if len(filled) < 2:
        return filled[0] if filled else parts[0]
    values, sums = (np.concatenate(arrays, axis=-1) for arrays in zip(*filled, strict=True))
    return _counted(values, sums)


def _counted(values: np.ndarray, sums: np.ndarray) -> Counted:
    """Count unsorted values [N], N >= 1, with weights [C,N]: sum the weights of equal values."""
    # A stable sort is faster on parts that are sorted already.
    order = np.argsort(values, kind="stable")
    return _put_together(values[order], sums[:, order])


def _put_together(values: np.ndarray, sums: np.ndarray) -> Counted:
    """Count sorted values [N], N >= 1, with weights [C,N]: sum the weights of equal values."""
    first = np.flatnonzero(np.append(True, values[1:] != values[:-1]))
    return Counted(values[first], np.add.reduceat(sums, first, axis=1))


def _cut(values: np.ndarray, bits: int) -> np.ndarray:
    """Clear the last `bits` mantissa bits of values [N] float32; this keeps the order, and may be done in steps."""
    return (values.view(np.int32) >> bits << bits).view(np.float32) if bits else values
