"""Reads JPEGs strictly: libjpeg's warnings, and some damage that libjpeg does not notice, are errors.

A JPEG has no checksum. Damage is detected by libjpeg's warnings, runs of zeros, and missing scans. Some bytes changed
or lost within a coding unit (8 x 8 to 16 x 16 pixels) leave all of these as they are, though they may shift the
brightness of all that follows: they can't be detected. `benchmarks/results/damage.md` has their share.
"""

from __future__ import annotations

import re
import struct
from io import BytesIO
from typing import NamedTuple

import numpy as np
import simplejpeg
from PIL.JpegImagePlugin import JpegImageFile

from diffad_ray.images.limits import ImageError, check_size, unsupported
from diffad_ray.images.samples import Samples, Stored, exif_orientation

# Encoders write about ten scans. Each scan is a pass over the whole image, so thousands would take too long.
_MAX_SCANS = 100
# Excludes stuffed zeros, restart markers and fill bytes.
_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
# APP0 (JFIF) and APP14 (Adobe) define the colour transform; the other APPs and COM do not affect pixels.
_METADATA = {*range(0xE1, 0xEE), 0xEF, 0xFE}
_SCAN, _END, _TABLES = 0xDA, 0xD9, 0xC4
_FRAMES = {
    0xC3: "a lossless JPEG",
    0xC5: "a hierarchical JPEG",
    0xC6: "a hierarchical JPEG",
    0xC7: "a hierarchical JPEG",
    0xCB: "a lossless JPEG",
    0xCD: "a hierarchical JPEG",
    0xCE: "a hierarchical JPEG",
    0xCF: "a hierarchical JPEG",
    0xF7: "a JPEG-LS",
}
"Kinds of frames that libjpeg does not read."
_SEQUENTIAL, _PROGRESSIVE, _HUFFMAN = {0xC0, 0xC1, 0xC9}, {0xC2, 0xCA}, {0xC0, 0xC1, 0xC2}
REDUCTIONS = (8, 4, 2)
"Numbers by which the sides of a JPEG may be divided in decoding; libjpeg has fast code for these."
_ZEROS = bytes(8)
"A lost disk block reads as zeros. Zeros decode without error, with most tables to blocks that no encoder writes."
_REFINING_ZEROS = 256
"Largest run of zero bytes in a refinement scan of AC coefficients; encoders write no more than 125."


class _Frame(NamedTuple):
    marker: int
    precision: int
    height: int
    width: int
    components: tuple[int, ...]


class Jpeg(NamedTuple):
    """A JPEG without its metadata, split at its scans."""

    frame: _Frame
    heads: list[bytes]
    "tables and headers before each scan"
    scans: list[bytes]
    "scans with their headers"
    exif: bytes

    @property
    def data(self) -> bytes:
        pairs = (part for pair in zip(self.heads, self.scans, strict=True) for part in pair)
        return b"".join([*pairs, b"\xff\xd9"])


def read_jpeg(data: bytes, max_pixels: int, least_side: int | None = None) -> Stored:
    """Read a JPEG of 8 bits.

    Args:
        least_side: allows a decoding at 1/2, 1/4 or 1/8 of the size: the smallest one whose sides have so many pixels.
            libjpeg then computes fewer pixels of each block, and still reads every coefficient.

    Raises:
        ImageError: the JPEG is damaged, truncated, too large, or of a kind that libjpeg does not read.
    """
    jpeg = walk(data)
    check_size(jpeg.frame.width, jpeg.frame.height, max_pixels)
    channels = {1: "grey", 3: "RGB", 4: "CMYK"}.get(len(jpeg.frame.components))
    if channels is None:
        raise unsupported(f"a JPEG of {len(jpeg.frame.components)} channels")
    values = pixels_of(jpeg, _reduction(jpeg.frame, least_side))
    whole = jpeg.frame.height, jpeg.frame.width
    return Stored(values, Samples(8, channels, 255), exif_orientation(jpeg.exif), whole=whole)


