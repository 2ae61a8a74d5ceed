"""Recognises the kind of a file by its first bytes."""

from __future__ import annotations

import re
from collections.abc import Callable

from diffad_ray.images.jpeg import read_jpeg
from diffad_ray.images.limits import ImageError, unsupported
from diffad_ray.images.other_kinds import read_avif, read_bmp, read_gif, read_jpeg2000, read_ppm, read_webp
from diffad_ray.images.png import read_png
from diffad_ray.images.samples import Stored
from diffad_ray.images.tiff_colours import read_tiff

Reader = Callable[[bytes, int], Stored]

# Readers are called directly, because Pillow's Image.open tries all of its formats (EPS starts Ghostscript) and has its
# own size limits.
READERS: list[tuple[re.Pattern[bytes], Reader]] = [
    (re.compile(rb"\xff\xd8\xff"), read_jpeg),
    (re.compile(rb"\x89PNG\r\n\x1a\n"), read_png),
    (re.compile(rb"II[*+]\0|MM\0[*+]"), read_tiff),
    (re.compile(rb"BM"), read_bmp),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), read_webp),
    (re.compile(rb"GIF8[79]a"), read_gif),
    (re.compile(rb"P[1-6]\s"), read_ppm),
    (re.compile(rb"\xff\x4f\xff\x51|\0\0\0\x0cjP  \r\n\x87\n"), read_jpeg2000),
    (re.compile(rb"....ftypavi[fs]", re.DOTALL), read_avif),
]
_UNSUPPORTED = [
    (rb"....ftyp(?:hei[cxms]|hev[cx]|mif1|msf1)", "a HEIC image"),
    (rb"....ftypcrx ", "a camera's raw file (CR3)"),
    (rb"....ftyp", "a video"),
    (rb"\xff\x0a|\x00\x00\x00\x0cJXL \r\n\x87\n", "a JPEG XL image"),
    (rb".{128}DICM", "a DICOM file"),
    (rb"II\xbc", "a JPEG XR image"),
    (rb"\x76\x2f\x31\x01", "an OpenEXR image"),
    (rb"#\?(?:RADIANCE|RGBE)", "a Radiance HDR image"),
    (rb"SIMPLE  =", "a FITS image"),
    (rb"8BPS", "a Photoshop file"),
    (rb"FUJIFILMCCD-RAW|IIRS|IIRO|IIU\x00|\x00MRM|FOVb", "a camera's raw file"),
    (rb"P7\s", "a PAM image"),
    (rb"P[Ff]\s", "a PFM image"),
    (rb"\x93NUMPY", "a NumPy array"),
    (rb"\x89HDF\r\n", "an HDF5 file"),
    (rb"MATLAB 5", "a MATLAB file"),
    (rb"\x00\x00\x01\x00", "an icon"),
    (rb"DDS ", "a DDS texture"),
    (rb"RIFF....AVI |\x1aE\xdf\xa3", "a video"),
]
_NO_IMAGES = [
    (rb"\x00\x05\x16[\x00\x07]", "the AppleDouble file that macOS writes beside a file: delete it"),
    (rb"version https://git-lfs", "a pointer of Git LFS: fetch the file itself"),
    (rb"<\?xml[^>]*>\s*<Error>", "an error of an object store, saved as a file"),
    (rb"PK\x03\x04", "a ZIP archive"),
    (rb"\x1f\x8b", "a gzip archive"),
    (rb"%PDF", "a PDF"),
]
_IMAGE_KINDS = [(re.compile(pattern, re.DOTALL), kind) for pattern, kind in _UNSUPPORTED]
_OTHER_KINDS = [(re.compile(pattern, re.DOTALL), kind) for pattern, kind in _NO_IMAGES]


def reader_of(data: bytes) -> Reader:
    """Return the reader for a file's signature.

    Raises:
        ImageError: there is no reader; the message names the kind of the file if it is known.
    """
    for signature, reader in READERS:
        if signature.match(data):
            return reader
    for pattern, kind in _IMAGE_KINDS:
        if pattern.match(data):
            raise unsupported(kind)
    known = next((f"{kind}, " for pattern, kind in _OTHER_KINDS if pattern.match(data)), "")
    raise ImageError("unreadable", f"not an image file ({known}{_beginning(data)})")


def _beginning(data: bytes) -> str:
    """Describe the first bytes of a file that isn't an image, for a message."""
    if not data:
        return "0 bytes"
    if not any(data):
        return f"{len(data)} zeros: it was never written, or its disk has lost it"
    text = data[:16].lstrip().split(b"\n")[0]
    if text and all(32 <= byte < 127 for byte in text):
        return f"starts with '{text.decode('ascii').split(' ')[0]}'"
    return f"starts with bytes {data[:8].hex(' ')}"
