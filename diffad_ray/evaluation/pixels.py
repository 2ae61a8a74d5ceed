"""Figures over all pixels of all maps, in memory that does not grow with the number of images."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self

import numpy as np

KEPT_BITS = 18
"Bits of the mantissa that tell two values apart, a step of 0.0004 %; float32 has 23."
MOST_UNMERGED = 4_000_000


class PixelCounts:
    """How many normal and anomalous pixels have which value.

    Values are rounded to `KEPT_BITS`, so that those of any number of pixels are few; ties are all that this changes.
    """

    def __init__(self) -> None:
        self.values: list[np.ndarray] = []
        "parts [K] float32; a value may be in several"
        self.counts: list[np.ndarray] = []
        "parts [2,K] int64: normal and anomalous pixels of each value"

    def add(self, anomaly_map: np.ndarray, mask: np.ndarray) -> None:
        """Count the pixels of a map [H,W] float32 with the truth [H,W] bool."""
        for label in (False, True):
            values, pixels = np.unique(_rounded(anomaly_map[mask == label]), return_counts=True)
            counts = np.zeros((2, len(values)), np.int64)
            counts[int(label)] = pixels
            self.values.append(values)
            self.counts.append(counts)
        # The first part is what was merged before; merging at every image would sort it again each time.
        if sum(map(len, self.values[1:])) > MOST_UNMERGED:
            self._merge()

    @classmethod
    def sum(cls, several: Iterable[PixelCounts]) -> Self:
        total = cls()
        for one in several:
            total.values += one.values
            total.counts += one.counts
        return total

    def auroc(self) -> float | None:
        """Probability that an anomalous pixel has a higher value than a normal one, ties half; None without either."""
        normal, anomalous = self._merge()
        if not normal.any() or not anomalous.any():
            return None
        below = np.cumsum(normal) - normal / 2
        return float((anomalous / anomalous.sum()) @ (below / normal.sum()))

    def average_precision(self) -> float | None:
        """Average precision as the step sum over recall; None where nothing is anomalous."""
        normal, anomalous = self._merge()[:, ::-1]
        if not anomalous.any():
            return None
        hits = np.cumsum(anomalous)
        return float((anomalous / hits[-1]) @ (hits / (hits + np.cumsum(normal))))

    def _merge(self) -> np.ndarray:
        """Make one part of all, values ascending, and return its counts [2,K]."""
        if not self.values:
            return np.zeros((2, 0), np.int64)
        if len(self.values) > 1:
            values, places = np.unique(np.concatenate(self.values), return_inverse=True)
            # Weights are float64, exact for the pixels of the largest archive.
            counts = [np.bincount(places, row, len(values)) for row in np.concatenate(self.counts, axis=1)]
            self.values, self.counts = [values], [np.stack(counts).astype(np.int64)]
        return self.counts[0]


def _rounded(values: np.ndarray) -> np.ndarray:
    dropped = 23 - KEPT_BITS
    # A float's bits, read as a whole number, grow with its size, so that rounding them rounds it.
    bits = values.astype(np.float32).view(np.int32) + (1 << (dropped - 1))
    return (bits >> dropped << dropped).view(np.float32)
