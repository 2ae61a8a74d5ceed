"""Decodes the bytes of an image file to RGB pixels in full range.

Colours are used as stored, without colour profiles. Transparency is ignored, because compositing onto a background
would add edges that the camera never saw.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from diffad_ray.images.jpeg import read_jpeg
from diffad_ray.images.limits import DEFAULT_MAX_PIXELS, ImageError
from diffad_ray.images.pixels import full_range, is_transposed, upright
from diffad_ray.images.samples import Samples, Stored
from diffad_ray.images.signatures import reader_of

_CONTAINER_BITS = 32
"Integers with this many bits or more don't define white; the data type is only a container."


class Decoding(NamedTuple):
    """How images are decoded for a detector.

    Attributes:
        white: the value of white in files with more than 8 bits, such as 4095 where a camera's 12 bits are stored in
            16. None takes the largest value of the file's type. Files of 8 bits and less ignore it.
        least_side: JPEGs may be decoded at 1/2, 1/4 or 1/8 of their size, as long as both sides keep so many pixels.
            None decodes all images in full.
    """

    white: int | None = None
    least_side: int | None = None


IN_FULL = Decoding()


class DecodedImage(NamedTuple):
    """The decoded image of a file, rotated by its EXIF orientation."""

    pixels: np.ndarray
    "[H,W,3] RGB in full range from black to white: uint8, or uint16 for files with more than 8 bits per channel"
    mode: str
    'depth and channels as found in the file, such as "16-bit grey", "8-bit RGBA", "float grey, page 1 of 2"'
    width: int
    height: int
    "of the image in the file, upright; `pixels` are fewer where a JPEG was decoded at a reduced size"


def decode_image(
    data: bytes, max_pixels: int = DEFAULT_MAX_PIXELS, white: int | None = None, least_side: int | None = None
) -> DecodedImage:
    """Decode an image file; the result owns its memory and is writable.

    Args:
        data: bytes of the file.
        max_pixels: largest number of pixels.
        white, least_side: see `Decoding`.

    Raises:
        ImageError: "too_large" for more than `max_pixels` pixels or too little memory, checked before decoding
            wherever the header tells; "unreadable" for every other file that is not a complete image, or that has
            values beyond white.

    Example:
        >>> from pathlib import Path
        >>> decode_image(Path("part.png").read_bytes()).mode  # doctest: +SKIP
        '8-bit RGB'
    """
    return shown(read_stored(data, max_pixels, least_side), white)


def shown(stored: Stored, white: int | None = None) -> DecodedImage:
    """Convert stored samples to pixels in full range; see `decode_image`."""
    pixels = _in_full_range(stored.values, stored.samples, white)
    if stored.samples.is_white_zero:
        pixels = np.iinfo(pixels.dtype).max - pixels
    if pixels.ndim == 2:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB)
    mode = f"{stored.samples.mode}, {stored.note}" if stored.note else stored.samples.mode
    height, width = stored.whole or pixels.shape[:2]
    if is_transposed(stored.orientation):
        height, width = width, height
    return DecodedImage(upright(pixels, stored.orientation), mode, width, height)


def read_stored(data: bytes, max_pixels: int = DEFAULT_MAX_PIXELS, least_side: int | None = None) -> Stored:
    """Read the samples of an image file without scaling.

    Args:
        least_side: see `Decoding`.

    Raises:
        ImageError: as in `decode_image`, except for values beyond white.
    """
    try:
        reader = reader_of(data)
        return read_jpeg(data, max_pixels, least_side) if reader is read_jpeg else reader(data, max_pixels)
    except ImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError("too_large", str(error)) from error
    except Exception as error:  # Pillow's readers raise nearly every built-in exception on hostile bytes
        if _lacks_memory(error):
            raise ImageError("too_large", "not enough memory to decode it") from error
        raise ImageError("unreadable", f"damaged image file ({type(error).__name__}: {error})") from error


def _lacks_memory(error: Exception) -> bool:
    """Return whether an error of one of the libraries means too little memory."""
    if isinstance(error, cv2.error):
        return error.code == cv2.Error.StsNoMem
    return isinstance(error, MemoryError) or "out of memory" in str(error)


def _in_full_range(values: np.ndarray, samples: Samples, white: int | None) -> np.ndarray:
    """Scale stored values so that white is the largest number of uint8 or uint16."""
    if samples.is_float:
        # In floats from 0 to 1, white is 1; larger floats are counts of a camera.
        top = 1 if white is None or not values.size or values.max() <= 1 else white
        return full_range(values, top, 16)
    if samples.bits > 8 and white is not None:
        white = min(white, samples.white)
        if (highest := int(values.max())) > white:
            raise ImageError(
                "unreadable",
                f"holds values up to {highest}, and white is {white} for this detector: it was trained on images of "
                "fewer bits (`[images] white` of its settings)",
            )
        return full_range(values, white, samples.bits)
    if samples.bits >= _CONTAINER_BITS:
        low, high = int(values.min()), int(values.max())
        raise ImageError(
            "unreadable",
            f"holds {samples.bits}-bit integers from {low} to {high}, and nothing says which value is white: train "
            "the detector with `[images] white`, such as 4095 for a camera of 12 bits",
        )
    return full_range(values, samples.white, samples.bits if samples.white != 255 else 8)
