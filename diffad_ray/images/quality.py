"""Figures of an image that tell of the camera and its light, not of the part."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np


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
    """Measure an image [H,W,3], uint8 or uint16.

    Example:
        >>> quality_of(np.full((20, 20, 3), 51, np.uint8))
        Quality(brightness=0.2, contrast=0.0, sharpness=0.0)
    """
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    white = float(np.iinfo(pixels.dtype).max)
    (mean,), (deviation,) = (values.ravel()[:1] for values in cv2.meanStdDev(grey))
    _, laplacian = cv2.meanStdDev(cv2.Laplacian(grey, cv2.CV_32F))
    return Quality(float(mean) / white, float(deviation) / white, float(laplacian.ravel()[0]) / white)
