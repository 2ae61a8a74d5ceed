"""Operations on pixel arrays: orientation, scaling to full range, resizing, stacking, conversion for display."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from diffad_ray.images.limits import SMALLEST_SIDE, ImageError


def resized(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    """Resize [H,W] or [H,W,C] pixels and keep the dtype: by area means where a side shrinks, else bilinearly.

    Raises:
        ValueError: the target has no pixels.
    """
    if width < 1 or height < 1:
        raise ValueError(f"cannot resize to {width} x {height}: both sides must be at least 1")
    # Two steps, because INTER_AREA computes no means if one of the sides grows.
    old_height, old_width = pixels.shape[:2]
    shrunk = (min(width, old_width), min(height, old_height))
    if shrunk != (old_width, old_height):
        pixels = cv2.resize(pixels, shrunk, interpolation=cv2.INTER_AREA)
    if shrunk != (width, height):
        pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR)
    return pixels


def check_side(pixels: np.ndarray) -> None:
    """Raise ImageError if a side of an image [H,W,3] is shorter than `SMALLEST_SIDE`."""
    height, width = pixels.shape[:2]
    if min(height, width) < SMALLEST_SIDE:
        raise ImageError("unreadable", f"{width} x {height} pixels is too small: a side needs {SMALLEST_SIDE} at least")


def network_input(pixels: np.ndarray, image_size: int) -> np.ndarray:
    """Stretch an image [H,W,3] to the square network input [S,S,3], S = `image_size`.

    Raises:
        ImageError: the image is too small, see `check_side`.
    """
    check_side(pixels)
    return resized(pixels, image_size, image_size)


def for_display(pixels: np.ndarray, longest: int) -> np.ndarray:
    """Return a uint8 copy of an image [H,W,3] for display, with no side above `longest`.

    16-bit images are scaled by the power of two that brings their maximum into the upper half of the range, because
    files of 10- or 12-bit cameras would look nearly black.
    """
    height, width = pixels.shape[:2]
    scale = min(1.0, longest / max(height, width))
    picture = resized(pixels, max(1, round(width * scale)), max(1, round(height * scale)))
    if picture.dtype != np.uint16:
        return picture.copy()
    return (picture >> max(0, int(picture.max()).bit_length() - 8)).astype(np.uint8)


def same_depth(images: Sequence[np.ndarray]) -> np.ndarray:
    """Stack images of equal size; if one of them has 16 bits, 8-bit ones are converted to 16."""
    if any(image.dtype == np.uint16 for image in images):
        images = [image if image.dtype == np.uint16 else image.astype(np.uint16) * 257 for image in images]
    return np.stack(images)


ROUNDING = 2**-9
"Tolerance of floats outside of [0, white], as a share of white: half a level of 8 bits."


def full_range(values: np.ndarray, white: float, bits: int) -> np.ndarray:
    """Scale [0, white] to the full range of uint8 (up to 8 bits) or uint16, within 1 of the exact value.

    The result is writable; writable values that need no scaling are not copied.

    Raises:
        ImageError: values lie outside of [0, white], or different values would all become one level.
    """
    dtype = np.uint8 if bits <= 8 else np.uint16
    top = np.iinfo(dtype).max
    if values.dtype.kind == "u" and white == top and values.dtype.itemsize == np.dtype(dtype).itemsize:
        return values.astype(dtype, copy=not values.flags.writeable)
    low, high = float(values.min()), float(values.max())
    allowed = ROUNDING * white if values.dtype.kind == "f" else 0
    if not (low >= -allowed and high <= white + allowed):  # NaN fails, too
        raise ImageError("unreadable", f"holds values from {low:g} to {high:g}; only 0 to {white:g} can be shown")
    if white == top:
        scaled = values.astype(dtype)
    else:
        scaled = (values.astype(np.float32) * (top / white) + 0.5).clip(0, top).astype(dtype)
    if low < high and scaled.min() == scaled.max():
        raise ImageError("unreadable", f"holds values from {low:g} to {high:g}, which are one level of 0 to {white:g}")
    return scaled


def is_transposed(orientation: int) -> bool:
    """Whether an EXIF orientation swaps the axes."""
    return orientation >= 5


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Undo an EXIF orientation, 1 to 8: 5 to 8 swap the axes; all but 1 and 5 mirror one or both."""
    if is_transposed(orientation):
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)
