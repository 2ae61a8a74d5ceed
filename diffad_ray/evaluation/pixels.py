"""Figures over all pixels of all maps, in memory that does not grow with the number of images."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Self

import cv2
import numpy as np

from diffad_ray.evaluation.ranking import Ranking

MOST_DISTINCT = 1 << 23
"Distinct values that are told apart, 100 to 200 MB of them; a product's test maps rarely have more."
MOST_WAITING = 1 << 24
"Pixels that are sorted together; sorting at every image would sort those before it again each time."
FPR_LIMIT = 0.3
"AUPRO is the area up to here (Bergmann et al. 2021)."


class Counted(NamedTuple):
    """Distinct values, ascending, and what belongs to each."""

    values: np.ndarray
    "[K] float32"
    sums: np.ndarray
    "[C,K] float64, exact for the pixels of the largest archive"

    def cut(self, bits: int) -> Counted:
        """The same with the last bits of the values dropped."""
        # Values stay in order, so that equal ones lie side by side.
        return _put_together(_cut(self.values, bits), self.sums) if bits and len(self.values) else self


class PixelCounts:
    """How many normal and defective pixels have which value, and which share of the defective regions they cover.

    A region is an 8-connected part of a mask, as in the authors' code of MVTec AD. Each of its pixels covers 1 / area
    of it, so that the sum over all values from a threshold on, divided by the number of regions, is the per-region
    overlap there (Bergmann et al. 2021, Eq. 4): no region needs counts of its own.

    Values are kept as they are, and all figures exact, up to `MOST_DISTINCT` of them. Beyond, the last bits of their
    mantissa are dropped one by one, which makes ties of neighbours and is the same whatever the order of the maps and
    of the sums.
    """

    def __init__(self) -> None:
        self.dropped_bits = 0
        "of the 23 of a float32 mantissa; 0 means exact"
        self.regions = 0
        self._normal = Counted(np.zeros(0, np.float32), np.zeros((1, 0)))
        self._defective = Counted(np.zeros(0, np.float32), np.zeros((2, 0)))
        self._waiting_normal: list[np.ndarray] = []
        self._waiting_defective: list[tuple[np.ndarray, np.ndarray]] = []
        self._waiting = 0

    def add(self, anomaly_map: np.ndarray, mask: np.ndarray) -> None:
        """Count the pixels of a map [H,W] float32, finite, with the truth [H,W] bool."""
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
        """The counts of all maps of several."""
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
        """Probability that a defective pixel has a higher value than a normal one, ties half; None without either."""
        found = self._ranking()
        return None if found is None else float(found.auroc())

    def average_precision(self) -> float | None:
        """Average precision as the step sum over recall; None without defective or normal pixels."""
        found = self._ranking()
        return None if found is None else float(found.average_precision())

    def f1_max(self) -> float | None:
        """F1 at the threshold best for it, an oracle; None without defective or normal pixels."""
        found = self._ranking()
        return None if found is None else float(found.best_f1().f1)

    def aupro(self, limit: float = FPR_LIMIT) -> float | None:
        """Area under the per-region overlap over the false-positive rate of all normal pixels, from 0 to `limit`.

        Every distinct value is a threshold, ties are one step, and the curve is interpolated linearly at the limit, by
        which the area is divided: 1 is best, 0.15 is chance at the limit of 0.3. None without defective or normal
        pixels.
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
        """Count what waits."""
        if not self._waiting:
            return
        # Without sums to carry along, the many normal pixels need the values sorted, not their order.
        values, pixels = np.unique(_cut(np.concatenate(self._waiting_normal), self.dropped_bits), return_counts=True)
        self._normal = _joined(self._normal, Counted(values, pixels[None].astype(np.float64)))
        if self._waiting_defective:
            values, shares = (np.concatenate(parts) for parts in zip(*self._waiting_defective, strict=True))
            counted = _counted(_cut(values, self.dropped_bits), np.stack([np.ones(len(shares)), shares]))
            self._defective = _joined(self._defective, counted)
        self._waiting_normal, self._waiting_defective, self._waiting = [], [], 0
        self._coarsen()

    def _coarsen(self) -> None:
        """Drop bits while the values are too many."""
        while True:
            if len(self._normal.values) + len(self._defective.values) <= MOST_DISTINCT or self.dropped_bits == 23:
                return
            self.dropped_bits += 1
            self._normal, self._defective = self._normal.cut(self.dropped_bits), self._defective.cut(self.dropped_bits)


def _joined(*parts: Counted) -> Counted:
    """All values of parts that are counted by themselves."""
    filled = [part for part in parts if len(part.values)]
    if len(filled) < 2:
        return filled[0] if filled else parts[0]
    values, sums = (np.concatenate(arrays, axis=-1) for arrays in zip(*filled, strict=True))
    return _counted(values, sums)


def _counted(values: np.ndarray, sums: np.ndarray) -> Counted:
    """Values [N], at least one, in any order, with what belongs to each [C,N]; equal ones put together."""
    # The stable sort is the one that makes use of parts that are sorted already.
    order = np.argsort(values, kind="stable")
    return _put_together(values[order], sums[:, order])


def _put_together(values: np.ndarray, sums: np.ndarray) -> Counted:
    """Sorted values [N], at least one, with what belongs to each [C,N]; equal ones put together."""
    first = np.flatnonzero(np.append(True, values[1:] != values[:-1]))
    return Counted(values[first], np.add.reduceat(sums, first, axis=1))


def _cut(values: np.ndarray, bits: int) -> np.ndarray:
    """Values [N] float32 without the last bits of the mantissa; their order stays, and cutting in steps is the same."""
    return (values.view(np.int32) >> bits << bits).view(np.float32) if bits else values
