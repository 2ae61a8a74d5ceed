"""Tiles: where they lie on an image, and how the maps of all of them become one without seams."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import count

import numpy as np

MOST_MAP_PIXELS = 4_000_000
"A larger map is reduced before it leaves the detector."


@dataclass(frozen=True)
class Grid:
    """Square tiles that cover an image [height,width], row by row; in pixels.

    Attributes:
        tile: side of a tile. An image with a shorter side is continued to the right or downwards, see `padded`.
        overlap: share of its side, in [0, 1), that a tile has in common with the next one, or more.
    """

    height: int
    width: int
    tile: int
    overlap: float

    @cached_property
    def rows(self) -> tuple[int, ...]:
        return tile_starts(self.height, self.tile, self.overlap)

    @cached_property
    def columns(self) -> tuple[int, ...]:
        return tile_starts(self.width, self.tile, self.overlap)

    @cached_property
    def factor(self) -> int:
        """Smallest whole number that reduces a map to 4 megapixels, or to those of one tile where they are more."""
        most = max(MOST_MAP_PIXELS, self.tile**2)
        return next(factor for factor in count(1) if -(-self.height // factor) * -(-self.width // factor) <= most)

    @property
    def map_size(self) -> tuple[int, int]:
        """Height and width of the reduced map."""
        return -(-self.height // self.factor), -(-self.width // self.factor)

    def cut(self, pixels: np.ndarray) -> list[np.ndarray]:
        """The tiles [S,S,...] of [height,width,...], as views where the image needs no padding."""
        pixels = padded(pixels, self.tile)
        return [pixels[y : y + self.tile, x : x + self.tile] for y in self.rows for x in self.columns]


def tile_starts(length: int, tile: int, overlap: float) -> tuple[int, ...]:
    """First pixels of tiles along a side, evenly spread; the first tile begins with it and the last ends with it."""
    if length <= tile:
        return (0,)
    stride = max(1, int(tile * (1 - overlap)))
    steps = -(-(length - tile) // stride)
    return tuple(step * (length - tile) // steps for step in range(steps + 1))


def padded(pixels: np.ndarray, tile: int) -> np.ndarray:
    """Pixels [H,W,...] continued by their mirror image, to the right and downwards, to a tile at least."""
    missing = [max(0, tile - side) for side in pixels.shape[:2]]
    if not any(missing):
        return pixels
    return np.pad(pixels, [(0, missing[0]), (0, missing[1])] + [(0, 0)] * (pixels.ndim - 2), mode="reflect")


@lru_cache(maxsize=64)
def blending_weights(starts: tuple[int, ...], tile: int) -> np.ndarray:
    """Weights [N,S] float32 of N tiles along a side: above 0, smooth, and 1 in sum at every pixel.

    A tile fades in and out as a squared sine, so that it has next to no say at its border. Weights of an image are the
    products of those along its sides. Kept, since the images of a camera have one size.
    """
    window = np.sin(np.pi * (np.arange(tile) + 0.5) / tile) ** 2
    total = np.zeros(starts[-1] + tile)
    for start in starts:
        total[start : start + tile] += window
    weights = np.stack([window / total[start : start + tile] for start in starts]).astype(np.float32)
    weights.setflags(write=False)
    return weights


def block_maximum(values: np.ndarray, factor: int) -> np.ndarray:
    """The largest of each block of factor x factor in [H,W,...]; blocks at the far borders may be smaller."""
    return _over_blocks(np.maximum, values, factor)


def block_mean(values: np.ndarray, factor: int) -> np.ndarray:
    """The mean of each block of factor x factor in [H,W,...]; blocks at the far borders may be smaller."""
    pixels = _over_blocks(np.add, np.ones(values.shape[:2], np.float32), factor)
    return _over_blocks(np.add, values, factor) / pixels.reshape(*pixels.shape, *(1 for _ in values.shape[2:]))


def _over_blocks(ufunc: np.ufunc, values: np.ndarray, factor: int) -> np.ndarray:
    if factor == 1:
        return values
    for axis in (0, 1):
        values = ufunc.reduceat(values, np.arange(0, values.shape[axis], factor), axis=axis)
    return values


class Blend:
    """One map of an image from the maps of its tiles, which are added in the order of the grid.

    Rows of tiles are blended in a band as high as a tile, and what no later tile reaches is reduced and put away, so
    that the largest image takes no more memory than that band and its reduced map.

    Args:
        grid: the tiles, and the factor by which the map is reduced.
        reduce: from values [h,w,...] and the factor to [h/factor,w/factor,...].
        channels: shape of a pixel: () for a map, (3,) for a picture.
    """

    def __init__(
        self,
        grid: Grid,
        reduce: Callable[[np.ndarray, int], np.ndarray] = block_maximum,
        channels: tuple[int, ...] = (),
    ):
        self.grid, self.reduce, self.channels = grid, reduce, channels
        self.row_weights = blending_weights(grid.rows, grid.tile)
        self.column_weights = blending_weights(grid.columns, grid.tile)
        # Blocks begin at whole multiples of the factor, so some finished rows may have to wait.
        self.band = np.zeros((grid.tile + grid.factor - 1, grid.columns[-1] + grid.tile, *channels), np.float32)
        self.top = 0
        self.added = 0
        self.finished: list[np.ndarray] = []

    def add(self, values: np.ndarray) -> None:
        """Take the next tile's values [S,S,...]."""
        row, column = divmod(self.added, len(self.grid.columns))
        if column == 0:
            self._put_away((self.grid.rows[row] - self.top) // self.grid.factor * self.grid.factor)
        weights = self.row_weights[row][:, None] * self.column_weights[column]
        y, x, tile = self.grid.rows[row] - self.top, self.grid.columns[column], self.grid.tile
        weighted = values * weights.reshape(tile, tile, *(1 for _ in self.channels))
        self.band[y : y + tile, x : x + tile] += weighted
        self.added += 1

    def _put_away(self, rows: int) -> None:
        if rows == 0:
            return
        self.finished.append(self.reduce(self.band[:rows, : self.grid.width], self.grid.factor))
        self.band = np.concatenate([self.band[rows:], np.zeros_like(self.band[:rows])])
        self.top += rows

    def result(self) -> np.ndarray:
        """The map float32 [*grid.map_size,...], once all tiles were added; padding is cut off."""
        self._put_away(self.grid.height - self.top)
        return np.concatenate(self.finished)
