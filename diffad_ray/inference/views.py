"""How a detector views an image, stretched to one square or cut into tiles, and what becomes of the findings."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from diffad_ray.detectors.base import DetectorSettings
from diffad_ray.images import Decoding, check_side, network_input, resized
from diffad_ray.inference.tiling import Blend, Grid, block_maximum, block_mean


class ImageDetection(NamedTuple):
    """What a detector says of an image."""

    score: float
    "how anomalous the image is; the largest score of its tiles"
    anomaly_map: np.ndarray
    "[h,w] float32, in the unit of `score`; covers the whole image"
    reconstruction: np.ndarray | None
    """[h,w,3] float32, the image without its anomaly, in [0,1] up to rounding; None where it was not asked for, or the
    detector imagines nothing"""


SPARE = 2
"Times the network's side that a JPEG which is decoded at a reduced size keeps, so that area means smooth the rest."


def decoding_of(settings: DetectorSettings) -> Decoding:
    """Return how images are decoded for a detector: scoring, training and serving must do it alike.

    Example:
        >>> from diffad_ray.detectors.diffusion_ad import DiffusionADSettings
        >>> decoding_of(DiffusionADSettings(image_size=128, reduced_jpeg=True))
        Decoding(white=None, least_side=256)
    """
    return Decoding(settings.white, SPARE * settings.image_size if settings.reduced_jpeg else None)


def grid_of(height: int, width: int, settings: DetectorSettings) -> Grid:
    """The squares in which a detector views an image of height x width pixels; `whole` is a grid of one.

    Its `map_size` is that of the anomaly map.
    """
    side = settings.image_size
    if settings.view == "whole":
        return Grid(side, side, side, 0.0)
    height, width = (max(1, round(length * settings.tile_scale)) for length in (height, width))
    return Grid(height, width, side, settings.tile_overlap)


def pieces(pixels: np.ndarray, settings: DetectorSettings) -> list[np.ndarray]:
    """The squares [S,S,3] that the networks see of an image [H,W,3]: itself stretched, or its tiles row by row.

    Raises:
        ImageError: the image is too small, see `images.check_side`.
    """
    if settings.view == "whole":
        return [network_input(pixels, settings.image_size)]
    check_side(pixels)
    grid = grid_of(pixels.shape[0], pixels.shape[1], settings)
    return grid.cut(resized(pixels, grid.width, grid.height))


class Assembly:
    """The detection of one image, put together from those of its pieces.

    The score is the largest one, so that a defect doesn't drown in a large image. Map and reconstruction are blended at
    the scale of the tiles. Beyond 4 megapixels the grid's factor reduces both: the map by the maximum of a block, so
    that an anomaly keeps its peak, the reconstruction by the mean.
    """

    def __init__(self, grid: Grid, with_reconstruction: bool):
        self.missing = len(grid.rows) * len(grid.columns)
        self.score = -np.inf
        self.anomaly_map = Blend(grid, block_maximum)
        self.reconstruction = Blend(grid, block_mean, (3,)) if with_reconstruction else None

    def add(self, score: float, anomaly_map: np.ndarray, reconstruction: np.ndarray | None) -> ImageDetection | None:
        """Take the next piece's score, map [S,S] and reconstruction [S,S,3]; the last one completes the detection."""
        self.missing -= 1
        self.score = max(self.score, float(score))
        self.anomaly_map.add(anomaly_map)
        if reconstruction is None:
            self.reconstruction = None
        elif self.reconstruction is not None:
            self.reconstruction.add(reconstruction)
        if self.missing:
            return None
        restored = None if self.reconstruction is None else self.reconstruction.result()
        return ImageDetection(self.score, self.anomaly_map.result(), restored)
