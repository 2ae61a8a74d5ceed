"""Reads rare formats by Pillow: BMP, WebP, GIF, AVIF, the PBM family, JPEG 2000; the last by OpenCV above 8 bits."""

from __future__ import annotations

import struct
from io import BytesIO

import cv2
import numpy as np
from PIL import ImageFile
from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.WebPImagePlugin import WebPImageFile

from diffad_ray.images.limits import ImageError, check_size
from diffad_ray.images.samples import Samples, Stored, exif_orientation

_CHANNELS = {"P": "palette", "PA": "palette", "CMYK": "CMYK", "YCbCr": "YCbCr", "1": "grey", "L": "grey"}
_CHANNELS |= {"LA": "grey+alpha", "RGB": "RGB", "RGBA": "RGBA", "RGBX": "RGB"}


def read_bmp(data: bytes, max_pixels: int) -> Stored:
    image = BmpImageFile(BytesIO(data))
    check_size(*image.size, max_pixels)
    bits = (data[28] if data[14] >= 40 else data[24]) if image.mode in "1P" else 8
    return Stored(_rgb(image), Samples(bits, _channels(image), 255))


def read_gif(data: bytes, max_pixels: int) -> Stored:
    image = GifImageFile(BytesIO(data))
    check_size(*image.size, max_pixels)
    note = _frames(image)
    return Stored(_rgb(image), Samples(8, "palette", 255), note=note)


def read_webp(data: bytes, max_pixels: int) -> Stored:
    check_size(*_webp_size(data), max_pixels)  # Pillow allocates the canvas when it opens the file
    return _with_exif(WebPImageFile(BytesIO(data)), max_pixels)


def read_avif(data: bytes, max_pixels: int) -> Stored:
    return _with_exif(AvifImageFile(BytesIO(data)), max_pixels)


def _with_exif(image: ImageFile.ImageFile, max_pixels: int) -> Stored:
    """Read an opened image of 8 bits that may have frames and an EXIF orientation."""
    check_size(*image.size, max_pixels)
    note = _frames(image)
    samples = Samples(8, _channels(image), 255)
    return Stored(_rgb(image), samples, exif_orientation(image.info.get("exif", b"")), note)


def read_ppm(data: bytes, max_pixels: int) -> Stored:
    """Read PBM, PGM and PPM, binary or as text."""
    image = PpmImageFile(BytesIO(data))
    check_size(*image.size, max_pixels)
    if image.mode == "1":
        return Stored(_rgb(image), Samples(1, "grey", 255))
    arguments = image.tile[0].args
    white = arguments[1] if isinstance(arguments, tuple) else 65535 if arguments == "I;16B" else 255
    samples = Samples(white.bit_length(), _CHANNELS.get(image.mode, "grey"), white)
    if data[:2] in (b"P5", b"P6"):
        return Stored(_binary_ppm(data, image, samples.bits), samples)
    image.load()
    if image.mode[0] == "I":
        return Stored(np.asarray(image), samples._replace(white=65535))  # Pillow scales to this
    return Stored(_rgb(image), samples._replace(white=255))


def _binary_ppm(data: bytes, image: PpmImageFile, bits: int) -> np.ndarray:
    """Read the samples of a binary PGM or PPM; Pillow takes a second per megapixel if the maximum isn't 2^n - 1."""
    shape = (image.height, image.width, 3)[: 3 if data[:2] == b"P6" else 2]
    dtype = np.dtype(">u2" if bits > 8 else "u1")
    offset, needed = image.tile[0].offset, int(np.prod(shape)) * dtype.itemsize
    if len(data) - offset < needed:
        raise ImageError("unreadable", f"cut off: {len(data) - offset} bytes of pixels where {needed} are needed")
    return np.frombuffer(data, dtype, int(np.prod(shape)), offset).reshape(shape)


def read_jpeg2000(data: bytes, max_pixels: int) -> Stored:
    image = Jpeg2KImageFile(BytesIO(data))
    check_size(*image.size, max_pixels)
    width, height, bits = _jpeg2000_size(data)
    check_size(width, height, max_pixels)  # libraries use this size, and the container's may be smaller
    samples = Samples(bits, _CHANNELS.get(image.mode, "grey"), 2**bits - 1)
    if bits <= 8:
        return Stored(_rgb(image), samples._replace(white=255))
    values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None or values.shape[1::-1] != image.size or values.dtype != np.uint16:
        image.load()  # raises with a reason, or reads what OpenCV does not
        raise ImageError("unreadable", f"damaged JPEG 2000: {bits}-bit pixels that can't be unpacked")
    if values.ndim == 3:
        values = cv2.cvtColor(values, cv2.COLOR_BGRA2RGB if values.shape[2] == 4 else cv2.COLOR_BGR2RGB)
    return Stored(values, samples)


def _channels(image: ImageFile.ImageFile) -> str:
    return _CHANNELS.get(image.mode, "grey")


def _frames(image: ImageFile.ImageFile) -> str:
    frames = getattr(image, "n_frames", 1)
    return f"frame 1 of {frames}" if frames > 1 else ""


def _rgb(image: ImageFile.ImageFile) -> np.ndarray:
    """Decode to [H,W,3] uint8; raises Pillow's exceptions."""
    image.load()
    image.info.pop("transparency", None)  # else converting the palette may fail or warn
    return np.array(image.convert("RGB"))


def _webp_size(data: bytes) -> tuple[int, int]:
    """Return width and height of a WebP from its first chunk (RFC 9649)."""
    if data[12:16] == b"VP8X":
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    if data[12:16] == b"VP8L":
        packed = int.from_bytes(data[21:25], "little")
        return (packed & 0x3FFF) + 1, (packed >> 14 & 0x3FFF) + 1
    return int.from_bytes(data[26:28], "little") & 0x3FFF, int.from_bytes(data[28:30], "little") & 0x3FFF


def _jpeg2000_size(data: bytes) -> tuple[int, int, int]:
    """Return width, height and bits per channel of a JPEG 2000 from the SIZ segment of its codestream."""
    start = data.find(b"\xff\x4f\xff\x51")
    if start < 0:
        raise ImageError("unreadable", "a JPEG 2000 file without a picture in it")
    right, bottom, left, top, depth = struct.unpack_from(">4I18xB", data, start + 8)
    return right - left, bottom - top, (depth & 0x7F) + 1
