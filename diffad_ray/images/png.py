"""Reads PNGs; checks the checksums of all critical chunks, and that no row is missing."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO
from typing import NamedTuple

import cv2
import numpy as np
from PIL.PngImagePlugin import PngImageFile

from diffad_ray.images.limits import ImageError, check_size
from diffad_ray.images.samples import Samples, Stored, exif_orientation

_CHANNELS = {0: ("grey", 1), 2: ("RGB", 3), 3: ("palette", 1), 4: ("grey+alpha", 2), 6: ("RGBA", 4)}
"Name and number of channels by colour type."
_PASSES = (0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)
"Passes of an interlaced PNG: left, top, horizontal and vertical step."
_STEP = 2**20


class _Png(NamedTuple):
    data: bytes
    "the signature and the critical chunks"
    exif: bytes
    frames: int

    @property
    def header(self) -> tuple[int, int, int, int, int]:
        """Width, height, bit depth, colour type, and interlace method."""
        width, height, depth, colour, _, _, interlaced = struct.unpack_from(">IIBBBBB", self.data, 16)
        return width, height, depth, colour, interlaced


def read_png(data: bytes, max_pixels: int) -> Stored:
    """Read a PNG.

    Raises:
        ImageError: the PNG is damaged, truncated or too large.
    """
    png = _walk(data)
    width, height, depth, colour, _ = png.header
    check_size(width, height, max_pixels)
    if colour not in _CHANNELS or depth not in (1, 2, 4, 8, 16):
        raise ImageError("unreadable", f"damaged PNG: depth {depth} and colour type {colour} do not exist")
    name, _ = _CHANNELS[colour]
    samples = Samples(depth, name, 2**depth - 1)
    if depth == 16:
        values = _opencv(png, cv2.IMREAD_UNCHANGED, np.uint16)
    elif depth == 8 and name in ("grey", "RGB"):
        values = _opencv(png, cv2.IMREAD_COLOR_RGB if name == "RGB" else cv2.IMREAD_GRAYSCALE, np.uint8)
    else:
        values, samples = _pillow(png), samples._replace(white=255)
    note = f"frame 1 of {png.frames}" if png.frames > 1 else ""
    return Stored(values, samples, exif_orientation(png.exif), note)


def _walk(data: bytes) -> _Png:
    """Check and collect the critical chunks of a PNG, its EXIF and number of frames; drop other metadata."""
    parts, exif, frames, start, name = [data[:8]], b"", 1, 8, b""
    while name != b"IEND":
        if start + 12 > len(data):
            raise ImageError("unreadable", f"cut off: the PNG ends after {len(data)} bytes, before its end chunk")
        length, name = struct.unpack_from(">I4s", data, start)
        end = start + 12 + length
        if end > len(data):
            raise ImageError("unreadable", f"cut off: the PNG has {len(data)} bytes, chunk {name!r} needs {end}")
        is_critical = not name[0] & 0x20
        if is_critical or name in (b"eXIf", b"acTL"):
            is_whole = zlib.crc32(data[start + 4 : end - 4]).to_bytes(4, "big") == data[end - 4 : end]
            is_known = name == b"IHDR" and length == 13 if start == 8 else name in (b"PLTE", b"IDAT", b"IEND")
            if is_critical and not (is_whole and is_known):
                reason = "unexpected" if is_whole else "wrong checksum in"
                raise ImageError("unreadable", f"damaged PNG: {reason} chunk {name!r}")
            if is_critical:
                parts.append(data[start:end])
            elif is_whole and name == b"eXIf":
                exif = data[start + 8 : end - 4]
            elif is_whole and length == 8:
                frames = int.from_bytes(data[start + 8 : start + 12], "big")
        start = end
    return _Png(b"".join(parts), exif, frames)


def _opencv(png: _Png, flags: int, dtype: type[np.generic]) -> np.ndarray:
    """Decode to [H,W] or [H,W,3] by OpenCV, which is the fastest reader and keeps 16-bit colours."""
    values = cv2.imdecode(np.frombuffer(png.data, np.uint8), flags)
    width, height, *_ = png.header
    if values is None or values.shape[1::-1] != (width, height) or values.dtype != dtype:
        _check_rows(png)
        raise ImageError("unreadable", "damaged PNG: its rows can't be unpacked")
    _check_last_rows(png, values)
    if values.ndim == 3 and flags == cv2.IMREAD_UNCHANGED:
        values = cv2.cvtColor(values, cv2.COLOR_BGRA2RGB if values.shape[2] == 4 else cv2.COLOR_BGR2RGB)
        values = values[..., 0] if png.header[3] == 4 else values
    return values


def _pillow(png: _Png) -> np.ndarray:
    """Decode to [H,W,3] uint8 by Pillow, for palettes, transparency and fewer than 8 bits."""
    image = PngImageFile(BytesIO(png.data))
    image.load()
    _check_last_rows(png, np.asarray(image))
    return np.array(image.convert("RGB"))


def _check_last_rows(png: _Png, values: np.ndarray) -> None:
    """Raise ImageError if rows of a decoded PNG are missing.

    The libraries accept a truncated stream and leave missing rows black. So the stream is unpacked a second time, to
    count its bytes, only if the last row is black or the PNG is interlaced.
    """
    if png.header[4] or not values[-1].any():
        _check_rows(png)


def _check_rows(png: _Png) -> None:
    """Unpack the stream of a PNG in small steps, and count its bytes.

    Raises:
        ImageError: the stream is shorter than the rows, or can't be unpacked.
    """
    width, height, depth, colour, interlaced = png.header
    sides = [(width, height)]
    if interlaced:
        sides = [(-(-(width - x) // right), -(-(height - y) // down)) for x, y, right, down in _PASSES]
    bits = depth * _CHANNELS[colour][1]
    needed = sum(rows * (1 + -(-columns * bits // 8)) for columns, rows in sides if columns > 0 and rows > 0)
    unpacked, stream = 0, zlib.decompressobj()
    try:
        for packed in _stream(png.data):
            while packed and unpacked < needed:
                unpacked += len(stream.decompress(packed, _STEP))
                packed = stream.unconsumed_tail
    except zlib.error as error:
        raise ImageError("unreadable", f"damaged PNG: {error}") from None
    if unpacked < needed:
        raise ImageError("unreadable", f"truncated: the rows of the PNG need {needed} bytes, it holds {unpacked}")


def _stream(data: bytes) -> list[bytes]:
    """Return the bodies of a PNG's IDAT chunks."""
    bodies, start = [], 8
    while start + 12 <= len(data):
        length, name = struct.unpack_from(">I4s", data, start)
        if name == b"IDAT":
            bodies.append(data[start + 8 : start + 8 + length])
        start += 12 + length
    return bodies
