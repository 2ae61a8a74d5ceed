"""The decision which library reads a file.

OpenCV decodes what archives are made of (8-bit JPEG and PNG) because it is faster, and 16-bit colour because Pillow
drops the low byte; Pillow reads all headers, decodes the rest and knows the reasons.

Two choices: colours are taken as stored, without applying colour profiles, and transparency is ignored, because
compositing onto any background would put edges into the image that the camera never saw.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from io import BytesIO
from typing import NamedTuple

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

from diffad_ray.images.containers import exif_orientation, jpeg_essentials, png_essentials, webp_size
from diffad_ray.images.limits import DEFAULT_MAX_PIXELS, ImageError, check_size
from diffad_ray.images.pixels import full_range, upright
from diffad_ray.images.samples import Samples, samples

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
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError("too_large", str(error)) from error
    except Exception as error:  # Pillow's readers raise nearly every built-in exception on hostile bytes
        if _lacks_memory(error):
            raise ImageError("too_large", "not enough memory to decode it") from error
        raise ImageError("unreadable", f"damaged image file ({type(error).__name__}: {error})") from error


def _lacks_memory(error: Exception) -> bool:
    """Whether an error of any of the libraries says that there was too little memory."""
    if isinstance(error, cv2.error):
        return error.code == cv2.Error.StsNoMem
    return isinstance(error, MemoryError) or "out of memory" in str(error)


def _decode(data: bytes, max_pixels: int) -> DecodedImage:
    reader = next((reader for signature, reader in _FORMATS if signature.match(data)), None)
    if reader is None:
        raise ImageError("unreadable", f"not an image file ({_beginning(data)})")
    exif = b""
    if reader is PngImageFile:
        data, exif = png_essentials(data)
        width, height = struct.unpack_from(">II", data, 16)
        check_size(width, height, max_pixels)  # Pillow has no words for a side of 0
    elif reader is JpegImageFile:
        data, exif = jpeg_essentials(data)
    elif reader is WebPImageFile:
        check_size(*webp_size(data), max_pixels)  # Pillow allocates the canvas when it opens the file
    image = reader(BytesIO(data))
    check_size(*image.size, max_pixels)
    if isinstance(image, WebPImageFile):
        exif = image.info.get("exif", b"")
    found = samples(image, data, max_pixels)

    pixels = None
    if isinstance(image, PpmImageFile) and data[:2] in (b"P5", b"P6"):
        pixels = full_range(_binary_ppm(data, image, found.bits), found.white, found.bits)
    elif isinstance(image, JpegImageFile | PngImageFile) and found.mode in ("8-bit grey", "8-bit RGB"):
        pixels = _opencv(data, cv2.IMREAD_COLOR, image.size, np.uint8)
    elif found.bits > 8 and (
        isinstance(image, PngImageFile | Jpeg2KImageFile)
        or (isinstance(image, TiffImageFile) and found.channels in ("RGB", "RGBA"))
    ):
        pixels = _opencv(data, cv2.IMREAD_UNCHANGED, image.size, np.uint16)
        pixels = None if pixels is None else full_range(pixels, found.white, found.bits)
    if pixels is None:  # also where OpenCV failed: it gives no reason, Pillow does
        pixels = _pillow(image, found)
    if found.is_white_zero:
        pixels = np.iinfo(pixels.dtype).max - pixels
    if pixels.ndim == 2:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB)
    # OpenCV and Pillow both turn TIFF upright by themselves; from the others, no EXIF reached them.
    return DecodedImage(upright(pixels, exif_orientation(exif)), found.mode)


def _beginning(data: bytes) -> str:
    """What a file that isn't an image begins with, for a message."""
    if not data:
        return "0 bytes"
    text = data[:16].lstrip().split(b"\n")[0]
    if text and all(32 <= byte < 127 for byte in text):
        return f"starts with '{text.decode('ascii').split(' ')[0]}'"
    return f"starts with bytes {data[:8].hex(' ')}"


def _binary_ppm(data: bytes, image: PpmImageFile, bits: int) -> np.ndarray:
    """The samples of a binary PGM or PPM; Pillow would take a second per megapixel where the maximum isn't 2^n - 1."""
    shape = (image.height, image.width, 3)[: 3 if data[:2] == b"P6" else 2]
    dtype = np.dtype(">u2" if bits > 8 else "u1")
    offset, needed = image.tile[0].offset, int(np.prod(shape)) * dtype.itemsize
    if len(data) - offset < needed:
        raise ImageError("unreadable", f"cut off: {len(data) - offset} bytes of pixels where {needed} are needed")
    return np.frombuffer(data, dtype, int(np.prod(shape)), offset).reshape(shape)


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


def _pillow(image: ImageFile.ImageFile, found: Samples) -> np.ndarray:
    """[H,W,3] or [H,W] pixels; raises whatever Pillow raises."""
    image.load()
    if image.mode[0] in "IF":
        values = np.asarray(image)
        if values.dtype == np.int32 and found.white == 2**32 - 1:
            values = values.view(np.uint32)  # Pillow has no mode for unsigned 32-bit
        # Of the kinds with such modes, only TIFF comes with its samples as they are.
        return full_range(values, found.white if isinstance(image, TiffImageFile) else 65535, 16)
    image.info.pop("transparency", None)  # else converting the palette may fail or warn
    straight = image.convert("LA") if image.mode == "La" else image  # La is grey multiplied by its transparency
    pixels = np.array(straight.convert("RGB"))
    # Pillow cut these down to 8 bits: the low byte is lost, but the dtype still says what the file held.
    return pixels * np.uint16(257) if found.bits > 8 else pixels
