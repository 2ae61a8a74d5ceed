"""Walks over the parts of image files, before any decoder sees them.

JPEG and PNG are cut down to what the pixels need: the walk finds truncation, which OpenCV would fill with grey, and
leaves broken or bloated metadata out, so that it can't spoil a readable image. Of the others, it reads sizes that
Pillow would look at too late.
"""

from __future__ import annotations

import re
import struct
import zlib

from diffad_ray.images.limits import ImageError

# Real encoders write about ten; each one is a pass over the whole image, so thousands of them would be a hang.
_MAX_JPEG_SCANS = 100
# Not a stuffed zero, a restart or a fill byte.
_JPEG_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
# APP0 (JFIF) and APP14 (Adobe) say how the colours are coded; the other APPs and COM do not change pixels.
_JPEG_METADATA = {*range(0xE1, 0xEE), 0xEF, 0xFE}


def png_essentials(data: bytes) -> tuple[bytes, bytes]:
    """The chunks of a PNG that make its pixels, checked, and its EXIF."""
    parts, exif, start, name = [data[:8]], b"", 8, b""
    while name != b"IEND":
        if start + 12 > len(data):
            raise ImageError("unreadable", f"cut off: the PNG ends after {len(data)} bytes, before its end chunk")
        length, name = struct.unpack_from(">I4s", data, start)
        end = start + 12 + length
        if end > len(data):
            raise ImageError("unreadable", f"cut off: the PNG has {len(data)} bytes, chunk {name!r} needs {end}")
        is_critical = not name[0] & 0x20
        if is_critical or name == b"eXIf":
            is_whole = zlib.crc32(data[start + 4 : end - 4]).to_bytes(4, "big") == data[end - 4 : end]
            is_known = name == b"IHDR" if start == 8 else name in (b"PLTE", b"IDAT", b"IEND")
            if is_critical and not (is_whole and is_known):
                reason = "unexpected" if is_whole else "wrong checksum in"
                raise ImageError("unreadable", f"damaged PNG: {reason} chunk {name!r}")
            if is_critical:
                parts.append(data[start:end])
            elif is_whole:
                exif = data[start + 8 : end - 4]
        start = end
    return b"".join(parts), exif


def jpeg_essentials(data: bytes) -> tuple[bytes, bytes]:
    """The segments of a JPEG that make its pixels, up to its end marker, and its EXIF."""
    parts, exif, start, scans = [data[:2]], b"", 2, 0
    while True:
        found = _JPEG_MARKER.search(data, start)
        marker = data[found.end() - 1] if found else 0
        if found and marker == 0xD9:
            parts.append(data[start : found.end()])
            return b"".join(parts), exif
        end = found.end() + int.from_bytes(data[found.end() : found.end() + 2], "big") if found else len(data)
        if not found or end + 2 > len(data):
            raise ImageError("unreadable", f"cut off: the JPEG ends after {len(data)} bytes, before its end marker")
        if end < found.end() + 2 or marker in (0x01, 0xD8):
            raise ImageError("unreadable", f"damaged JPEG: no valid segment at byte {found.start()}")
        scans += marker == 0xDA
        if scans > _MAX_JPEG_SCANS:
            raise ImageError("unreadable", f"a JPEG of more than {_MAX_JPEG_SCANS} scans")
        if marker == 0xE1 and data.startswith(b"Exif\0", found.end() + 2):
            exif = exif or data[found.end() + 2 : end]
        parts.append(data[start : found.start() if marker in _JPEG_METADATA else end])
        start = end


def webp_size(data: bytes) -> tuple[int, int]:
    """Width and height of a WebP, from its first chunk (RFC 9649)."""
    if data[12:16] == b"VP8X":
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    if data[12:16] == b"VP8L":
        packed = int.from_bytes(data[21:25], "little")
        return (packed & 0x3FFF) + 1, (packed >> 14 & 0x3FFF) + 1
    return int.from_bytes(data[26:28], "little") & 0x3FFF, int.from_bytes(data[28:30], "little") & 0x3FFF


def jpeg2000_size(data: bytes) -> tuple[int, int, int]:
    """Width, height and bits a channel of a JPEG 2000, from the SIZ segment of its codestream."""
    start = data.find(b"\xff\x4f\xff\x51")
    if start < 0:
        raise ImageError("unreadable", "a JPEG 2000 file without a picture in it")
    right, bottom, left, top, depth = struct.unpack_from(">4I18xB", data, start + 8)
    return right - left, bottom - top, (depth & 0x7F) + 1


def exif_orientation(exif: bytes) -> int:
    """The EXIF orientation, 1 (upright) to 8; 1 where there is none or the EXIF is damaged."""
    exif = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    try:
        (offset,) = struct.unpack_from(f"{order}I", exif, 4) if order else (len(exif),)
        (count,) = struct.unpack_from(f"{order}H", exif, offset) if order else (0,)
        for entry in range(count):
            tag, _, _, value = struct.unpack_from(f"{order}HHIH", exif, offset + 2 + 12 * entry)
            if tag == 0x0112:
                return value if 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1
