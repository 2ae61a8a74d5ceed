"""Files that archives hold and nobody planned for: odd kinds, broken ones, bombs, odd names; and what becomes of each.

All of it is made here. The readable ones show one known picture, so that wrong pixels are found too.
"""

from __future__ import annotations

import base64
import struct
import zipfile
from functools import cache
from io import BytesIO
from typing import NamedTuple

import numpy as np
from image_files import (
    COLUMNS,
    HEIGHT,
    ROWS,
    SMOOTH,
    WIDTH,
    adobe_jpeg,
    bmp,
    chunk_bomb,
    exif,
    flat_png,
    grey3,
    grey_tiff,
    interlaced_png,
    patched,
    planar_tiff,
    png,
    png_rows,
    run_lengths,
    saved,
    saved_cv2,
    tiled_tiff,
)
from PIL import Image


class Readable(NamedTuple):
    """A file that is an image."""

    data: bytes
    pixels: np.ndarray
    "[H,W,3] that it shows"
    mode: str
    tolerance: float = 0.0
    "largest mean difference, in steps of its depth"


class Refused(NamedTuple):
    """A file that gives no pixels."""

    data: bytes
    status: str
    reason: str
    "part of the error"


GREY = SMOOTH[..., 0]
INVERSE = np.ascontiguousarray(255 - SMOOTH)
DEEP = (SMOOTH.astype(np.uint16) << 8) + (ROWS * 7 + COLUMNS)[..., None].astype(np.uint16)
DEEP_GREY = np.ascontiguousarray(DEEP[..., 1])
FLOATS = (DEEP_GREY / 65535).astype(np.float32)
PALETTE = Image.fromarray(SMOOTH).quantize(200)
PALETTE_RGB = np.asarray(PALETTE.convert("RGB"))
LEVELS = {bits: GREY >> (8 - bits) for bits in (1, 2, 4)}
"[H,W] in grey of few bits"
BEST = {"quality": 98, "subsampling": 0}
PNG, JPEG = saved(SMOOTH, "PNG"), saved(SMOOTH, "JPEG", **BEST)

# Only libjpeg's own programs write such ones: SMOOTH in quality 95.
ARITHMETIC_JPEG = base64.b64decode(
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAIBAQEBAQIBAQECAgICAgQDAgICAgUEBAMEBgUGBgYFBgYGBwkIBgcJBwYGCAsICQoKCgoKBggLDAsK"
    "DAkKCgr/2wBDAQICAgICAgUDAwUKBwYHCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgr/yQARCAAYACgD"
    "AREAAhEBAxEB/8wACgAQEAUBEBEF/9oADAMBAAIRAxEAPwD/APPuuNp66MLFZM0MJxc/QJj9zrR9injv8HwY5a3bG5+0hui8c/16xEjynKt5RZvU"
    "q4GIVWXP5+jq0oZKACFRi6JheD+kZ3J96+YUL0Q+EhNDf0vCB0s1kv8AYWW+JAXHKn55Xm63E+LdmlltYl7SPxpVHPs/YN0O6Ya0ndSv5IItkhAw"
    "VapENFCeB1wIw2I5zhtoO+F2tzEBgGvk0Kutw9rlRn4P78sEyBkB/9k="
)


