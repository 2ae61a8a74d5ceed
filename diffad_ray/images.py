"""From the bytes of an image file to RGB pixels, or to the reason why there are none.

Archives hold whatever was dropped into them, so nothing here trusts a file: its size is read before anything is
decoded, and every failure becomes an `ImageError` that says what was found. No global state is read or changed, so
many threads may decode at once.

OpenCV decodes what archives are made of (8-bit JPEG and PNG) because it is faster, and 16-bit colour because Pillow
drops the low byte; Pillow reads all headers, decodes the rest and knows the reasons. JPEG and PNG are first cut down to
what the pixels need: the walk over their segments finds truncation, which OpenCV would fill with grey, and leaves
broken or bloated metadata out, so that it can't spoil a readable image.

Two choices: colours are taken as stored, without applying colour profiles, and transparency is ignored, because
compositing onto any background would put edges into the image that the camera never saw.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable, Sequence
from io import BytesIO
from typing import Literal, NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

DEFAULT_MAX_PIXELS = 100_000_000
SMALLEST_SIDE = 16
"An image with a shorter side, in pixels, is not scored: it shows nothing, and is mostly a thumbnail or a mistake."

IMAGE_SUFFIXES: frozenset[str] = frozenset(
    {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".dib", ".tif", ".tiff", ".webp", ".gif"}
    | {".pbm", ".pgm", ".ppm", ".pnm", ".jp2", ".j2k"}
)

# The classes are called directly, not through Image.open, which would try every format Pillow has (EPS starts
# Ghostscript) and warn about sizes on its own terms.
_FORMATS: list[tuple[re.Pattern[bytes], Callable[[BytesIO], ImageFile.ImageFile]]] = [
    (re.compile(rb"\xff\xd8\xff"), JpegImageFile),
    (re.compile(rb"\x89PNG\r\n\x1a\n"), PngImageFile),
    (re.compile(rb"II[*+]\0|MM\0[*+]"), TiffImageFile),
    (re.compile(rb"BM"), BmpImageFile),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), WebPImageFile),
    (re.compile(rb"GIF8[79]a"), GifImageFile),
    (re.compile(rb"P[1-6]\s"), PpmImageFile),
    (re.compile(rb"\xff\x4f\xff\x51|\0\0\0\x0cjP  \r\n\x87\n"), Jpeg2KImageFile),
]
_CHANNELS = {"P": "palette", "PA": "palette", "CMYK": "CMYK", "YCbCr": "YCbCr", "LAB": "LAB"}
_PNG_CHANNELS = {0: "grey", 2: "RGB", 3: "palette", 4: "grey+alpha", 6: "RGBA"}
_CHANNELS |= {"LA": "grey+alpha", "La": "grey+alpha", "RGB": "RGB", "RGBA": "RGBA", "RGBX": "RGB", "RGBa": "RGBA"}

# Real encoders write about ten; each one is a pass over the whole image, so thousands of them would be a hang.
_MAX_JPEG_SCANS = 100
# Not a stuffed zero, a restart or a fill byte.
_JPEG_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
# APP0 (JFIF) and APP14 (Adobe) say how the colours are coded; the other APPs and COM do not change pixels.
_JPEG_METADATA = {*range(0xE1, 0xEE), 0xEF, 0xFE}


_SUFFIXES = tuple(IMAGE_SUFFIXES)


def is_named_image(location: str) -> bool:
    """Whether a file's name ends as an image's does."""
    return location.lower().endswith(_SUFFIXES)


class ImageError(Exception):
    """A file that gives no pixels; the message says why in the user's words."""

    status: Literal["unreadable", "too_large"]

    def __init__(self, status: Literal["unreadable", "too_large"], message: str) -> None:
        super().__init__(status, message)  # both, so that it survives pickling between processes
        self.status = status

    def __str__(self) -> str:
        return str(self.args[1])


class DecodedImage(NamedTuple):
    """The first picture of a file, turned upright as its EXIF orientation says."""

    pixels: np.ndarray
    "[H,W,3] RGB, uint8, or uint16 where the file has more than 8 bits a channel; full range = the declared full range"
    mode: str
    'depth and channels as found in the file, such as "16-bit grey", "8-bit RGBA", "8-bit palette", "float grey"'


