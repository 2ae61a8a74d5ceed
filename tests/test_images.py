"""Every kind of image file gives its pixels, and every broken one its reason."""

import zlib

import numpy as np
import pytest
from image_files import HEIGHT, SMOOTH, WIDTH, chunk, exif, grey3, grey_tiff, png, saved, saved_cv2, tiff
from PIL import Image

from diffad_ray.images import IMAGE_SUFFIXES, decode_image, for_display, resized

DRAWN = np.random.default_rng(7)
GREY = DRAWN.integers(0, 256, (HEIGHT, WIDTH), dtype=np.uint8)
RGB = DRAWN.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
RGBA = DRAWN.integers(0, 256, (HEIGHT, WIDTH, 4), dtype=np.uint8)
GREY16 = DRAWN.integers(0, 65536, (HEIGHT, WIDTH), dtype=np.uint16)
RGB16 = DRAWN.integers(0, 65536, (HEIGHT, WIDTH, 3), dtype=np.uint16)
BITS = GREY > 127


# Pillow warns of odd TIFF tags, which is what the broken files here are full of.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")


PALETTE = Image.fromarray(RGB).quantize(16)
PALETTE64 = Image.fromarray(RGB).quantize(64)
PALETTE64_RGB = np.asarray(PALETTE64.convert("RGB"))
PALETTE_RGB = np.asarray(PALETTE.convert("RGB"))
FLOATS = (GREY16 / 65535).astype(np.float32)
TWELVE = GREY16 >> 4
PGM12 = f"P5\n# a camera's\n{WIDTH} {HEIGHT}\n4095\n".encode()


def packed12(values: np.ndarray) -> bytes:
    first, second = values.reshape(-1, 2).astype(int).T
    return np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], -1).astype(np.uint8).tobytes()


def scaled(values: np.ndarray, white: int) -> np.ndarray:
    return np.floor(values.astype(np.float64) / white * 65535 + 0.5).astype(np.uint16)


