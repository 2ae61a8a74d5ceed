"""Every combination of what a TIFF may be gives its pixels, or a reason that names the kind."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator
from io import BytesIO
from typing import Any, NamedTuple

import cv2
import numpy as np
import pytest
import tifffile
from image_files import HEIGHT, SMOOTH, WIDTH, grey3, grey_tags, grey_tiff, saved, tiff
from PIL import Image

from diffad_ray.images import ImageError, decode_image

UNIT = (0.05 + 0.9 * SMOOTH / 255.0).clip(0, 1)
"[H,W,3] the picture in [0,1]"
LAYOUTS: dict[str, dict[str, Any]] = {
    "a strip": {},
    "strips of 5": {"rowsperstrip": 5},
    "tiles": {"tile": (16, 16)},
}
COMPRESSIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "deflate": {"compression": "zlib"},
    "deflate, predicted": {"compression": "zlib", "predictor": True},
    "LZW": {"compression": "lzw"},
    "LZW, predicted": {"compression": "lzw", "predictor": True},
    "PackBits": {"compression": "packbits"},
    "Zstandard": {"compression": "zstd"},
    "LZMA": {"compression": "lzma"},
}
WHITES = {"u1": 255, "u2": 65535, "i1": 127, "i2": 32767, "f2": 1, "f4": 1, "f8": 1, "u4": 4095, "i4": 4095}
"""The value of white, by type; of integers of 32 bits it is given by the detector."""
COLOURS = {"grey": 1, "white is zero": 1, "grey+alpha": 2, "RGB": 3, "RGBA": 4, "planes": 3}


class Written(NamedTuple):
    """A TIFF of the picture as a library wrote it."""

    name: str
    data: bytes
    dtype: str
    is_grey: bool


def written(kinds: list[str]) -> Iterator[Written]:
    """The picture in all kinds of TIFF, by tifffile."""
    orders, layouts = ("<", ">"), LAYOUTS
    for kind, colours, order, layout, packing in itertools.product(kinds, COLOURS, orders, layouts, COMPRESSIONS):
        if kind == "f2" and "predicted" in packing:
            continue  # which predictor halves have is not agreed on
        white, channels = WHITES[kind], COLOURS[colours]
        values = UNIT if channels >= 3 else UNIT[..., :1]
        if channels in (2, 4):
            values = np.concatenate([values, np.full((HEIGHT, WIDTH, 1), 0.5)], -1)
        if colours == "white is zero":
            values = 1 - values
        numbers = (values * white if kind[0] == "f" else np.round(values * white)).astype(order + kind)
        more: dict[str, Any] = {"photometric": "rgb" if channels >= 3 else "minisblack"}
        if colours == "white is zero":
            more["photometric"] = "miniswhite"
        if channels in (2, 4):
            more |= {"extrasamples": ["unassalpha"], "planarconfig": "contig"}
        elif channels == 3:
            more["planarconfig"] = "separate" if colours == "planes" else "contig"
        if colours == "planes":
            numbers = numbers.transpose(2, 0, 1)
        file = BytesIO()
        picture = np.ascontiguousarray(numbers[..., 0] if channels == 1 else numbers)
        tifffile.imwrite(
            file, picture, byteorder=order, metadata=None, **more, **layouts[layout], **COMPRESSIONS[packing]
        )
        yield Written(f"{kind} {colours} {order} {layout} {packing}", file.getvalue(), kind, channels < 3)


@pytest.mark.parametrize("kind", WHITES)
def test_every_combination_gives_its_pixels(kind: str) -> None:
    """Number of bits, sign, order of bytes, colours, planes, strips and tiles, compression and prediction."""
    count = 0
    for file in written([kind]):
        decoded = decode_image(file.data, white=WHITES[kind] if kind in ("u4", "i4") else None)
        top = np.iinfo(decoded.pixels.dtype).max
        expected = grey3(UNIT[..., 0]) if file.is_grey else UNIT
        # Rounded once when it was written, once when it was read.
        allowed = 0.51 / WHITES[kind] + 1.01 / top if kind[0] != "f" else 0.001
        assert np.abs(decoded.pixels / top - expected).max() <= allowed, file.name
        count += 1
    assert count > 150


def test_packed_depths() -> None:
    for bits, black_is, order in itertools.product(range(1, 17), (0, 1), "<>"):
        white = 2**bits - 1
        levels = np.round(UNIT[..., 0] * white).astype(np.uint32)
        shifts = np.arange(bits)[::-1]
        rows = np.packbits((levels[..., None] >> shifts & 1).reshape(HEIGHT, -1).astype(np.uint8), axis=1).tobytes()
        if bits == 16 and order == "<":
            rows = levels.astype("<u2").tobytes()
        decoded = decode_image(grey_tiff(bits, rows, black_is=black_is, order=order))
        top = np.iinfo(decoded.pixels.dtype).max
        shown = levels / white if black_is else 1 - levels / white
        assert decoded.mode == f"{bits}-bit grey"
        assert np.abs(decoded.pixels[..., 0] / top - shown).max() <= 1.01 / top, (bits, black_is, order)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palettes(order: str, bits: int) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (3, 2**bits)).astype(np.uint16)
    indices = (SMOOTH[..., 0] >> (8 - bits)).astype(np.uint8)
    shifts = np.arange(bits)[::-1]
    rows = np.packbits((indices[..., None] >> shifts & 1).reshape(HEIGHT, -1), axis=1).tobytes()
    tags = {**grey_tags(bits, black_is=3), 320: (4, 0)}
    whole = bytearray(tiff(tags, rows, order) + (colours * 257).astype(f"{order}u2").tobytes())
    entry = 10 + 12 * sorted([*tags, 273, 279]).index(320)
    whole[entry : entry + 12] = struct.pack(f"{order}HHII", 320, 3, colours.size, len(whole) - 2 * colours.size)
    decoded = decode_image(bytes(whole))
    assert decoded.mode == f"{bits}-bit palette"
    np.testing.assert_array_equal(decoded.pixels, colours.T[indices].astype(np.uint8))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_colours_multiplied_by_their_transparency_are_divided(dtype: type[np.generic]) -> None:
    white = np.iinfo(dtype).max
    alpha = np.full((HEIGHT, WIDTH, 1), 0.5)
    numbers = np.round(np.concatenate([UNIT * alpha, alpha], -1) * white).astype(dtype)
    file = BytesIO()
    tifffile.imwrite(file, numbers, photometric="rgb", extrasamples=["assocalpha"], metadata=None)
    decoded = decode_image(file.getvalue())
    assert np.abs(decoded.pixels / white - UNIT).max() <= 2.1 / white


def test_inks() -> None:
    inks = np.dstack([255 - SMOOTH, np.zeros((HEIGHT, WIDTH), np.uint8)])
    data = saved(Image.fromarray(inks, "CMYK"), "TIFF")
    assert decode_image(data).mode == "8-bit CMYK"
    np.testing.assert_array_equal(decode_image(data).pixels, SMOOTH)


@pytest.mark.parametrize("more", [{}, {"subsampling": (2, 2)}, {"tile": (16, 16)}, {"photometric": "rgb"}])
def test_jpeg_within(more: dict[str, Any]) -> None:
    file = BytesIO()
    options = {"photometric": "ycbcr", "compression": "jpeg", "compressionargs": {"level": 98}, "metadata": None}
    options |= {"rowsperstrip": 16} if "tile" not in more else {}
    tifffile.imwrite(file, SMOOTH, **(options | more))
    decoded = decode_image(file.getvalue()).pixels
    seen = cv2.imdecode(np.frombuffer(file.getvalue(), np.uint8), cv2.IMREAD_COLOR_RGB)
    assert np.abs(decoded.astype(int) - seen).mean() < 1, "libtiff shows the same"


def test_the_picture_is_the_page_that_is_no_copy_of_another() -> None:
    def with_pages(*pages: tuple[np.ndarray, int]) -> bytes:
        file = BytesIO()
        with tifffile.TiffWriter(file) as writer:
            for picture, kind in pages:
                writer.write(picture, photometric="rgb", subfiletype=kind, metadata=None)
        return file.getvalue()

    small = np.ascontiguousarray(SMOOTH[::2, ::2])
    one_picture = {
        "copy first": with_pages((small, 1), (SMOOTH, 0)),
        "copy last": with_pages((SMOOTH, 0), (small, 1)),
        "copies only": with_pages((small, 1), (SMOOTH, 1)),
    }
    for name, data in one_picture.items():
        decoded = decode_image(data)
        assert decoded.mode == "8-bit RGB", name
        np.testing.assert_array_equal(decoded.pixels, SMOOTH)
    several = decode_image(with_pages((small, 1), (SMOOTH, 0), (255 - SMOOTH, 0), (SMOOTH, 2)))
    assert several.mode == "8-bit RGB, page 1 of 3"
    np.testing.assert_array_equal(several.pixels, SMOOTH)


def test_floats_that_rounding_put_outside_are_clipped() -> None:
    values = UNIT[..., 0].astype(np.float32)
    values[0, :2] = -1e-6, 1 + 1e-6
    decoded = decode_image(grey_tiff(32, values.tobytes(), 3))
    assert (decoded.pixels[0, 0, 0], decoded.pixels[0, 1, 0]) == (0, 65535)
    values[0, 0] = -0.1
    with pytest.raises(ImageError, match=r"holds values from -0\.1"):
        decode_image(grey_tiff(32, values.tobytes(), 3))


def compressed(method: int) -> bytes:
    return tiff({**grey_tags(8), 259: (3, method)}, SMOOTH[..., 0].tobytes())


NAMED = {
    "a camera's colour mosaic (Bayer)": grey_tiff(8, SMOOTH[..., 0].tobytes(), black_is=32803),
    "CIELab": tiff({**grey_tags(8), 262: (3, 8), 277: (3, 3)}, SMOOTH.tobytes()),
    "LogLuv": grey_tiff(16, bytes(2 * SMOOTH[..., 0].size), black_is=32845),
    "JPEG 2000": compressed(34712),
    "LERC": compressed(34887),
    "JPEG XR": compressed(22610),
    "JPEG of the old style": compressed(6),
    "method 4711": compressed(4711),
    "24-bit integer": grey_tiff(24, bytes(3 * SMOOTH[..., 0].size)),
    "24-bit float": grey_tiff(24, bytes(3 * SMOOTH[..., 0].size), 3),
    "64-bit complex": grey_tiff(64, bytes(8 * SMOOTH[..., 0].size), 6),
    "nothing says which value is white": grey_tiff(32, SMOOTH[..., 0].astype("<u4").tobytes()),
}


@pytest.mark.parametrize("reason", NAMED)
def test_kinds_that_are_not_read_are_named(reason: str) -> None:
    with pytest.raises(ImageError) as caught:
        decode_image(NAMED[reason])
    assert caught.value.status == "unreadable"
    assert reason in str(caught.value)


@pytest.mark.parametrize("packing", COMPRESSIONS)
def test_cut_files_are_refused(packing: str) -> None:
    """At every place behind the pixels' beginning: no library's leniency turns rows into black."""
    noise = np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    file = BytesIO()
    tifffile.imwrite(file, noise, photometric="rgb", rowsperstrip=8, metadata=None, **COMPRESSIONS[packing])
    data = file.getvalue()
    np.testing.assert_array_equal(decode_image(data).pixels, noise)
    for length in range(8, len(data), 37):
        with pytest.raises(ImageError):
            decode_image(data[:length])
    missing = data.replace(struct.pack("<H", 279), struct.pack("<H", 280), 1)
    if missing != data and packing != "plain":
        with pytest.raises(ImageError, match="0 of the 3 parts"):
            decode_image(missing)


@pytest.mark.parametrize("packing", ["deflate", "LZMA"])
def test_holes_of_zeros_are_refused(packing: str) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    file = BytesIO()
    tifffile.imwrite(file, noise, photometric="rgb", metadata=None, **COMPRESSIONS[packing])
    data = file.getvalue()
    start = len(data) - 2000
    for place in range(start, start + 1800, 128):
        with pytest.raises(ImageError):
            decode_image(data[:place] + bytes(128) + data[place + 128 :])


def test_turned_as_the_tag_says_whatever_the_compression() -> None:
    for packing in COMPRESSIONS.values():
        file = BytesIO()
        tifffile.imwrite(file, SMOOTH, photometric="rgb", metadata=None, extratags=[(274, 3, 1, 6, True)], **packing)
        np.testing.assert_array_equal(decode_image(file.getvalue()).pixels, np.rot90(SMOOTH, -1))
