"""Places of the image at which regions recur since some day, such as the mark of a tool or dirt on a lens.

Places are relative to the image, so that images of different sizes are counted together: x and y are in [0, 1].
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

GRID = 24
"Cells in each direction."
WINDOW = 2
"A place is a window of so many cells in each direction. Windows overlap, so that no mark is cut by their borders."
FEWEST, SMALLEST_RATIO, SIGNIFICANT = 5, 3.0, 1e-3
"""A recurring place has so many images since it began, a rate that rose by this factor, and so small a p-value after
Bonferroni's correction for all places and days that were compared."""


class RecurringPlace(NamedTuple):
    """A place at which regions recur.

    Attributes:
        x, y: its centre, in [0, 1].
        first: number of the first day.
        now, earlier: images with a region at the place, since that day and before.
        p: the p-value of this place and day, before correction.
    """

    x: float
    y: float
    first: int
    now: int
    earlier: int
    p: float


def recurring_places(
    images: np.ndarray, cells: np.ndarray, first_days: Iterable[int]
) -> tuple[list[RecurringPlace], int]:
    """Return the places at which regions recur since some day, and did not before.

    For each place and day, images with a region at the place since that day are compared with those before it. The rate
    per image must have risen, and also the share of all regions that lie at the place, so that a rise of defects
    everywhere is not taken for many marks.

    Args:
        images: [D], images of each day.
        cells: [D, GRID, GRID], images of each day with a region in a cell, rows from the top.
        first_days: numbers of the days since which regions may recur.

    Returns:
        The places, each with its best first day, and the number of comparisons, by which p is to be multiplied.

    Example:
        >>> cells = np.zeros((8, GRID, GRID), int)
        >>> cells[5:, 12, 6] = 9
        >>> (found,), comparisons = recurring_places(np.full(8, 100), cells, range(3, 8))
        >>> round(found.x, 2), found.first, found.now, found.p * comparisons < SIGNIFICANT
        (0.25, 5, 27, True)
    """
    side = GRID - WINDOW + 1
    windows = sum(
        (cells[:, dy : dy + side, dx : dx + side] for dy in range(WINDOW) for dx in range(WINDOW)),
        np.zeros((len(images), side, side), np.int64),
    )
    best, first, comparisons = np.zeros((side, side)), np.zeros((side, side), int), 0
    for start in first_days:
        of, earlier_of = images[start:].sum(), images[:start].sum()
        if not of or not earlier_of:
            continue
        count, earlier = windows[start:].sum(axis=0), windows[:start].sum(axis=0)
        comparisons += int((count >= FEWEST).sum())
        of_images = log_binomial_tail(count, count + earlier, of / (of + earlier_of))
        expected = (earlier + 1) / (cells[:start].sum() + (GRID / WINDOW) ** 2)
        of_regions = log_binomial_tail(count, cells[start:].sum(), np.minimum(expected, 0.5))
        rose = (count >= FEWEST) & (count / of >= SMALLEST_RATIO * earlier / earlier_of)
        bound = np.where(rose, np.maximum(of_images, of_regions), 0.0)
        first = np.where(bound < best, start, first)
        best = np.minimum(bound, best)
    found: list[RecurringPlace] = []
    while best.min() < math.log(SIGNIFICANT):
        row, column = divmod(int(best.argmin()), side)
        start = int(first[row, column])
        now, earlier = windows[start:, row, column].sum(), windows[:start, row, column].sum()
        x, y = float(column + WINDOW / 2) / GRID, float(row + WINDOW / 2) / GRID
        found.append(RecurringPlace(x, y, start, int(now), int(earlier), math.exp(best[row, column])))
        best[max(0, row - WINDOW) : row + WINDOW + 1, max(0, column - WINDOW) : column + WINDOW + 1] = 0.0
    return found, comparisons


def log_binomial_tail(count: np.ndarray, of: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Return an upper bound of the logarithm of the probability of at least `count` of `of` where `share` is expected.

    This is Chernoff's bound, exp(-n KL(count / n, share)), which holds for any n; 0 where no more than expected were
    counted. The arrays are broadcast against each other; shares lie in (0, 1).
    """
    of = np.maximum(of, 1)
    observed = np.clip(count / of, 0, 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        over = np.where(observed > 0, observed * np.log(observed / share), 0.0)
        under = np.where(observed < 1, (1 - observed) * np.log((1 - observed) / (1 - share)), 0.0)
    bound: np.ndarray = np.where(observed > share, -of * (over + under), 0.0)
    return bound


def cell(position: str) -> str:
    """Return SQL of the cell in which a position in [0, 1] lies, along one direction."""
    return f"greatest(0, least({GRID - 1}, floor({GRID} * ({position}))))::INT"