EXACT = {
    "png grey": (saved(GREY, "PNG"), grey3(GREY), "8-bit grey"),
    "png RGB": (saved(RGB, "PNG"), RGB, "8-bit RGB"),
    "png RGBA": (saved(RGBA, "PNG"), RGBA[..., :3], "8-bit RGBA"),
    "png LA": (saved(Image.fromarray(RGBA[..., :2], "LA"), "PNG"), grey3(RGBA[..., 0]), "8-bit grey+alpha"),
    "png RGB, one colour transparent": (saved(RGB, "PNG", transparency=tuple(RGB[0, 0].tolist())), RGB, "8-bit RGB"),
    "png palette": (saved(PALETTE, "PNG"), PALETTE_RGB, "4-bit palette"),
    "png 8-bit palette": (saved(PALETTE64, "PNG"), PALETTE64_RGB, "8-bit palette"),
    "png transparent palette": (saved(PALETTE64, "PNG", transparency=bytes(64)), PALETTE64_RGB, "8-bit palette"),
    "png 1-bit": (saved(BITS, "PNG"), grey3(BITS * np.uint8(255)), "1-bit grey"),
    "png 2-bit": (png(4, 1, 2, 0, b"\0\x1b"), grey3(np.array([[0, 85, 170, 255]], np.uint8)), "2-bit grey"),
    "png 16-bit grey": (saved(GREY16, "PNG"), grey3(GREY16), "16-bit grey"),
    "png 16-bit RGB": (saved_cv2(RGB16, ".png"), RGB16, "16-bit RGB"),
    "png 16-bit RGBA": (saved_cv2(np.dstack([RGB16, GREY16]), ".png"), RGB16, "16-bit RGBA"),
    "png 16-bit LA": (
        png(1, 1, 16, 4, b"\0\x12\x34\x00\x10"),
        np.full((1, 1, 3), 0x1234, np.uint16),
        "16-bit grey+alpha",
    ),
    "tiff grey": (saved(GREY, "TIFF"), grey3(GREY), "8-bit grey"),
    "tiff RGB": (saved(RGB, "TIFF"), RGB, "8-bit RGB"),
    "tiff RGB, LZW": (saved(RGB, "TIFF", compression="tiff_lzw"), RGB, "8-bit RGB"),
    "tiff RGBA": (saved(RGBA, "TIFF"), RGBA[..., :3], "8-bit RGBA"),
    "tiff 1-bit": (saved(BITS, "TIFF"), grey3(BITS * np.uint8(255)), "1-bit grey"),
    "tiff palette": (saved(PALETTE, "TIFF"), PALETTE_RGB, "8-bit palette"),
    "tiff white is zero": (grey_tiff(8, GREY.tobytes(), black_is=0), grey3(255 - GREY), "8-bit grey"),
    "tiff 16-bit grey": (saved(GREY16, "TIFF"), grey3(GREY16), "16-bit grey"),
    "tiff 16-bit grey, deflate": (saved(GREY16, "TIFF", compression="tiff_deflate"), grey3(GREY16), "16-bit grey"),
    "tiff 16-bit big-endian": (
        grey_tiff(16, GREY16.astype(">u2").tobytes(), order=">"),
        grey3(GREY16),
        "16-bit grey",
    ),
    "tiff 16-bit, white is zero": (
        grey_tiff(16, GREY16.tobytes(), black_is=0),
        grey3(65535 - GREY16),
        "16-bit grey",
    ),
    "tiff 16-bit signed": (
        grey_tiff(16, (GREY16 >> 1).tobytes(), 2),
        grey3(scaled(GREY16 >> 1, 32767)),
        "16-bit grey",
    ),
    "tiff 12-bit": (grey_tiff(12, packed12(TWELVE)), grey3(scaled(TWELVE, 4095)), "12-bit grey"),
    "tiff 16-bit RGB": (saved_cv2(RGB16, ".tif"), RGB16, "16-bit RGB"),
    "tiff float": (saved(FLOATS, "TIFF"), grey3(GREY16), "float grey"),
    "tiff pages": (
        saved(RGB, "TIFF", save_all=True, append_images=[Image.new("RGB", (9, 9))]),
        RGB,
        "8-bit RGB, page 1 of 2",
    ),
    "bmp": (saved(RGB, "BMP"), RGB, "8-bit RGB"),
    "bmp grey": (saved(GREY, "BMP"), grey3(GREY), "8-bit grey"),
    "gif, animated": (
        saved(PALETTE, "GIF", save_all=True, append_images=[Image.new("P", (WIDTH, HEIGHT))]),
        PALETTE_RGB,
        "8-bit palette, frame 1 of 2",
    ),
    "webp": (saved(RGB, "WEBP", lossless=True), RGB, "8-bit RGB"),
    "webp, animated": (
        saved(Image.fromarray(RGB), "WEBP", lossless=True, save_all=True, append_images=[Image.fromarray(255 - RGB)]),
        RGB,
        "8-bit RGB, frame 1 of 2",
    ),
    "pgm": (saved(GREY, "PPM"), grey3(GREY), "8-bit grey"),
    "ppm": (saved(RGB, "PPM"), RGB, "8-bit RGB"),
    "pgm 12-bit": (PGM12 + TWELVE.astype(">u2").tobytes(), grey3(scaled(TWELVE, 4095)), "12-bit grey"),
    "ppm 16-bit": (b"P6 40 24 65535\n" + RGB16.astype(">u2").tobytes(), RGB16, "16-bit RGB"),
    "ppm 16-bit as text": (
        b"P3\n2 1\n65535\n0 65535 0 65535 0 65535\n",
        np.array([[[0, 255, 0], [255, 0, 255]]], np.uint8),
        "16-bit RGB",
    ),
    "pgm as text": (b"P2\n2 1\n255\n3 200\n", grey3(np.array([[3, 200]], np.uint8)), "8-bit grey"),
    "pbm": (saved(BITS, "PPM"), grey3(BITS * np.uint8(255)), "1-bit grey"),
    "jpeg 2000": (saved(RGB, "JPEG2000"), RGB, "8-bit RGB"),
    "jpeg 2000, 16-bit grey": (saved(GREY16, "JPEG2000"), grey3(GREY16), "16-bit grey"),
}


