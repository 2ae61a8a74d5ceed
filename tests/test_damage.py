"""Damage to JPEG and PNG files: wherever bytes are cut off, zeroed or lost, no wrong pixels come out as right ones."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from io import BytesIO

import numpy as np
import pytest
from image_files import HEIGHT, WIDTH, chunk, interlaced_png, png, png_rows, saved, saved_cv2
from PIL import Image

from diffad_ray.images import ImageError, decode_image

ROWS, COLUMNS = np.mgrid[:160, :200]
PICTURE = (90 + 60 * np.sin(ROWS / 9) * np.cos(COLUMNS / 7))[..., None] + np.array([0, 30, 60])
PICTURE = (PICTURE + np.random.default_rng(5).normal(0, 6, PICTURE.shape)).clip(0, 255).astype(np.uint8)
NOISE = np.random.default_rng(7).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
LOST = 512
"Bytes that are zeroed or lost at once: a block of a disk."
JPEGS = {
    "colour": saved(PICTURE, "JPEG", quality=92),
    "grey": saved(PICTURE[..., 0], "JPEG", quality=92),
    "tables of its own": saved(PICTURE, "JPEG", quality=85, optimize=True),
    "restart markers": saved(PICTURE, "JPEG", quality=92, restart_marker_rows=1),
}
PROGRESSIVE = saved(PICTURE, "JPEG", quality=92, progressive=True)


def holds_wrong_pixels(data: bytes, right: np.ndarray) -> bool:
    """Whether a damaged file is taken for an image that it is not."""
    try:
        pixels = decode_image(data).pixels
    except ImageError:
        return False
    return pixels.shape != right.shape or bool((pixels != right).any())


def damaged(data: bytes, start: int, size: int, step: int) -> Iterator[tuple[str, bytes]]:
    """A file cut off and closed, with bytes zeroed, and with bytes missing, at every place from `start` on."""
    for place in range(start, len(data) - 2 - size, step):
        yield f"cut at {place}", data[:place].rstrip(b"\xff") + data[-2:]
        yield f"zeroed at {place}", data[:place] + bytes(size) + data[place + size :]
        yield f"lost at {place}", data[:place] + data[place + size :]


def scan_of(data: bytes) -> int:
    """Where the first scan of a JPEG begins."""
    start = data.index(b"\xff\xda")
    return start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")


@pytest.mark.parametrize("name", JPEGS)
def test_no_damaged_jpeg_is_an_image(name: str) -> None:
    data = JPEGS[name]
    right = decode_image(data).pixels
    found = [what for what, file in damaged(data, scan_of(data), LOST, 61) if holds_wrong_pixels(file, right)]
    assert not found


def test_no_jpeg_with_a_hole_of_zeros_is_an_image() -> None:
    for data in JPEGS.values():
        right = decode_image(data).pixels
        start = scan_of(data)
        holes = [data[:place] + bytes(40) + data[place + 40 :] for place in range(start, len(data) - 42, 97)]
        assert not any(holds_wrong_pixels(hole, right) for hole in holes)


def test_zeros_in_a_flat_jpeg_are_no_hole() -> None:
    """With tables of its own, a flat area may be coded as zeros."""
    flat = np.full((400, 400), 128, np.uint8)
    flat[:40] = NOISE[..., 0].mean()
    data = saved(flat, "JPEG", optimize=True)
    assert bytes(8) in data
    assert decode_image(data).pixels.shape == (400, 400, 3)


def test_a_progressive_jpeg_needs_all_its_scans() -> None:
    scans = [place for place in range(len(PROGRESSIVE)) if PROGRESSIVE.startswith(b"\xff\xda", place)]
    assert len(scans) > 5
    for place in scans[1:]:
        with pytest.raises(ImageError, match="lacks some of its scans"):
            decode_image(PROGRESSIVE[:place] + b"\xff\xd9")


def test_a_scan_filled_up_with_zeros_is_whole() -> None:
    """Some cameras write a multiple of so many bytes."""
    data = JPEGS["grey"]
    right = decode_image(data).pixels
    np.testing.assert_array_equal(decode_image(data[:-2] + bytes(30) + data[-2:]).pixels, right)


def test_jpegs_of_odd_frames_are_named() -> None:
    data = JPEGS["colour"]
    frame = data.index(b"\xff\xc0")

    def with_frame(marker: int, precision: int = 8) -> bytes:
        return (
            data[: frame + 1] + bytes([marker]) + data[frame + 2 : frame + 4] + bytes([precision]) + data[frame + 5 :]
        )

    for marker, precision, name in ((0xC1, 12, "12-bit JPEG"), (0xF7, 8, "JPEG-LS"), (0xC3, 8, "lossless JPEG")):
        with pytest.raises(ImageError, match=f"{name}, a kind that is not supported"):
            decode_image(with_frame(marker, precision))


def saved_deep(depth: int) -> bytes:
    deep = NOISE.astype(np.uint16) * 257
    return saved_cv2(deep if depth == 3 else deep[..., 0].copy(), ".png")


PNGS = {
    "8-bit grey": (png(WIDTH, HEIGHT, 8, 0, png_rows(NOISE[..., 0])), 8, 0),
    "8-bit RGB": (saved(NOISE, "PNG"), 8, 2),
    "8-bit RGBA": (saved(np.dstack([NOISE, NOISE[..., 0]]), "PNG"), 8, 6),
    "palette": (saved(Image.fromarray(NOISE).quantize(200), "PNG"), 8, 3),
    "16-bit grey": (saved_deep(1), 16, 0),
    "16-bit RGB": (saved_deep(3), 16, 2),
    "interlaced": (interlaced_png(NOISE), 8, 2),
}


def unpacked(data: bytes) -> tuple[bytes, bytes, bytes]:
    """What stands before the rows of a PNG, its rows, and what follows."""
    start = data.index(b"IDAT") - 4
    end = data.rindex(b"IDAT") + 8 + int.from_bytes(data[data.rindex(b"IDAT") - 4 : data.rindex(b"IDAT")], "big")
    packed, place = b"", start
    while place < end:
        length = int.from_bytes(data[place : place + 4], "big")
        packed += data[place + 8 : place + 8 + length]
        place += 12 + length
    return data[:start], zlib.decompress(packed), data[end:]


@pytest.mark.parametrize("name", PNGS)
def test_a_png_needs_all_its_rows(name: str) -> None:
    """Checksums are right; the stream ends early, at every place."""
    data, _, _ = PNGS[name]
    before, rows, behind = unpacked(data)
    right = decode_image(before + chunk(b"IDAT", zlib.compress(rows)) + behind).pixels
    poison = np.full(right.shape, 0xAA, right.dtype)  # what memory may hold that nobody has cleared
    del poison
    for length in range(0, len(rows), 29):
        shorter = before + chunk(b"IDAT", zlib.compress(rows[:length])) + behind
        assert not holds_wrong_pixels(shorter, right), length
        with pytest.raises(ImageError, match=r"truncated|damaged"):
            decode_image(shorter)


@pytest.mark.parametrize("name", PNGS)
def test_no_damaged_png_is_an_image(name: str) -> None:
    data, _, _ = PNGS[name]
    right = decode_image(data).pixels
    assert not [what for what, file in damaged(data, 8, 64, 37) if holds_wrong_pixels(file, right)]


def test_black_rows_are_rows() -> None:
    black = NOISE.copy()
    black[-5:] = 0
    np.testing.assert_array_equal(decode_image(saved(black, "PNG")).pixels, black)


def test_avif_is_read() -> None:
    file = BytesIO()
    Image.fromarray(PICTURE).save(file, "AVIF", quality=90)
    decoded = decode_image(file.getvalue())
    assert decoded.mode == "8-bit RGB"
    assert np.abs(decoded.pixels.astype(int) - PICTURE).mean() < 6


OTHERS = {
    "a HEIC image": b"\0\0\0\x18ftypheic" + bytes(40),
    "a JPEG XL image": b"\xff\x0a" + bytes(40),
    "a DICOM file": bytes(128) + b"DICM" + bytes(40),
    "AppleDouble": b"\0\5\x16\7\0\2\0\0Mac OS X" + bytes(40),
    "a pointer of Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:12\n",
    "40 zeros": bytes(40),
    "an OpenEXR image": b"\x76\x2f\x31\x01" + bytes(40),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_kinds_are_named(name: str) -> None:
    with pytest.raises(ImageError, match=name):
        decode_image(OTHERS[name])