def few_bits(bits: int) -> Readable:
    levels = (LEVELS[bits][..., None] >> np.arange(bits)[::-1]) & 1
    rows = np.packbits(levels.reshape(HEIGHT, -1).astype(np.uint8), axis=1)
    shown = (LEVELS[bits] * (255 // (2**bits - 1))).astype(np.uint8)
    return Readable(png(WIDTH, HEIGHT, bits, 0, png_rows(rows)), grey3(shown), f"{bits}-bit grey")


@cache
def readable() -> dict[str, Readable]:
    """Images of every kind, by file name."""
    other = saved(INVERSE, "JPEG")
    comment = b"\xff\xfe" + struct.pack(">H", 2 + len(other)) + other
    turned = saved(np.ascontiguousarray(np.rot90(SMOOTH)), "JPEG", exif=exif(6), **BEST)
    transparent = Image.fromarray(np.dstack([SMOOTH, GREY]))
    rgb, grey, frames = "8-bit RGB", "8-bit grey", {"save_all": True, "append_images": [Image.fromarray(INVERSE)]}
    return {
        "plain.png": Readable(PNG, SMOOTH, rgb),
        "plain.jpg": Readable(JPEG, SMOOTH, rgb, 1),
        "png named.jpg": Readable(PNG, SMOOTH, rgb),
        "jpeg named.png": Readable(JPEG, SMOOTH, rgb, 1),
        "bmp named.tif": Readable(saved(SMOOTH, "BMP"), SMOOTH, rgb),
        "webp named.jpeg": Readable(saved(SMOOTH, "WEBP", lossless=True), SMOOTH, rgb),
        "1-bit.png": few_bits(1),
        "2-bit.png": few_bits(2),
        "4-bit.png": few_bits(4),
        "palette.png": Readable(saved(PALETTE, "PNG"), PALETTE_RGB, "8-bit palette"),
        "transparent palette.png": Readable(
            saved(PALETTE, "PNG", transparency=bytes(200)), PALETTE_RGB, "8-bit palette"
        ),
        "grey and alpha.png": Readable(
            saved(Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(SMOOTH[..., 1].copy())]), "PNG"),
            grey3(GREY),
            "8-bit grey+alpha",
        ),
        "alpha.png": Readable(saved(transparent, "PNG"), SMOOTH, "8-bit RGBA"),
        "16-bit grey.png": Readable(saved(DEEP_GREY, "PNG"), grey3(DEEP_GREY), "16-bit grey"),
        "16-bit.png": Readable(saved_cv2(DEEP, ".png"), DEEP, "16-bit RGB"),
        "interlaced.png": Readable(interlaced_png(SMOOTH), SMOOTH, rgb),
        "animated.png": Readable(saved(SMOOTH, "PNG", **frames), SMOOTH, f"{rgb}, frame 1 of 2"),
        "text bomb.png": Readable(png(WIDTH, HEIGHT, 8, 2, png_rows(SMOOTH), chunk_bomb(b"zTXt")), SMOOTH, rgb),
        "profile bomb.png": Readable(png(WIDTH, HEIGHT, 8, 2, png_rows(SMOOTH), chunk_bomb(b"iCCP")), SMOOTH, rgb),
        "broken profile.png": Readable(saved(SMOOTH, "PNG", icc_profile=b"no profile"), SMOOTH, rgb),
        "broken profile.jpg": Readable(saved(SMOOTH, "JPEG", icc_profile=b"no profile" * 9000, **BEST), SMOOTH, rgb, 1),
        "broken exif.jpg": Readable(
            saved(SMOOTH, "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff\xff", **BEST), SMOOTH, rgb, 3
        ),
        "exif turned.jpg": Readable(turned, SMOOTH, rgb, 1),
        "grey.jpg": Readable(saved(GREY, "JPEG", **BEST), grey3(GREY), grey, 1),
        "progressive.jpg": Readable(saved(SMOOTH, "JPEG", progressive=True, **BEST), SMOOTH, rgb, 1),
        "arithmetic.jpg": Readable(ARITHMETIC_JPEG, SMOOTH, rgb, 1),
        "cmyk.jpg": Readable(adobe_jpeg(0), SMOOTH, "8-bit CMYK", 2),
        "ycck.jpg": Readable(adobe_jpeg(2), SMOOTH, "8-bit CMYK", 2),
        "garbage behind.jpg": Readable(JPEG + b"\xff\xda\0garbage" * 500, SMOOTH, rgb, 1),
        "two in one.jpg": Readable(JPEG + other, SMOOTH, rgb, 1),
        "jpeg within.jpg": Readable(JPEG[:2] + comment + JPEG[2:], SMOOTH, rgb, 1),
        "16-bit grey.tif": Readable(saved(DEEP_GREY, "TIFF"), grey3(DEEP_GREY), "16-bit grey"),
        "16-bit.tif": Readable(saved_cv2(DEEP, ".tif"), DEEP, "16-bit RGB"),
        "float.tif": Readable(saved(FLOATS, "TIFF"), grey3(DEEP_GREY), "float grey", 0.5),
        "pages.tif": Readable(saved(SMOOTH, "TIFF", **frames), SMOOTH, f"{rgb}, page 1 of 2"),
        "tiled.tif": Readable(tiled_tiff(GREY), grey3(GREY), grey),
        "lzw.tif": Readable(saved(SMOOTH, "TIFF", compression="tiff_lzw"), SMOOTH, rgb),
        "fax.tif": Readable(saved(LEVELS[1] > 0, "TIFF", compression="group4"), few_bits(1).pixels, "1-bit grey"),
        "planes.tif": Readable(planar_tiff(SMOOTH), SMOOTH, rgb),
        "planes of 16 bits.tif": Readable(planar_tiff(DEEP), DEEP, "16-bit RGB"),
        "big.tiff": Readable(saved(SMOOTH, "TIFF", big_tiff=True), SMOOTH, rgb),
        "white is zero.tif": Readable(grey_tiff(8, (255 - GREY).tobytes(), black_is=0), grey3(GREY), grey),
        "pages that end nowhere.tif": Readable(
            patched(grey_tiff(8, GREY.tobytes()), 8 + 2 + 12 * 10, struct.pack("<I", 8)), grey3(GREY), grey
        ),
        "animated.gif": Readable(
            saved(PALETTE, "GIF", save_all=True, append_images=[Image.new("P", PALETTE.size)]),
            PALETTE_RGB,
            "8-bit palette, frame 1 of 2",
        ),
        "transparent.gif": Readable(saved(PALETTE, "GIF", transparency=3), PALETTE_RGB, "8-bit palette"),
        "animated.webp": Readable(saved(SMOOTH, "WEBP", lossless=True, **frames), SMOOTH, f"{rgb}, frame 1 of 2"),
        "lossy.webp": Readable(saved(SMOOTH, "WEBP", quality=100), SMOOTH, rgb, 1),
        "alpha.webp": Readable(saved(transparent, "WEBP", lossless=True, exact=True), SMOOTH, "8-bit RGBA"),
        "run lengths.bmp": Readable(bmp(1, 8, HEIGHT, run_lengths(GREY)), grey3(GREY), grey),
        "top down.bmp": Readable(bmp(0, 24, -HEIGHT, SMOOTH[..., ::-1].tobytes()), SMOOTH, rgb),
        "8-bit.pgm": Readable(saved(GREY, "PPM"), grey3(GREY), grey),
        "16-bit.pgm": Readable(
            b"P5 40 24 65535\n" + DEEP_GREY.astype(">u2").tobytes(), grey3(DEEP_GREY), "16-bit grey"
        ),
        "8-bit.ppm": Readable(saved(SMOOTH, "PPM"), SMOOTH, rgb),
        "16-bit.ppm": Readable(b"P6 40 24 65535\n" + DEEP.astype(">u2").tobytes(), DEEP, "16-bit RGB"),
        "lossless.jp2": Readable(saved(SMOOTH, "JPEG2000"), SMOOTH, rgb),
        "bare.j2k": Readable(saved(SMOOTH, "JPEG2000", no_jp2=True), SMOOTH, rgb),
        "just large enough.png": Readable(flat_png(16, 16, 8, 0, 16), np.zeros((16, 16, 3), np.uint8), grey),
        "long.png": Readable(flat_png(5000, 16, 8, 0, 5000), np.zeros((16, 5000, 3), np.uint8), grey),
    }


