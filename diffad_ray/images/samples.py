"""Samples of an image as stored in its file, before they are scaled to full range."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np


class Samples(NamedTuple):
    """A file's declaration of its samples."""

    bits: int
    "bits per sample, as declared by the file"
    channels: str
    'such as "grey", "RGB", "RGBA", "palette"'
    white: int
    "largest possible value of a sample; 1 for floats"
    is_float: bool = False
    is_white_zero: bool = False
    "whether 0 is white and the largest value black"

    @property
    def mode(self) -> str:
        return f"{'float' if self.is_float else f'{self.bits}-bit'} {self.channels}"


class Stored(NamedTuple):
    """The samples of a file as stored."""

    values: np.ndarray
    "[H,W] grey or [H,W,3] RGB"
    samples: Samples
    orientation: int = 1
    "orientation of EXIF and TIFF, 1 (upright) to 8"
    note: str = ""
    'note on omitted pages or frames, such as "page 1 of 2"'
    whole: tuple[int, int] | None = None
    "H and W of the image in the file, where `values` are reduced"


USUAL_BITS = (8, 10, 12, 14, 16, 20, 24, 32)
"Usual bit depths of cameras and converters."


def usual_white(images: Iterable[Stored]) -> int | None:
    """Estimate white of images with more than 8 bits: the maximum of the smallest usual depth that holds all values.

    Returns:
        The value of white, or None if no image has more than 8 bits, or the estimate is what the files declare.

    Example:
        >>> dark = Stored(np.array([[17, 3000]], np.uint16), Samples(16, "grey", 65535))
        >>> usual_white([dark])
        4095
    """
    highest, declared = 0.0, 0
    for image in images:
        top = float(image.values.max())
        if image.samples.is_float and not top > 1:
            continue  # also if NaN
        if image.samples.bits > 8:
            highest, declared = max(highest, top), max(declared, image.samples.white)
    white = next((2**bits - 1 for bits in USUAL_BITS if highest < 2**bits), None)
    is_said = declared == white and declared < 2**32 - 1
    return None if not declared or is_said else white


def exif_orientation(exif: bytes) -> int:
    """Return the EXIF orientation, 1 (upright) to 8; 1 if it is missing or damaged."""
    exif = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    try:
        (offset,) = struct.unpack_from(f"{order}I", exif, 4) if order else (len(exif),)
        (count,) = struct.unpack_from(f"{order}H", exif, offset) if order else (0,)
        for entry in range(count):
            tag, kind = struct.unpack_from(f"{order}HH", exif, offset + 2 + 12 * entry)
            if tag == 0x0112:
                (value,) = struct.unpack_from(f"{order}{'I' if kind == 4 else 'H'}", exif, offset + 10 + 12 * entry)
                return value if 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1