def decode_image(data: bytes, max_pixels: int = DEFAULT_MAX_PIXELS) -> DecodedImage:
    """Decode an image file; the result owns its memory and is writable.

    Float images must lie in [0, 1]. Of CMYK with 16 bits, only the upper 8 are kept. TIFF, GIF and WebP images are also
    subject to Pillow's own limit of twice `PIL.Image.MAX_IMAGE_PIXELS` (179 million pixels).

    Raises:
        ImageError: "too_large" for more than `max_pixels` pixels or more memory than there is, found before decoding
            wherever the header tells; "unreadable" for everything else that is not a whole image.
    """
    try:
        return _decode(data, max_pixels)
    except ImageError:
        raise
    except (MemoryError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError("too_large", str(error) or "not enough memory to decode it") from error
    except Exception as error:  # Pillow's readers raise nearly every built-in exception on hostile bytes
        raise ImageError("unreadable", f"damaged image file ({type(error).__name__}: {error})") from error


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


def network_input(pixels: np.ndarray, image_size: int) -> np.ndarray:
    """The square [S,S,3] that networks of side `image_size` see of an image [H,W,3]; its sides are stretched to fit.

    Raises:
        ImageError: a side is shorter than `SMALLEST_SIDE`, so that there is nothing to see.
    """
    height, width = pixels.shape[:2]
    if min(height, width) < SMALLEST_SIDE:
        raise ImageError("unreadable", f"{width} x {height} pixels is too small: a side needs {SMALLEST_SIDE} at least")
    return resized(pixels, image_size, image_size)


def same_depth(images: Sequence[np.ndarray]) -> np.ndarray:
    """Stack images of equal size; 8-bit ones are widened where there is a 16-bit one."""
    if any(image.dtype == np.uint16 for image in images):
        images = [image if image.dtype == np.uint16 else image.astype(np.uint16) * 257 for image in images]
    return np.stack(images)


def _decode(data: bytes, max_pixels: int) -> DecodedImage:
    reader = next((reader for signature, reader in _FORMATS if signature.match(data)), None)
    if reader is None:
        raise ImageError("unreadable", f"not an image file ({_beginning(data)})")
    exif = b""
    if reader is PngImageFile:
        data, exif = _png_essentials(data)
        width, height = struct.unpack_from(">II", data, 16)
        _check_size(width, height, max_pixels)  # Pillow has no words for a side of 0
    elif reader is JpegImageFile:
        data, exif = _jpeg_essentials(data)
    elif reader is WebPImageFile:
        _check_size(*_webp_size(data), max_pixels)  # Pillow allocates the canvas when it opens the file
    image = reader(BytesIO(data))
    _check_size(*image.size, max_pixels)
    if isinstance(image, WebPImageFile):
        exif = image.info.get("exif", b"")
    found = _samples(image, data, max_pixels)

    pixels = None
    if isinstance(image, PpmImageFile) and data[:2] in (b"P5", b"P6"):
        pixels = _full_range(_binary_ppm(data, image, found.bits), found.white, found.bits)
    elif isinstance(image, JpegImageFile | PngImageFile) and found.mode in ("8-bit grey", "8-bit RGB"):
        pixels = _opencv(data, cv2.IMREAD_COLOR, image.size, np.uint8)
    elif found.bits > 8 and (
        isinstance(image, PngImageFile | Jpeg2KImageFile)
        or (isinstance(image, TiffImageFile) and found.channels in ("RGB", "RGBA"))
    ):
        pixels = _opencv(data, cv2.IMREAD_UNCHANGED, image.size, np.uint16)
        pixels = None if pixels is None else _full_range(pixels, found.white, found.bits)
    if pixels is None:  # also where OpenCV failed: it gives no reason, Pillow does
        pixels = _pillow(image, found)
    if found.is_white_zero:
        pixels = np.iinfo(pixels.dtype).max - pixels
    if pixels.ndim == 2:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB)
    # OpenCV and Pillow both turn TIFF upright by themselves; from the others, no EXIF reached them.
    return DecodedImage(_upright(pixels, _orientation(exif)), found.mode)


class _Samples(NamedTuple):
    """What a header says of the numbers in a file."""

    bits: int
    channels: str
    white: int
    "the largest value that a sample can have"
    is_float: bool = False
    is_white_zero: bool = False
    "the values are upside down, and Pillow leaves them so"

    @property
    def mode(self) -> str:
        return f"{'float' if self.is_float else f'{self.bits}-bit'} {self.channels}"


def _samples(image: ImageFile.ImageFile, data: bytes, max_pixels: int) -> _Samples:
    """Read depth and channels off an opened image; checks the sizes that Pillow doesn't look at."""
    channels = _CHANNELS.get(image.mode, "grey")
    bits = 8
    if isinstance(image, TiffImageFile):
        tags = image.tag_v2
        tile_width, tile_height = (max(1, int(tags.get(tag, 1))) for tag in (322, 323))
        _check_size(tile_width, tile_height, max_pixels)  # a tile can dwarf its image
        bits, sample_format = max(tags.get(258, (1,))), tags.get(339, (1,))[0]
        white = 2 ** (bits - 1) - 1 if sample_format == 2 else 1 if sample_format == 3 else 2**bits - 1
        is_white_zero = tags.get(262) == 0 and image.mode[0] in "IF"
        return _Samples(bits, channels, white, sample_format == 3, is_white_zero)
    if isinstance(image, PpmImageFile):
        if image.mode == "1":
            return _Samples(1, channels, 1)
        arguments = image.tile[0].args
        white = arguments[1] if isinstance(arguments, tuple) else 65535 if arguments == "I;16B" else 255
        return _Samples(white.bit_length(), channels, white)
    if isinstance(image, PngImageFile):
        bits, channels = data[24], _PNG_CHANNELS[data[25]]
    elif isinstance(image, BmpImageFile) and image.mode in "1P":
        bits = data[28] if data[14] >= 40 else data[24]
    elif isinstance(image, GifImageFile):
        channels = "palette"
    elif isinstance(image, Jpeg2KImageFile):
        width, height, bits = _jpeg2000_size(data)
        _check_size(width, height, max_pixels)  # the codestream decides, and the header around it may say less
    return _Samples(bits, channels, 2**bits - 1)


