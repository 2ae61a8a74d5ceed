"""One picture in every kind of image file, written by the libraries or, where they can't, by hand."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO

import cv2
import numpy as np
from PIL import Image

HEIGHT, WIDTH = 24, 40
ROWS, COLUMNS = np.mgrid[0:HEIGHT, 0:WIDTH]
SMOOTH = np.stack([ROWS * 10, COLUMNS * 6, (ROWS + COLUMNS) * 4], axis=-1).astype(np.uint8)
"a picture that JPEG keeps nearly as it is, and that no turn maps onto itself"


def grey3(values: np.ndarray) -> np.ndarray:
    return np.repeat(values[..., None], 3, axis=-1)


def saved(pixels: np.ndarray | Image.Image, kind: str, **options: object) -> bytes:
    file = BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(file, kind, **options)
    return file.getvalue()


def saved_cv2(pixels: np.ndarray, suffix: str, *options: int) -> bytes:
    """As OpenCV writes it: colours of 16 bits, which Pillow has none of."""
    bgr = pixels[..., [2, 1, 0, *range(3, pixels.shape[-1])]] if pixels.ndim == 3 else pixels
    ok, data = cv2.imencode(suffix, np.ascontiguousarray(bgr), list(options))
    assert ok
    return data.tobytes()


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(
    width: int, height: int, depth: int, colour: int, rows: bytes, *extra: bytes, interlaced: bool = False
) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced))
    body = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + body + chunk(b"IEND", b"")


def png_rows(pixels: np.ndarray) -> bytes:
    """The rows of 8-bit pixels as a PNG holds them, each without a filter."""
    return b"".join(b"\0" + row.tobytes() for row in pixels)


def flat_png(width: int, height: int, depth: int, colour: int, row_bytes: int) -> bytes:
    """A black PNG of any size, made row by row."""
    packer, row = zlib.compressobj(), bytes(1 + row_bytes)
    body = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    return png(width, height, depth, colour, b"").replace(chunk(b"IDAT", zlib.compress(b"")), chunk(b"IDAT", body))


def tiff(tags: dict[int, tuple[int, int]], pixels: bytes, order: str = "<", tiled: bool = False) -> bytes:
    """An uncompressed TIFF in one strip or tile; tags as {tag: (type, value)}, SHORT = 3 and LONG = 4."""
    data = 8 + 2 + 12 * (len(tags) + 2) + 4
    place, length = (324, 325) if tiled else (273, 279)
    tags = {**tags, place: (4, data), length: (4, len(pixels))}
    entries = b""
    for tag, (kind, value) in sorted(tags.items()):
        entries += struct.pack(f"{order}HHI", tag, kind, 1)
        entries += struct.pack(f"{order}HH", value, 0) if kind == 3 else struct.pack(f"{order}I", value)
    start = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8)
    return start + struct.pack(f"{order}H", len(tags)) + entries + bytes(4) + pixels


def grey_tags(bits: int, sample_format: int = 1, black_is: int = 1) -> dict[int, tuple[int, int]]:
    """The tags of a grey TIFF of WIDTH x HEIGHT."""
    tags = {256: (3, WIDTH), 257: (3, HEIGHT), 258: (3, bits), 259: (3, 1), 262: (3, black_is), 277: (3, 1)}
    return {**tags, 278: (3, HEIGHT), 339: (3, sample_format)}


def grey_tiff(bits: int, pixels: bytes, sample_format: int = 1, black_is: int = 1, order: str = "<") -> bytes:
    return tiff(grey_tags(bits, sample_format, black_is), pixels, order)


def exif(orientation: int) -> bytes:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags.tobytes()


def adobe_jpeg(transform: int) -> bytes:
    """SMOOTH in a CMYK JPEG as Adobe writes it, or with transform 2 a YCCK one: ink is stored as 255 - ink."""
    colours = Image.fromarray(SMOOTH) if transform == 0 else Image.fromarray(255 - SMOOTH).convert("YCbCr")
    stored = [np.asarray(band) for band in colours.split()] + [np.full((HEIGHT, WIDTH), 255, np.uint8)]
    # Pillow inverts what it writes, and marks it as transform 0.
    data = saved(
        Image.merge("CMYK", [Image.fromarray(255 - band) for band in stored]), "JPEG", quality=98, subsampling=0
    )
    mark = data.index(b"Adobe") + 11
    return data[:mark] + bytes([transform]) + data[mark + 1 :]


def bmp(compression: int, bits: int, height: int, body: bytes) -> bytes:
    """A BMP of WIDTH x HEIGHT with a palette of greys; a negative height stores it from top to bottom."""
    palette = b"".join(bytes([k, k, k, 0]) for k in range(256)) if bits == 8 else b""
    info = struct.pack("<IiiHHIIiiII", 40, WIDTH, height, 1, bits, compression, len(body), 0, 0, 0, 0)
    start = 14 + len(info) + len(palette)
    return b"BM" + struct.pack("<IHHI", start + len(body), 0, 0, start) + info + palette + body


def run_lengths(pixels: np.ndarray) -> bytes:
    """RLE8 of a BMP: pairs of count and value, from the lowest row to the highest."""
    rows = (b"".join(bytes([1, value]) for value in row) + b"\0\0" for row in pixels[::-1])
    return b"".join(rows) + b"\0\1"


def tiled_tiff(pixels: np.ndarray) -> bytes:
    """A TIFF of 8-bit grey [HEIGHT,WIDTH] in one tile that is larger than it."""
    tags = {tag: value for tag, value in grey_tags(8).items() if tag != 278} | {322: (3, 48), 323: (3, 32)}
    tile = np.zeros((32, 48), np.uint8)
    tile[:HEIGHT, :WIDTH] = pixels
    return tiff(tags, tile.tobytes(), tiled=True)


def interlaced_png(pixels: np.ndarray) -> bytes:
    """An RGB PNG in the seven passes of Adam7."""
    passes = (0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)
    rows = b"".join(png_rows(pixels[top::down, left::right]) for top, left, down, right in passes)
    return png(*pixels.shape[1::-1], 8, 2, rows, interlaced=True)


def planar_tiff(pixels: np.ndarray) -> bytes:
    """An RGB TIFF that holds one colour after the other, in three strips."""
    height, width, bits = *pixels.shape[:2], 8 * pixels.itemsize
    arrays = 8 + 2 + 12 * 10 + 4  # of the three depths, places and lengths of the strips
    places = [arrays + 30 + k * pixels.nbytes // 3 for k in range(3)]
    lengths = [pixels.nbytes // 3] * 3
    values = {256: width, 257: height, 259: 1, 262: 2, 277: 3, 278: height, 284: 2}
    entries = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in values.items()]
    entries += [
        struct.pack("<HHII", *entry)
        for entry in ((258, 3, 3, arrays), (273, 4, 3, arrays + 6), (279, 4, 3, arrays + 18))
    ]
    start = (
        b"II*\0" + struct.pack("<IH", 8, len(entries)) + b"".join(sorted(entries, key=lambda e: e[1::-1])) + bytes(4)
    )
    return start + struct.pack("<3H6I", bits, bits, bits, *places, *lengths) + pixels.transpose(2, 0, 1).tobytes()


def chunk_bomb(name: bytes) -> bytes:
    """A PNG chunk of 50 kB that unpacks to 50 MB of text or colour profile."""
    return chunk(name, b"k\0\0" + zlib.compress(bytes(50_000_000)))


def patched(data: bytes, place: int, value: bytes) -> bytes:
    """A file with other bytes at one place."""
    return data[:place] + value + data[place + len(value) :]