@pytest.mark.parametrize("name", EXACT)
def test_lossless_kinds_give_their_pixels(name: str) -> None:
    data, expected, mode = EXACT[name]
    decoded = decode_image(data)
    assert decoded.mode == mode
    assert decoded.pixels.dtype == expected.dtype
    is_scaled = "signed" in name or "12-bit" in name
    np.testing.assert_allclose(decoded.pixels, expected, rtol=0, atol=1 if is_scaled else 0)
    assert decoded.pixels.flags.c_contiguous
    assert decoded.pixels.flags.writeable


def test_16_bit_rgb_of_jpeg_2000() -> None:
    smooth = (SMOOTH.astype(np.uint16) * 257).repeat(8, 0).repeat(8, 1)
    decoded = decode_image(saved_cv2(smooth, ".jp2"))
    assert (decoded.mode, decoded.pixels.dtype) == ("16-bit RGB", np.uint16)
    assert np.abs(decoded.pixels.astype(int) - smooth).mean() < 600


def jpeg_cases() -> dict[str, tuple[bytes, np.ndarray, str]]:
    best = {"quality": 98, "subsampling": 0}
    inks = Image.merge("CMYK", (*Image.fromarray(255 - SMOOTH).split(), Image.new("L", (WIDTH, HEIGHT))))
    return {
        "grey": (saved(SMOOTH[..., 0], "JPEG", **best), grey3(SMOOTH[..., 0]), "8-bit grey"),
        "RGB": (saved(SMOOTH, "JPEG", **best), SMOOTH, "8-bit RGB"),
        "progressive": (saved(SMOOTH, "JPEG", progressive=True, **best), SMOOTH, "8-bit RGB"),
        "CMYK of Adobe": (saved(inks, "JPEG", **best), SMOOTH, "8-bit CMYK"),
        "RGB coded as RGB": (saved(SMOOTH, "JPEG", keep_rgb=True, quality=98), SMOOTH, "8-bit RGB"),
        "garbage after the end": (saved(SMOOTH, "JPEG", **best) + b"\xff\xda\0tail" * 99, SMOOTH, "8-bit RGB"),
        "colour profile": (saved(SMOOTH, "JPEG", icc_profile=b"x" * 200_000, **best), SMOOTH, "8-bit RGB"),
        "broken EXIF": (saved(SMOOTH, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff", **best), SMOOTH, "8-bit RGB"),
        "webp": (saved(SMOOTH, "WEBP", quality=100), SMOOTH, "8-bit RGB"),
        "tiff": (saved(SMOOTH, "TIFF", compression="jpeg", quality=98), SMOOTH, "8-bit RGB"),
    }


@pytest.mark.parametrize("name", jpeg_cases())
def test_lossy_kinds_give_nearly_their_pixels(name: str) -> None:
    data, expected, mode = jpeg_cases()[name]
    decoded = decode_image(data)
    assert decoded.mode == mode
    assert decoded.pixels.shape == expected.shape
    assert np.abs(decoded.pixels.astype(int) - expected).mean() < 3


def test_ycck_jpeg_of_adobe() -> None:
    """Adobe stores ink as 255 - ink; transform 2 codes the complement of three of these as colour differences."""
    colours = Image.fromarray(255 - SMOOTH).convert("YCbCr").split()
    stored = [*colours, Image.new("L", (WIDTH, HEIGHT), 255)]
    # Pillow inverts what it writes, and marks it as transform 0.
    inks = Image.merge("CMYK", [Image.fromarray(255 - np.asarray(band)) for band in stored])
    data = saved(inks, "JPEG", quality=98, subsampling=0)
    transform = data.index(b"Adobe") + 11
    decoded = decode_image(data[:transform] + b"\x02" + data[transform + 1 :])
    assert decoded.mode == "8-bit CMYK"
    assert np.abs(decoded.pixels.astype(int) - SMOOTH).mean() < 4


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    "kind", ["JPEG", "PNG", "WEBP", "TIFF", "TIFF LZW", "CMYK", "palette", "PNG 16-bit", "TIFF 16-bit"]
)
def test_orientation_is_applied_on_every_path(kind: str, orientation: int) -> None:
    turned = {
        1: SMOOTH,
        2: SMOOTH[:, ::-1],
        3: np.rot90(SMOOTH, 2),
        4: SMOOTH[::-1],
        5: np.swapaxes(SMOOTH, 0, 1),
        6: np.rot90(SMOOTH, -1),
        7: np.swapaxes(np.rot90(SMOOTH, 2), 0, 1),
        8: np.rot90(SMOOTH, 1),
    }[orientation]
    tag = exif(orientation)
    if kind == "CMYK":
        cmy = Image.fromarray(255 - SMOOTH).split()
        data = saved(Image.merge("CMYK", (*cmy, Image.new("L", cmy[0].size))), "JPEG", exif=tag, quality=98)
    elif kind == "palette":
        data = saved(Image.fromarray(SMOOTH).quantize(256), "PNG", exif=tag)
    elif kind == "PNG 16-bit":
        data = saved_cv2(SMOOTH.astype(np.uint16) * 257, ".png")
        data = data[:33] + chunk(b"eXIf", tag.removeprefix(b"Exif\0\0")) + data[33:]
    elif kind == "TIFF 16-bit":
        pixels = (SMOOTH.astype("<u2") * 257).tobytes()
        tags = {256: (3, WIDTH), 257: (3, HEIGHT), 258: (3, 16), 259: (3, 1), 262: (3, 2), 274: (3, orientation)}
        data = tiff({**tags, 277: (3, 3), 278: (3, HEIGHT), 284: (3, 1)}, pixels)
    elif kind.startswith("TIFF"):
        data = saved(SMOOTH, "TIFF", tiffinfo={274: orientation}, compression="tiff_lzw" if "LZW" in kind else None)
    else:
        data = saved(SMOOTH, kind, exif=tag, quality=98)
    decoded = decode_image(data)
    pixels = decoded.pixels
    assert pixels.shape == turned.shape
    assert (decoded.height, decoded.width) == pixels.shape[:2]
    assert np.abs(pixels // (257 if pixels.dtype == np.uint16 else 1) - turned.astype(int)).mean() < 5


def test_metadata_cannot_spoil_a_png() -> None:
    bomb = chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(50_000_000))) + chunk(
        b"iCCP", b"p\0\0" + zlib.compress(bytes(50_000_000))
    )
    broken = chunk(b"eXIf", b"MM\0*\xff\xff\xff\xff") + chunk(b"tEXt", b"a")[:-1] + b"?"
    rows = b"".join(b"\0" + row.tobytes() for row in RGB)
    np.testing.assert_array_equal(decode_image(png(WIDTH, HEIGHT, 8, 2, rows, bomb, broken)).pixels, RGB)


