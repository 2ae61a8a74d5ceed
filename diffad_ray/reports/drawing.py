"""Anomaly maps as colours, and masks as outlines."""

from __future__ import annotations

import cv2
import matplotlib
import numpy as np

from diffad_ray.images import resized
from diffad_ray.inference.tiling import block_maximum
from diffad_ray.inference.verdict import Verdict

TRUTH, FOUND = (40, 200, 80), (255, 45, 45)
"Colours of outlines: what is defective by the labels, and what a detector marks."
HEAT = "inferno"


def heat(anomaly_map: np.ndarray, threshold: float) -> np.ndarray:
    """An anomaly map [H,W] as colours [H,W,3] uint8, from dark to bright; scores may be any real numbers.

    Colours are linear in the values: the lowest value of the map has the first colour. The threshold has the colour in
    the middle, unless the highest value lies farther above it than the lowest lies below it: then the highest value has
    the last colour, and the threshold a darker one. Where all values reach the threshold, they share the upper half.
    """
    low, high = float(anomaly_map.min()), float(anomaly_map.max())
    if low >= threshold:
        low = 2 * threshold - high
    top = max(high, 2 * threshold - low)
    # A map whose values are all the threshold has no span; it has the colour in the middle.
    shares = (anomaly_map - low) / (top - low) if top > low else np.full(anomaly_map.shape, 0.5)
    # From floats, 1.0 is the last colour; NumPy's float16 of a network would be coarser than the colour map.
    return matplotlib.colormaps[HEAT](shares.astype(np.float64), bytes=True)[..., :3]


def outlined(picture: np.ndarray, mask: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """A copy of a picture [H,W,3] uint8 with the outlines of a mask [H,W], those of its holes among them."""
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(picture.copy(), outlines, -1, colour, max(1, max(picture.shape) // 160))


def marked_by(found: Verdict, picture: np.ndarray) -> np.ndarray:
    """A copy of the picture [h,w,3] of an image with the outlines of what its verdict marks."""
    if found.mask is None or not found.is_anomalous:
        return picture.copy()
    height, width = picture.shape[:2]
    # A region that is narrower than a pixel of the picture must not be lost.
    ys, xs = np.nonzero(found.mask)
    mask = np.zeros((height, width), dtype=bool)
    mask[ys * height // found.mask.shape[0], xs * width // found.mask.shape[1]] = True
    if width > found.mask.shape[1] or height > found.mask.shape[0]:
        mask = resized(found.mask.astype(np.uint8), width, height) > 0
    return outlined(picture, mask, FOUND)


def at_picture_size(anomaly_map: np.ndarray, width: int, height: int) -> np.ndarray:
    """An anomaly map [h,w] at the size of a picture, which may be much smaller: the maximum of what a pixel covers."""
    shrink = max(1, min(anomaly_map.shape[0] // height, anomaly_map.shape[1] // width))
    reduced = block_maximum(anomaly_map, shrink).astype(np.float32)
    return cv2.resize(reduced, (width, height), interpolation=cv2.INTER_LINEAR)
