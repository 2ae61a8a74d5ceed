"""Arrays of pixels: turned upright, scaled to their full range, resized, stacked, made fit to be looked at."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from diffad_ray.images.limits import SMALLEST_SIDE, ImageError


def resized(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    """Resize [H,W] or [H,W,C] pixels, keeping the dtype: by area means where a side shrinks, else bilinear.

    Raises:
        ValueError: where the target has no pixels.
    """
    if width < 1 or height < 1:
        raise ValueError(f"cannot resize to {width} x {height}: both sides must be at least 1")
    # Two steps, as INTER_AREA takes no means at all as soon as one of the sides grows.
    old_height, old_width = pixels.shape[:2]
    shrunk = (min(width, old_width), min(height, old_height))
    if shrunk != (old_width, old_height):
        pixels = cv2.resize(pixels, shrunk, interpolation=cv2.INTER_AREA)
    if shrunk != (width, height):
        pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR)
    return pixels


def check_side(pixels: np.ndarray) -> None:
    """Refuse an image [H,W,3] in which a detector has nothing to see, however it views it.

    Raises:
        ImageError: a side is shorter than `SMALLEST_SIDE`.
    """
    height, width = pixels.shape[:2]
    if min(height, width) < SMALLEST_SIDE:
        raise ImageError("unreadable", f"{width} x {height} pixels is too small: a side needs {SMALLEST_SIDE} at least")


def network_input(pixels: np.ndarray, image_size: int) -> np.ndarray:
    """The square [S,S,3] that networks of side `image_size` see of an image [H,W,3]; its sides are stretched to fit.

    Raises:
        ImageError: the image is too small, see `check_side`.
    """
    check_side(pixels)
    return resized(pixels, image_size, image_size)


def for_display(pixels: np.ndarray, longest: int) -> np.ndarray:
    """An image [H,W,3] as a picture to look at or draw on: uint8, no side above `longest`; a copy."""
    height, width = pixels.shape[:2]
    scale = min(1.0, longest / max(height, width))
    picture = resized(pixels, max(1, round(width * scale)), max(1, round(height * scale)))
    return (picture >> 8).astype(np.uint8) if picture.dtype == np.uint16 else picture.copy()


def same_depth(images: Sequence[np.ndarray]) -> np.ndarray:
    """Stack images of equal size; 8-bit ones are widened where there is a 16-bit one."""
    if any(image.dtype == np.uint16 for image in images):
        images = [image if image.dtype == np.uint16 else image.astype(np.uint16) * 257 for image in images]
    return np.stack(images)


def full_range(values: np.ndarray, white: float, bits: int) -> np.ndarray:
    """Scale [0, white] to all of uint8 or uint16, within 1 of the exact value; a copy."""
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= white):  # not-a-number fails too
        raise ImageError("unreadable", f"holds values from {low:g} to {high:g}; only 0 to {white:g} can be shown")
    dtype = np.uint8 if bits <= 8 else np.uint16
    top = np.iinfo(dtype).max
    return values.astype(dtype) if white == top else (values.astype(np.float32) * (top / white) + 0.5).astype(dtype)


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Undo an EXIF orientation: 5 to 8 swap the sides, the others mirror them."""
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)
