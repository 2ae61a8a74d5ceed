"""Decodes the strips and tiles of a TIFF page to samples: compression, predictor, bit depth and byte order."""

from __future__ import annotations

import lzma
import struct
import zlib
from collections.abc import Sequence
from io import BytesIO
from itertools import accumulate, takewhile

import numpy as np
from PIL.TiffImagePlugin import TiffImageFile

from diffad_ray.images import jpeg
from diffad_ray.images.limits import ImageError, unsupported
from diffad_ray.images.tiff import BITS, FILL_ORDER, JPEG_TABLES, PHOTOMETRIC, PREDICTOR, SAMPLE_FORMAT, Page, Segment

_DEFLATE, _LIBTIFF, _LZMA, _JPEG, _FAX = (8, 32946), (5, 32773, 50000), 34925, 7, (2, 3, 4)
COMPRESSIONS = {
    6: "JPEG of the old style",
    9: "JBIG",
    10: "JBIG",
    32766: "NeXT run lengths",
    32809: "ThunderScan",
    32908: "PixarFilm",
    32909: "PixarLog",
    33003: "JPEG 2000",
    33005: "JPEG 2000",
    34661: "JBIG",
    34676: "LogLuv",
    34677: "LogLuv",
    34712: "JPEG 2000",
    34887: "LERC",
    34892: "lossy JPEG of DNG",
    34933: "PNG",
    34934: "JPEG XR",
    22610: "JPEG XR",
    50001: "WebP",
    50002: "JPEG XL",
    52546: "JPEG XL",
}
"Names of unsupported compressions."
_UNSIGNED, _SIGNED, _FLOAT, _VOID = 1, 2, 3, 4
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_UNPACKED_BITS, _LIBTIFF_BYTES = 2**24, 2**26
"Unpacked at once: bits of samples of odd depth, one byte each; and bytes of strips in a call of libtiff."


def sample_type(page: Page) -> tuple[np.dtype, int]:
    """Return the dtype of a page's samples in memory, and their number of bits in the file.

    Raises:
        ImageError: the sample format is not supported.
    """
    depths, forms = set(page.tags.get(BITS, (1,))), set(page.tags.get(SAMPLE_FORMAT, (_UNSIGNED,)))
    if len(depths) > 1 or len(forms) > 1:
        raise unsupported(f"a TIFF of channels of different kinds ({', '.join(map(str, sorted(depths)))} bits)")
    bits, form = depths.pop(), forms.pop()
    if form == _FLOAT and bits in (16, 32, 64):
        return np.dtype(f"f{bits // 8}"), bits
    if form in (_UNSIGNED, _VOID) and (1 <= bits <= 16 or bits in (32, 64)):
        return np.dtype(f"u{max(1, 2 ** (bits - 1).bit_length() // 8)}"), bits
    if form == _SIGNED and bits in (8, 16, 32, 64):
        return np.dtype(f"i{bits // 8}"), bits
    names = {_UNSIGNED: "integer", _SIGNED: "signed integer", _FLOAT: "float", _VOID: "untyped"}
    raise unsupported(f"a {bits}-bit {names.get(form, 'complex')} TIFF")