def _reduction(frame: _Frame, least_side: int | None) -> int:
    """Return the number by which the sides of a JPEG are divided when it is decoded."""
    # Inks are converted by Pillow, from the whole image.
    if least_side is None or len(frame.components) > 3:
        return 1
    return next((by for by in REDUCTIONS if min(frame.height, frame.width) // by >= least_side), 1)


def walk(data: bytes) -> Jpeg:
    """Split a JPEG into headers and scans, up to its end marker.

    Raises:
        ImageError: the JPEG is truncated, lacks scans, or is of a kind that libjpeg does not read.
    """
    frame, exif = None, b""
    heads: list[bytes] = []
    scans: list[bytes] = []
    parts, start, in_scan = [data[:2]], 2, False
    while True:
        found = _MARKER.search(data, start)
        marker = data[found.end() - 1] if found else 0
        if in_scan and found:
            # Bytes 0xFF before a marker are fill bytes, and not part of the scan.
            scans.append(b"".join(parts) + data[start : found.start()].rstrip(b"\xff"))
            parts, start, in_scan = [], found.start(), False
        if found and marker == _END:
            break
        end = found.end() + int.from_bytes(data[found.end() : found.end() + 2], "big") if found else len(data)
        if not found or end + 2 > len(data):
            raise ImageError("unreadable", f"cut off: the JPEG ends after {len(data)} bytes, before its end marker")
        if end < found.end() + 2 or marker in (0x01, 0xD8):
            raise ImageError("unreadable", f"damaged JPEG: no valid segment at byte {found.start()}")
        body = data[found.end() + 2 : end]
        if marker in _FRAMES:
            raise unsupported(_FRAMES[marker])
        if marker in _SEQUENTIAL | _PROGRESSIVE:
            frame = _frame(marker, body)
        if marker == _SCAN:
            heads.append(b"".join(parts))
            parts, in_scan = [], True
        if len(heads) > _MAX_SCANS:
            raise ImageError("unreadable", f"a JPEG of more than {_MAX_SCANS} scans")
        if marker == 0xE1 and body.startswith(b"Exif\0"):
            exif = exif or body
        if marker not in _METADATA:
            parts.append(data[found.start() : end])
        start = end
    if frame is None or not scans:
        raise ImageError("unreadable", "damaged JPEG: it has no picture")
    _check_complete(frame, scans)
    return Jpeg(frame, heads, scans, exif)


def _frame(marker: int, body: bytes) -> _Frame:
    try:
        precision, height, width, count = struct.unpack_from(">BHHB", body)
        components = tuple(body[6 + 3 * k] for k in range(count))
    except (struct.error, IndexError):
        raise ImageError("unreadable", "damaged JPEG: its frame header is too short") from None
    if precision != 8:
        raise unsupported(f"a {precision}-bit JPEG")
    return _Frame(marker, precision, height, width, components)


def _check_complete(frame: _Frame, scans: list[bytes]) -> None:
    """Raise ImageError unless the scans contain all bits of every coefficient of every component."""
    is_progressive = frame.marker in _PROGRESSIVE
    left = {component: [1] * 64 if is_progressive else [1] for component in frame.components}
    "by component: the number of bits still missing per coefficient, or one number for all coefficients"
    for scan in scans:
        count = scan[4]
        if len(scan) < 8 + 2 * count:
            raise ImageError("unreadable", "damaged JPEG: a scan header is too short")
        first, last, bits = scan[5 + 2 * count : 8 + 2 * count] if is_progressive else (0, 0, 0)
        for component in scan[5 : 5 + 2 * count : 2]:
            if component in left:
                left[component][first : last + 1] = [bits & 15] * (min(last, 63) + 1 - first)
    if any(map(any, left.values())):
        raise ImageError("unreadable", "cut off: the JPEG lacks some of its scans")


def pixels_of(jpeg: Jpeg, reduction: int = 1) -> np.ndarray:
    """Decode to [H,W] grey or [H,W,3] RGB, uint8; H and W are those of the image divided by `reduction`, rounded up.

    Raises:
        ImageError: libjpeg warns, or a scan has a run of zeros that no encoder writes.
    """
    try:
        values = _decoded(jpeg, reduction)
    except ValueError as error:
        # Some cameras pad scans to a whole number of words.
        padded = [scan.rstrip(b"\0\xff") for scan in jpeg.scans]
        if "extraneous bytes" not in str(error) or padded == jpeg.scans:
            raise _damaged(str(error)) from None
        jpeg = jpeg._replace(scans=padded)
        try:
            values = _decoded(jpeg, reduction)
        except ValueError as still:
            raise _damaged(str(still)) from None
    if jpeg.frame.marker in _HUFFMAN:
        _check_zeros(jpeg)
    return values


def _decoded(jpeg: Jpeg, reduction: int) -> np.ndarray:
    """Decode by libjpeg; raises ValueError for its errors and warnings."""
    data = jpeg.data
    sides = {} if reduction == 1 else {"min_height": jpeg.frame.height, "min_width": jpeg.frame.width}
    sides = {name: -(-length // reduction) for name, length in sides.items()}
    if len(jpeg.frame.components) == 1:
        return simplejpeg.decode_jpeg(data, "GRAY", **sides)[..., 0]
    if len(jpeg.frame.components) == 3:
        return simplejpeg.decode_jpeg(data, "RGB", **sides)
    simplejpeg.decode_jpeg(data, "CMYK")
    return _without_black(data)


def _without_black(data: bytes) -> np.ndarray:
    """Convert a CMYK JPEG to RGB by Pillow, which knows which files store inverted inks."""
    return np.array(JpegImageFile(BytesIO(data)).convert("RGB"))


def _damaged(reason: str) -> ImageError:
    return ImageError("unreadable", f"damaged JPEG: {reason.removeprefix('Corrupt JPEG data: ')}")


def _check_zeros(jpeg: Jpeg) -> None:
    """Raise ImageError if a scan has a run of zeros that no encoder writes."""
    for number, scan in enumerate(jpeg.scans):
        start = scan.find(_ZEROS, 8 + 2 * scan[4])
        if start < 0:
            continue
        zeros = len(scan) - start - len(scan[start:].lstrip(b"\0"))
        if _is_hole(jpeg, number, zeros):
            raise _damaged(f"its scan holds a hole of {zeros} zeros")


def _is_hole(jpeg: Jpeg, number: int, zeros: int) -> bool:
    """Return whether a run of `zeros` zero bytes in a scan can't encode a flat area."""
    scan = jpeg.scans[number]
    tables = scan[6 : 6 + 2 * scan[4] : 2]
    symbols = _symbols_of_zeros(b"".join(jpeg.heads[: number + 1]))
    # In a flat area, each block has a DC difference of 0 and no AC coefficients.
    is_same_mean = all(symbols.get(table >> 4) == 0 for table in tables)
    if jpeg.frame.marker in _SEQUENTIAL:
        return not (is_same_mean and all(symbols.get(16 + (table & 15)) == 0 for table in tables))
    first, _, bits = scan[5 + 2 * scan[4] : 8 + 2 * scan[4]]
    if bits >> 4:
        # Refinement scans may have runs of zeros: limited ones for AC coefficients, unlimited ones for DC.
        return first > 0 and zeros > _REFINING_ZEROS
    return first > 0 or not is_same_mean


def _symbols_of_zeros(heads: bytes) -> dict[int, int]:
    """Return the symbol of the all-zeros Huffman code by table: DC tables are 0 to 3, AC tables start at 16."""
    shortest: dict[int, int] = {}
    for found in re.finditer(rb"\xff\xc4", heads):
        place = found.end() + 2
        end = found.end() + int.from_bytes(heads[found.end() : place], "big")
        while place + 17 < end:
            # The first symbol of a table has the all-zeros code.
            shortest[heads[place]] = heads[place + 17]
            place += 17 + sum(heads[place + 1 : place + 17])
    return shortest