def _beginning(data: bytes) -> str:
    """What a file that isn't an image begins with, for a message."""
    if not data:
        return "0 bytes"
    text = data[:16].lstrip().split(b"\n")[0]
    if text and all(32 <= byte < 127 for byte in text):
        return f"starts with '{text.decode('ascii').split(' ')[0]}'"
    return f"starts with bytes {data[:8].hex(' ')}"


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width < 1 or height < 1:
        raise ImageError("unreadable", f"has no pixels: {width} x {height}")
    if width * height > max_pixels:
        raise ImageError("too_large", f"{width} x {height} pixels, more than the limit of {max_pixels:,}")


def _png_essentials(data: bytes) -> tuple[bytes, bytes]:
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


def _jpeg_essentials(data: bytes) -> tuple[bytes, bytes]:
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


def _webp_size(data: bytes) -> tuple[int, int]:
    """Width and height of a WebP, from its first chunk (RFC 9649)."""
    if data[12:16] == b"VP8X":
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    if data[12:16] == b"VP8L":
        packed = int.from_bytes(data[21:25], "little")
        return (packed & 0x3FFF) + 1, (packed >> 14 & 0x3FFF) + 1
    return int.from_bytes(data[26:28], "little") & 0x3FFF, int.from_bytes(data[28:30], "little") & 0x3FFF


def _jpeg2000_size(data: bytes) -> tuple[int, int, int]:
    """Width, height and bits a channel of a JPEG 2000, from the SIZ segment of its codestream."""
    start = data.find(b"\xff\x4f\xff\x51")
    if start < 0:
        raise ImageError("unreadable", "a JPEG 2000 file without a picture in it")
    right, bottom, left, top, depth = struct.unpack_from(">4I18xB", data, start + 8)
    return right - left, bottom - top, (depth & 0x7F) + 1


def _binary_ppm(data: bytes, image: PpmImageFile, bits: int) -> np.ndarray:
    """The samples of a binary PGM or PPM; Pillow would take a second per megapixel where the maximum isn't 2^n - 1."""
    shape = (image.height, image.width, 3)[: 3 if data[:2] == b"P6" else 2]
    dtype = np.dtype(">u2" if bits > 8 else "u1")
    offset, needed = image.tile[0].offset, int(np.prod(shape)) * dtype.itemsize
    if len(data) - offset < needed:
        raise ImageError("unreadable", f"cut off: {len(data) - offset} bytes of pixels where {needed} are needed")
    return np.frombuffer(data, dtype, int(np.prod(shape)), offset).reshape(shape)


def _full_range(values: np.ndarray, white: float, bits: int) -> np.ndarray:
    """Scale [0, white] to all of uint8 or uint16, within 1 of the exact value; a copy."""
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= white):  # not-a-number fails too
        raise ImageError("unreadable", f"holds values from {low:g} to {high:g}; only 0 to {white:g} can be shown")
    dtype = np.uint8 if bits <= 8 else np.uint16
    top = np.iinfo(dtype).max
    return values.astype(dtype) if white == top else (values.astype(np.float32) * (top / white) + 0.5).astype(dtype)


def _opencv(data: bytes, flags: int, size: tuple[int, int], dtype: type[np.generic]) -> np.ndarray | None:
    """[H,W,3] or [H,W] pixels, or None where OpenCV can't read the file as its header says it is."""
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        return None
    if pixels is None or pixels.shape[1::-1] != size or pixels.dtype != dtype:
        return None
    if pixels.ndim == 2:
        return pixels
    return cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGB if pixels.shape[2] == 4 else cv2.COLOR_BGR2RGB)


def _pillow(image: ImageFile.ImageFile, found: _Samples) -> np.ndarray:
    """[H,W,3] or [H,W] pixels; raises whatever Pillow raises."""
    image.load()
    if image.mode[0] in "IF":
        values = np.asarray(image)
        if values.dtype == np.int32 and found.white == 2**32 - 1:
            values = values.view(np.uint32)  # Pillow has no mode for unsigned 32-bit
        # Of the kinds with such modes, only TIFF comes with its samples as they are.
        return _full_range(values, found.white if isinstance(image, TiffImageFile) else 65535, 16)
    image.info.pop("transparency", None)  # else converting the palette may fail or warn
    straight = image.convert("LA") if image.mode == "La" else image  # La is grey multiplied by its transparency
    pixels = np.array(straight.convert("RGB"))
    # Pillow cut these down to 8 bits: the low byte is lost, but the dtype still says what the file held.
    return pixels * np.uint16(257) if found.bits > 8 else pixels


def _orientation(exif: bytes) -> int:
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


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Undo an EXIF orientation: 5 to 8 swap the sides, the others mirror them."""
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)
