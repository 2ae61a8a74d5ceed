"""Image files that are broken, too large or random bytes: each gives an image, or an error that says why."""

import pickle
import struct

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from image_files import HEIGHT, SMOOTH, WIDTH, chunk, grey_tiff, png, saved, saved_cv2, tiff
from PIL import Image
from test_images import DRAWN, EXACT, FLOATS, GREY16, PALETTE, PGM12, RGB, RGB16, jpeg_cases

from diffad_ray.images import DecodedImage, ImageError, decode_image

JPEG = saved(SMOOTH, "JPEG", quality=95)
PNG = saved(RGB, "PNG")
BROKEN = {
    "empty": (b"", "0 bytes"),
    "html": (b"<!DOCTYPE html><html>not found</html>", "starts with '<!DOCTYPE'"),
    "zeros": (bytes(500), "500 zeros"),
    "random": (DRAWN.integers(0, 256, 999, dtype=np.uint8).tobytes(), "not an image file"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image file"),
    "jpeg cut off": (JPEG[: len(JPEG) * 2 // 3], "cut off"),
    "jpeg without its last byte": (JPEG[:-1], "cut off"),
    "jpeg cut off and filled up with zeros": (JPEG[:-200] + bytes(4000), "cut off"),
    "jpeg signature only": (JPEG[:3], "cut off"),
    "jpeg without size": (JPEG[:2] + JPEG[-2:], "damaged"),
    "jpeg of too many scans": (JPEG[:-2] + b"\xff\xda\0\x02" * 200 + JPEG[-2:], "scans"),
    "png cut off": (PNG[:700], "cut off"),
    "png without end": (PNG[:-12], "cut off"),
    "png with a flipped byte": (PNG[:500] + bytes([PNG[500] ^ 1]) + PNG[501:], "checksum"),
    "png with too few rows": (png(WIDTH, HEIGHT, 8, 0, bytes(WIDTH)), "truncated"),
    "png of no width": (png(0, 3, 8, 0, b""), "0 x 3"),
    "png for iPhones": (PNG[:8] + chunk(b"CgBI", b"abcd") + PNG[8:], "CgBI"),
    "tiff cut off": (saved(RGB, "TIFF")[:-100], ""),
    "tiff LZW cut off": (saved(RGB, "TIFF", compression="tiff_lzw")[:-900], ""),
    "tiff 16-bit RGB cut off": (saved_cv2(RGB16, ".tif", cv2.IMWRITE_TIFF_COMPRESSION, 1)[:3000], ""),
    "tiff 16-bit grey, pixels cut off": (grey_tiff(16, GREY16.tobytes())[:-100], "cut off"),
    "tiff float outside": (saved(FLOATS * 7 - 1, "TIFF"), "-0.991989 to 5.99541"),
    "tiff float, not a number": (saved(FLOATS * np.float32("nan"), "TIFF"), "nan"),
    "tiff negative": (grey_tiff(16, GREY16.tobytes(), 2), "holds values from -"),
    "bmp cut off": (saved(RGB, "BMP")[:-100], "truncated"),
    "gif cut off": (saved(PALETTE, "GIF")[:-200], "truncated"),
    "webp cut off": (saved(RGB, "WEBP")[:-100], ""),
    "pgm cut off": (PGM12 + bytes(100), "cut off"),
    "pgm above its maximum": (PGM12 + b"\xff" * (2 * WIDTH * HEIGHT), "65535"),
    "jpeg 2000 cut off": (saved(RGB, "JPEG2000")[:200], ""),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_say_why(name: str) -> None:
    data, reason = BROKEN[name]
    with pytest.raises(ImageError) as caught:
        decode_image(data)
    assert caught.value.status == "unreadable"
    assert reason in str(caught.value)
    assert len(str(caught.value)) > 5


def huge_jpeg2000() -> bytes:
    """A header box that says 40 x 24 around a codestream that says 60,000 x 60,000."""
    data = saved(RGB, "JPEG2000")
    size = data.index(b"\xff\x4f\xff\x51") + 8
    return data[:size] + struct.pack(">II", 60_000, 60_000) + data[size + 8 :]


TOO_LARGE = {
    "png": png(60_000, 60_000, 1, 0, bytes(1_000_000)),
    "jpeg": (lambda at: JPEG[: at + 5] + b"\xff\xff\xff\xff" + JPEG[at + 9 :])(JPEG.index(b"\xff\xc0")),
    "gif": b"GIF89a\xff\xff\xff\xff\0\0\0" + saved(PALETTE, "GIF")[13:],
    "webp": b"RIFF\xff\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0\xff\xff\0\xff\xff\0" + bytes(200),
    "tiff": tiff({256: (4, 60_000), 257: (4, 60_000), 258: (3, 8), 259: (3, 1), 262: (3, 1), 278: (4, 60_000)}, b"abc"),
    "pgm": b"P5 60000 60000 255 abc",
    "jpeg 2000": huge_jpeg2000(),
}


@pytest.mark.parametrize("name", TOO_LARGE)
def test_too_large_is_found_without_decoding(name: str) -> None:
    with pytest.raises(ImageError, match="more than the limit of 100,000,000") as caught:
        decode_image(TOO_LARGE[name])
    assert caught.value.status == "too_large"


def test_a_side_that_is_too_long_for_a_mask_is_too_large() -> None:
    def wide(width: int) -> bytes:
        tags = {256: (4, width), 257: (4, 16), 258: (3, 8), 259: (3, 1), 262: (3, 1), 278: (4, 16)}
        return tiff(tags, bytes(16 * width))

    assert decode_image(wide(1_000_000)).pixels.shape == (16, 1_000_000, 3)
    with pytest.raises(ImageError, match="1000001 x 16 pixels, a side of more than 1,000,000") as caught:
        decode_image(wide(1_000_001))
    assert caught.value.status == "too_large"


def of_cv2(code: int) -> cv2.error:
    error = cv2.error("as OpenCV says it")
    error.code = code
    return error


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (MemoryError(), "too_large", "not enough memory"),
        (RuntimeError("libjxl: out of memory"), "too_large", "not enough memory"),
        (of_cv2(cv2.Error.StsNoMem), "too_large", "not enough memory"),
        (of_cv2(cv2.Error.StsBadArg), "unreadable", "damaged image file (error: as OpenCV says it)"),
        (Image.DecompressionBombError("a bomb"), "too_large", "a bomb"),
        (IndexError("at 7"), "unreadable", "damaged image file (IndexError: at 7)"),
    ],
)
def test_errors_of_libraries_become_reasons(
    error: Exception, status: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("diffad_ray.images.decode.reader_of", lambda _: fail)
    with pytest.raises(ImageError) as caught:
        decode_image(PNG)
    assert caught.value.status == status
    assert said in str(caught.value)


def test_limit_is_inclusive() -> None:
    assert decode_image(PNG, max_pixels=WIDTH * HEIGHT).pixels.shape == RGB.shape
    with pytest.raises(ImageError, match="40 x 24"):
        decode_image(PNG, max_pixels=WIDTH * HEIGHT - 1)


def test_error_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(ImageError("too_large", "why")))  # noqa: S301
    assert (error.status, str(error)) == ("too_large", "why")


def survives(data: bytes) -> None:
    """Any other exception than ImageError fails the test."""
    try:
        decoded = decode_image(data, max_pixels=1_000_000)
    except ImageError as caught:
        error = caught
    else:
        assert isinstance(decoded, DecodedImage)
        assert decoded.pixels.dtype in (np.uint8, np.uint16)
        assert decoded.pixels.shape[2:] == (3,)
        assert decoded.pixels.size
        return
    assert error.status in ("unreadable", "too_large")
    assert str(error)


SEEDS = [data for data, _, _ in [*EXACT.values(), *jpeg_cases().values()] if len(data) < 100_000]
STARTS = [
    b"",
    b"\xff\xd8\xff",
    PNG[:16],
    b"II*\0\x08\0\0\0",
    b"BM",
    b"RIFF1234WEBPVP8 ",
    b"GIF89a",
    b"P5 ",
    b"\xff\x4f\xff\x51",
]


def with_right_checksums(data: bytes) -> bytes:
    """A PNG whose damage is not found by its checksums, so that it gets as far as the decoders."""
    chunks, start = [data[:8]], 8
    while start + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, start)
        chunks.append(chunk(data[start + 4 : start + 8], data[start + 8 : start + 8 + length]))
        start += 12 + length
    return b"".join(chunks)


@settings(max_examples=1000, deadline=5000)
@given(st.sampled_from(STARTS), st.binary(max_size=300))
def test_random_bytes_give_an_image_or_an_image_error(start: bytes, rest: bytes) -> None:
    survives(start + rest)


PLACES = st.one_of(st.integers(0, 120), st.integers(0, 10_000))
EXTREMES = st.sampled_from(
    [b"\0", b"\xff", b"\x80\0", b"\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\xff\xff\xff\xff"]
)


@settings(max_examples=3000, deadline=5000)
@given(
    st.sampled_from(SEEDS),
    st.lists(st.tuples(PLACES, st.one_of(st.binary(min_size=1, max_size=1), EXTREMES)), max_size=4),
    st.one_of(st.just(1.0), st.floats(0, 1.5)),
)
def test_damaged_files_give_an_image_or_an_image_error(
    data: bytes, changes: list[tuple[int, bytes]], kept: float
) -> None:
    damaged = bytearray(data)
    for place, value in changes:
        start = place % len(damaged)
        damaged[start : start + len(value)] = value
    survives(bytes(damaged[: int(len(damaged) * kept)]))
    if data.startswith(PNG[:8]):
        survives(with_right_checksums(bytes(damaged)))


@settings(max_examples=500, deadline=5000)
@given(st.sampled_from(SEEDS), st.sampled_from(SEEDS), PLACES, PLACES, st.integers(1, 200))
def test_mixed_files_give_an_image_or_an_image_error(one: bytes, other: bytes, at: int, start: int, count: int) -> None:
    at, start = at % len(one), start % len(other)
    survives(one[:at] + other[start : start + count] + one[at + count :])
