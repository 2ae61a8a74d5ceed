"""Figures of an image that tell of the camera and its light, not of the part."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

MEASURED_PIXELS = 2**16
"An image with more pixels is measured on bands of its rows, which have about so many pixels together."
BAND, FEWEST_BANDS = 8, 8
"""Rows of a band, and number of bands of the widest images. The Laplacian needs neighbours, so the rows of a band
follow each other."""


class Quality(NamedTuple):
    """Figures of the grey values of an image, which are 0 for black and 1 for white.

    Attributes:
        brightness: their mean.
        contrast: their standard deviation.
        sharpness: the standard deviation of their Laplacian; it falls with blur, and rises with noise.
    """

    brightness: float
    contrast: float
    sharpness: float


def quality_of(pixels: np.ndarray) -> Quality:
    """Measure an image [H,W,3], uint8 or uint16; a large one on evenly spaced bands of its rows.

    The bands keep the cost far below that of decoding. Their pixels keep their resolution, because a
    smaller copy of the image would hide blur.

    Example:
        >>> quality_of(np.full((20, 20, 3), 51, np.uint8))
        Quality(brightness=0.2, contrast=0.0, sharpness=0.0)
    """
    white = float(np.iinfo(pixels.dtype).max)
    height, width = pixels.shape[:2]
    bands = max(FEWEST_BANDS, MEASURED_PIXELS // (BAND * width))
    if bands * BAND >= height:
        grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
        laplacian = cv2.Laplacian(grey, cv2.CV_32F)
    else:
        starts = np.linspace(0, height - BAND, bands + 2).round().astype(int)[1:-1]
        rows = pixels[(starts[:, np.newaxis] + np.arange(BAND)).ravel()]
        grey = cv2.cvtColor(rows, cv2.COLOR_RGB2GRAY)
        # The first and the last row of a band have neighbours of another band.
        inner = cv2.Laplacian(grey, cv2.CV_32F).reshape(bands, BAND, width)[:, 1:-1]
        laplacian = np.ascontiguousarray(inner).reshape(-1, width)
    (brightness, contrast), (_, sharpness) = _mean_and_deviation(grey), _mean_and_deviation(laplacian)
    return Quality(brightness / white, contrast / white, sharpness / white)


def _mean_and_deviation(values: np.ndarray) -> tuple[float, float]:
    mean, deviation = cv2.meanStdDev(values)
    return float(mean[0, 0]), float(deviation[0, 0])
