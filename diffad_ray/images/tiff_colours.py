"""Converts the samples of a TIFF page to grey or RGB by its photometric interpretation."""

from __future__ import annotations

import numpy as np

from diffad_ray.images.limits import ImageError, unsupported
from diffad_ray.images.samples import Samples, Stored
from diffad_ray.images.tiff import (
    COLOUR_MAP,
    EXTRA_CHANNELS,
    INKS,
    ORIENTATION,
    PHOTOMETRIC,
    SUBSAMPLING,
    Page,
    picture,
)
from diffad_ray.images.tiff_segments import read_samples, sample_type

_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _INKS, _YCBCR = 0, 1, 2, 3, 5, 6
PHOTOMETRIC_NAMES = {
    4: "of a transparency mask",
    8: "of CIELab colours",
    9: "of ICCLab colours",
    10: "of ITULab colours",
    32803: "with a camera's colour mosaic (Bayer)",
    32844: "of LogL luminance",
    32845: "of LogLuv colours",
    34892: "with a camera's raw colours",
}
"Names of unsupported photometric interpretations."
_JPEG, _ASSOCIATED = 7, 1


def read_tiff(data: bytes, max_pixels: int) -> Stored:
    """Read the main page of a TIFF.

    Raises:
        ImageError: the TIFF is damaged, truncated, too large, or of an unsupported kind.
    """
    page, note = picture(data)
    page.check_sizes(max_pixels)
    meaning = page.one(PHOTOMETRIC, _RGB if page.channels > 2 else _BLACK_IS_ZERO)
    if meaning not in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _INKS, _YCBCR):
        raise unsupported(f"a TIFF {PHOTOMETRIC_NAMES.get(meaning, f'of the photometric kind {meaning}')}")
    dtype, bits = sample_type(page)
    extra = page.channels - {_RGB: 3, _INKS: 4, _YCBCR: 3}.get(meaning, 1)
    if extra < 0:
        raise ImageError("unreadable", f"damaged TIFF: {page.channels} channels are too few for its colours")
    if page.channels * page.width * page.height * dtype.itemsize > 16 * max_pixels:
        raise ImageError("too_large", f"{page.channels} channels of {page.width} x {page.height} pixels")
    if extra > 1 and meaning in (_WHITE_IS_ZERO, _BLACK_IS_ZERO):
        raise unsupported(f"a TIFF of {page.channels} channels that are no colours")
    numbers = read_samples(data, page)
    white = 1 if dtype.kind == "f" else 2 ** (bits - 1) - 1 if dtype.kind == "i" else 2**bits - 1
    values, channels, white = _coloured(numbers, page, meaning, white)
    if extra > 0:
        if page.one(EXTRA_CHANNELS, 0) == _ASSOCIATED and meaning != _PALETTE:
            values = _straight(values, numbers[..., page.channels - extra], white)
        channels = {"grey": "grey+alpha", "RGB": "RGBA" if extra == 1 else f"RGB and {extra} more"}.get(
            channels, channels
        )
    samples = Samples(bits, channels, white, dtype.kind == "f", meaning == _WHITE_IS_ZERO)
    return Stored(values, samples, _turn(page), note)


def _coloured(numbers: np.ndarray, page: Page, meaning: int, white: int) -> tuple[np.ndarray, str, int]:
    """Convert samples to [H,W] or [H,W,3]; also return the name of the channels, and the largest value."""
    if meaning in (_WHITE_IS_ZERO, _BLACK_IS_ZERO):
        return numbers[..., 0], "grey", white
    if meaning == _RGB:
        return numbers[..., :3], "RGB", white
    if numbers.dtype.kind != "u" or numbers.dtype.itemsize > 2:
        raise unsupported(f"a TIFF of {numbers.dtype.itemsize * 8}-bit inks, palettes or colour differences")
    if meaning == _PALETTE:
        return _from_palette(numbers[..., 0], page, white), "palette", 255
    if meaning == _INKS:
        if page.one(INKS, 1) != 1:
            raise unsupported("a TIFF of other inks than cyan, magenta, yellow and black")
        left = white - numbers[..., :4].astype(np.uint32)
        return ((left[..., :3] * left[..., 3:] + white // 2) // white).astype(numbers.dtype), "CMYK", white
    if page.compression == _JPEG:
        return numbers, "RGB", white
    if page.tags.get(SUBSAMPLING, (2, 2)) != (1, 1) or numbers.dtype.itemsize > 1:
        raise unsupported("a TIFF of colour differences (YCbCr) without JPEG")
    return _from_differences(numbers), "YCbCr", white


def _from_palette(numbers: np.ndarray, page: Page, white: int) -> np.ndarray:
    """Look up palette indices [H,W] to [H,W,3] uint8; colour maps have 16 bits, of which the upper 8 are used."""
    levels = np.asarray(page.tags.get(COLOUR_MAP, ()), np.uint16)
    if len(levels) != 3 * (white + 1):
        raise ImageError("unreadable", f"damaged TIFF: its palette has {len(levels)} entries, not {3 * (white + 1)}")
    # Some old writers use the lower 8 bits.
    eight = levels // (256 if levels.max() > 255 else 1)
    return eight.astype(np.uint8).reshape(3, -1).T[numbers]


def _from_differences(numbers: np.ndarray) -> np.ndarray:
    """Convert YCbCr [H,W,3] to RGB [H,W,3], uint8 (ITU-R BT.601, full range)."""
    bright, blue, red = (numbers[..., k].astype(np.float32) for k in range(3))
    blue, red = blue - 128, red - 128
    mixed = [bright + 1.402 * red, bright - 0.344136 * blue - 0.714136 * red, bright + 1.772 * blue]
    return (np.stack(mixed, -1) + 0.5).clip(0, 255).astype(np.uint8)


def _straight(values: np.ndarray, alpha: np.ndarray, white: int) -> np.ndarray:
    """Undo the premultiplication by alpha of values [H,W] or [H,W,C]."""
    share = alpha.astype(np.float64) / white
    share = share if values.ndim == 2 else share[..., None]
    straight = np.divide(values, share, out=np.zeros(values.shape), where=share > 0).clip(0, white)
    return straight.astype(values.dtype) if values.dtype.kind == "f" else (straight + 0.5).astype(values.dtype)


def _turn(page: Page) -> int:
    turn = page.one(ORIENTATION, 1)
    return turn if 1 <= turn <= 8 else 1