def read_samples(data: bytes, page: Page) -> np.ndarray:
    """Read the unscaled samples [H,W,C] of a page, of `sample_type` in native byte order.

    Raises:
        ImageError: a segment is missing or damaged, or the compression is not supported.
    """
    compression = page.compression
    if compression != 1 and compression not in (*_DEFLATE, *_LIBTIFF, _LZMA, _JPEG, *_FAX):
        name = COMPRESSIONS.get(compression, f"method {compression}")
        raise unsupported(f"a TIFF compressed by {name}")
    segments = page.segments(len(data))
    dtype, bits = sample_type(page)
    channels = 1 if page.is_planar else page.channels
    if compression in _FAX:
        return _fax(data, page, bits)
    if compression == _JPEG:
        parts = [_jpeg(data, page, segment, bits) for segment in segments]
        channels_found = parts[0].shape[2]
        picture = np.empty((page.height, page.width, page.channels if page.is_planar else channels_found), np.uint8)
    else:
        rows = _unpacked(data, page, segments, -(-page.segment_size[1] * channels * bits // 8))
        parts = [_numbers(row, page, segment, dtype, bits) for row, segment in zip(rows, segments, strict=True)]
        picture = np.empty((page.height, page.width, page.channels), dtype)
    for part, segment in zip(parts, segments, strict=True):
        planes = slice(segment.plane, segment.plane + 1) if page.is_planar else slice(None)
        place = picture[segment.top : segment.top + segment.rows, segment.left : segment.left + segment.columns, planes]
        if part.shape[0] < place.shape[0] or part.shape[1] < place.shape[1] or part.shape[2] != place.shape[2]:
            raise ImageError("unreadable", "damaged TIFF: a part is smaller than its place in the picture")
        place[...] = part[: place.shape[0], : place.shape[1]]
    return picture


def _unpacked(data: bytes, page: Page, segments: Sequence[Segment], row_bytes: int) -> list[np.ndarray]:
    """Decompress the segments to bytes [rows, row_bytes] each."""
    compression = page.compression
    stored = [memoryview(data)[segment.place : segment.place + segment.bytes] for segment in segments]
    if page.one(FILL_ORDER, 1) == 2:
        stored = [memoryview(bytes(part).translate(_REVERSED)) for part in stored]
    needed = [segment.rows * row_bytes for segment in segments]
    if compression == 1:
        unpacked: Sequence[bytes | memoryview] = [part[:count] for part, count in zip(stored, needed, strict=True)]
    elif compression in _DEFLATE:
        unpacked = [_inflated(part, count) for part, count in zip(stored, needed, strict=True)]
    elif compression == _LZMA:
        unpacked = [lzma.LZMADecompressor().decompress(part, count) for part, count in zip(stored, needed, strict=True)]
    else:
        unpacked = _by_libtiff(stored, compression, row_bytes, needed)
    for found, count in zip(unpacked, needed, strict=True):
        if len(found) < count:
            raise ImageError("unreadable", f"cut off: a part of the TIFF has {len(found)} bytes and needs {count}")
    return [np.frombuffer(found, np.uint8).reshape(-1, row_bytes) for found in unpacked]


def _inflated(part: memoryview, needed: int) -> bytes:
    stream = zlib.decompressobj()
    try:
        found = stream.decompress(part, needed)
        # Decompress to the end, to verify the checksum there, unless there are rows beyond the image.
        stream.decompress(stream.unconsumed_tail, 1)
    except zlib.error as error:
        raise ImageError("unreadable", f"damaged TIFF: {error}") from None
    return found


def _by_libtiff(parts: Sequence[memoryview], compression: int, row_bytes: int, needed: Sequence[int]) -> list[bytes]:
    """Decompress segments by libtiff, as strips of an 8-bit grey TIFF, whose samples need no interpretation."""
    unpacked: list[bytes] = []
    while len(unpacked) < len(parts):
        start, size = len(unpacked), needed[len(unpacked)]
        alike = sum(1 for _ in takewhile(size.__eq__, needed[start:]))
        strips = parts[start : start + min(alike, max(1, _LIBTIFF_BYTES // size))]
        found = _grey_tiff(strips, compression, row_bytes, size // row_bytes)
        try:
            picture = TiffImageFile(BytesIO(found)).tobytes()
        except OSError as error:
            raise ImageError("unreadable", f"damaged TIFF: a part of it can't be unpacked ({error})") from None
        unpacked += [picture[k * size : (k + 1) * size] for k in range(len(strips))]
    return unpacked


def _grey_tiff(strips: Sequence[memoryview], compression: int, row_bytes: int, rows: int) -> bytes:
    """Build an 8-bit grey TIFF from compressed strips with `rows` rows each."""
    count, body = len(strips), b"".join(strips)
    arrays = 8 + len(body) + len(body) % 2
    lengths = [len(strip) for strip in strips]
    places = [8 + before for before in accumulate(lengths[:-1], initial=0)]
    values = {256: row_bytes, 257: rows * count, 258: 8, 259: compression, 262: 1, 277: 1, 278: rows}
    entries = {tag: struct.pack("<HHII", tag, 4, 1, value) for tag, value in values.items()}
    for tag, numbers, place in ((273, places, arrays), (279, lengths, arrays + 4 * count)):
        entries[tag] = struct.pack("<HHII", tag, 4, count, numbers[0] if count == 1 else place)
    directory = struct.pack("<H", len(entries)) + b"".join(entries[tag] for tag in sorted(entries)) + bytes(4)
    start = b"II*\0" + struct.pack("<I", arrays + 8 * count)
    return b"".join([start, body, bytes(len(body) % 2), struct.pack(f"<{2 * count}I", *places, *lengths), directory])


def _numbers(rows: np.ndarray, page: Page, segment: Segment, dtype: np.dtype, bits: int) -> np.ndarray:
    """Convert the bytes of a segment to samples [rows, columns, channels], and undo the predictor."""
    channels = 1 if page.is_planar else page.channels
    shape = (segment.rows, segment.columns, channels)
    predictor = page.one(PREDICTOR, 1) if page.compression != 1 else 1
    if predictor not in (1, 2, 3) or (predictor != 1 and bits not in (8, 16, 32, 64)):
        raise unsupported(f"a {bits}-bit TIFF with predictor {predictor}")
    if predictor == 3:
        # Byte differences; each row has all high bytes first, then the next lower ones (TIFF technical note 3).
        summed = np.cumsum(rows.reshape(segment.rows, -1, channels), 1, np.uint8).reshape(segment.rows, bits // 8, -1)
        return (
            np.ascontiguousarray(summed.transpose(0, 2, 1)).view(dtype.newbyteorder(">")).astype(dtype).reshape(shape)
        )
    if bits not in (8, 16, 32, 64):
        return _odd_depth(rows, segment.columns * channels, bits, dtype).reshape(shape)
    numbers = rows.view(dtype.newbyteorder("<" if page.order == "<" else ">")).reshape(shape)
    if predictor == 2:
        # Differences are modulo 2^bits, also for signed integers and floats.
        whole = np.dtype(f"u{bits // 8}")
        return np.cumsum(numbers.astype(dtype).view(whole), 1, whole).view(dtype)
    return numbers


def _odd_depth(rows: np.ndarray, count: int, bits: int, dtype: np.dtype) -> np.ndarray:
    """Unpack samples of 1 to 15 bits, packed with the highest bit first; each row starts at a byte."""
    numbers = np.empty((len(rows), count), dtype)
    weights = (1 << np.arange(bits)[::-1]).astype(np.uint16)
    step = max(1, _UNPACKED_BITS // (count * bits))
    for start in range(0, len(rows), step):
        unpacked = np.unpackbits(rows[start : start + step], axis=1, count=count * bits)
        numbers[start : start + step] = (unpacked.reshape(-1, count, bits) @ weights).astype(dtype)
    return numbers


def _jpeg(data: bytes, page: Page, segment: Segment, bits: int) -> np.ndarray:
    """Decode a JPEG segment to [h,w,C]; its tables may be in the directory."""
    if bits != 8:
        raise unsupported(f"a TIFF with a {bits}-bit JPEG in it")
    part = data[segment.place : segment.place + segment.bytes]
    tables = bytes(page.tags.get(JPEG_TABLES, ())).removesuffix(b"\xff\xd9")
    walked = jpeg.walk((tables or b"\xff\xd8") + part.removeprefix(b"\xff\xd8"))
    frame = walked.frame
    channels = len(frame.components)
    if channels not in (1, 3):
        raise unsupported(f"a TIFF with a JPEG of {channels} channels in it")
    rows, columns = page.segment_size
    if frame.height > rows or frame.width > columns:
        raise ImageError("unreadable", "damaged TIFF: a JPEG in it is larger than its place in the picture")
    # The directory defines the colour transform; an Adobe marker passes it to libjpeg, which would otherwise guess.
    transform = 1 if page.one(PHOTOMETRIC, 6) == 6 else 0
    adobe = b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0" + bytes([transform])
    pixels = jpeg.pixels_of(walked._replace(heads=[walked.heads[0] + adobe, *walked.heads[1:]]))
    return pixels.reshape(frame.height, frame.width, channels)


def _fax(data: bytes, page: Page, bits: int) -> np.ndarray:
    """Decode a page in a fax compression to [H,W,1] by libtiff; fax codes have no checksum."""
    if bits != 1 or page.channels != 1:
        raise unsupported(f"a TIFF of {bits} bits and {page.channels} channels in fax code")
    image = TiffImageFile(BytesIO(data))
    is_white = np.asarray(image).astype(np.uint8)[..., None]
    return is_white if page.one(PHOTOMETRIC, 1) == 1 else 1 - is_white