@pytest.mark.parametrize("pixels", [RGB, RGB16, GREY])
def test_resized(pixels: np.ndarray) -> None:
    half = resized(pixels, WIDTH // 2, HEIGHT // 2)
    means = pixels.reshape(HEIGHT // 2, 2, WIDTH // 2, 2, -1).mean((1, 3)).reshape(half.shape)
    assert half.dtype == pixels.dtype
    np.testing.assert_allclose(half, means, atol=1)
    assert resized(pixels, 90, 10).shape == (10, 90, *pixels.shape[2:])
    np.testing.assert_array_equal(resized(pixels, WIDTH, HEIGHT), pixels)
    with pytest.raises(ValueError, match="0 x 5"):
        resized(pixels, 0, 5)


@pytest.mark.parametrize("pixels", [RGB, RGB16])
def test_pictures_for_display(pixels: np.ndarray) -> None:
    picture = for_display(pixels, WIDTH)
    assert not np.shares_memory(picture, pixels), "whoever draws on it must not spoil the image"
    np.testing.assert_array_equal(picture, pixels if pixels is RGB else (RGB16 >> 8).astype(np.uint8))
    reduced = for_display(pixels, max(WIDTH, HEIGHT) // 2)
    assert (reduced.shape, reduced.dtype) == ((HEIGHT // 2, WIDTH // 2, 3), np.uint8)
    assert for_display(np.zeros((20, 4000, 3), np.uint8), 50).shape == (1, 50, 3)


def test_suffixes_are_lower_case() -> None:
    assert all(suffix == suffix.lower() and suffix.startswith(".") for suffix in IMAGE_SUFFIXES)