@cache
def refused() -> dict[str, Refused]:
    """Files that are named like images and give no pixels, by file name."""
    drawn = np.random.default_rng(3).bytes(999)
    archive = BytesIO()
    with zipfile.ZipFile(archive, "w") as zipped:
        zipped.writestr("image.png", PNG)
    size = JPEG.index(b"\xff\xc0") + 4  # of depth, height and width
    not_a_number = FLOATS.copy()
    not_a_number[3, 5] = np.nan
    return {
        "empty.png": Refused(b"", "unreadable", "0 bytes"),
        "text.jpg": Refused(b"The camera was off.\n", "unreadable", "starts with 'The'"),
        "html.jpg": Refused(b"<html><body>404 Not Found</body></html>", "unreadable", "starts with '<html><body>404'"),
        "zip.png": Refused(archive.getvalue(), "unreadable", "starts with bytes 50 4b 03 04"),
        "pdf.png": Refused(b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "unreadable", "starts with '%PDF-1.7'"),
        "postscript.jpg": Refused(b"%!PS-Adobe-3.0 EPSF-3.0\n", "unreadable", "starts with '%!PS-Adobe-3.0'"),
        "random.png": Refused(b"\x89PNG\r\n\x1a\n" + drawn, "unreadable", "cut off"),
        "random.jpg": Refused(b"\xff\xd8\xff\xe0" + drawn, "unreadable", ""),
        "random.webp": Refused(b"RIFF" + drawn[:4] + b"WEBPVP8 " + drawn, "unreadable", ""),
        "truncated.jpg": Refused(JPEG[: len(JPEG) // 2], "unreadable", "cut off"),
        "truncated.png": Refused(PNG[: len(PNG) // 2], "unreadable", "cut off"),
        "truncated.tif": Refused(saved(SMOOTH, "TIFF")[:-500], "unreadable", ""),
        "truncated.gif": Refused(saved(PALETTE, "GIF")[:-300], "unreadable", "truncated"),
        "truncated.webp": Refused(saved(SMOOTH, "WEBP")[:-90], "unreadable", ""),
        "truncated.bmp": Refused(saved(SMOOTH, "BMP")[:-300], "unreadable", "truncated"),
        "truncated.jp2": Refused(saved(SMOOTH, "JPEG2000")[:300], "unreadable", ""),
        "truncated.pgm": Refused(saved(GREY, "PPM")[:-300], "unreadable", "cut off"),
        "wrong checksum.png": Refused(patched(PNG, 29, b"\0\0\0\0"), "unreadable", "wrong checksum in chunk b'IHDR'"),
        "12-bit.jpg": Refused(patched(JPEG, size, b"\x0c"), "unreadable", ""),
        "not a number.tif": Refused(saved(not_a_number, "TIFF"), "unreadable", "nan"),
        "beyond one.tif": Refused(saved(FLOATS * 2, "TIFF"), "unreadable", "only 0 to 1 can be shown"),
        "negative.tif": Refused(grey_tiff(8, GREY.tobytes(), sample_format=2), "unreadable", "only 0 to 127"),
        "32 bits.tif": Refused(grey_tiff(32, GREY.astype("<u4").tobytes()), "unreadable", "nothing says which value"),
        "1 x 1.png": Refused(flat_png(1, 1, 8, 0, 1), "unreadable", "1 x 1 pixels is too small"),
        "15 x 15.png": Refused(flat_png(15, 15, 8, 0, 15), "unreadable", "15 x 15 pixels is too small"),
        "20000 x 1.png": Refused(flat_png(20_000, 1, 8, 0, 20_000), "unreadable", "20000 x 1 pixels is too small"),
        "1 x 20000.png": Refused(flat_png(1, 20_000, 8, 0, 1), "unreadable", "1 x 20000 pixels is too small"),
        "no width.png": Refused(flat_png(0, 24, 8, 0, 0), "unreadable", "0 x 24"),
        "bomb.png": Refused(flat_png(60_000, 60_000, 1, 0, 7500), "too_large", "60000 x 60000 pixels"),
        "bomb.jpg": Refused(patched(JPEG, size + 1, b"\xea\x60\xea\x60"), "too_large", "60000 x 60000 pixels"),
        "bomb.gif": Refused(patched(saved(PALETTE, "GIF"), 6, b"\x60\xea\x60\xea"), "too_large", "60000 x 60000"),
        "bomb.bmp": Refused(patched(saved(SMOOTH, "BMP"), 18, b"\x60\xea\0\0" * 2), "too_large", "60000 x 60000"),
        "bomb.pgm": Refused(b"P5 60000 60000 255 abc", "too_large", "60000 x 60000"),
    }
