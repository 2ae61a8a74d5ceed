"""How large a detector sees images: from the smallest defect that matters, or else from the images' detail.

A side of 128 px is cheap and often enough. It is too small where the smallest defect that matters would cover less than
three pixels of it, and it may be too small where images have detail that it loses.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np

from diffad_ray.errors import percent
from diffad_ray.images import resized

SIDES = (128, 192, 256)
"Sides in pixels that are considered, in this order."
KEPT = 3.0
"Pixels that the smallest defect that matters keeps in each direction."
MOST_LOST = 0.03
"Share of an image's variance, noise left aside, that a side may lose."
BLOCK = 16
"Side in pixels of the blocks, of which the tenth with the least detail tells the noise."
LAPLACIANS = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
"A difference of two Laplacians, which edges hardly change; 6 is the norm of its weights."


class Sight(NamedTuple):
    """Settings of a detector that decide how large it sees images, and the reason for them."""

    settings: dict[str, Any]
    reason: str


def sight(images: Sequence[np.ndarray], smallest: float | None, largest: int, given: Mapping[str, Any]) -> Sight:
    """Choose side, view and scale of tiles for images [H,W,3].

    Args:
        smallest: size of the smallest defect that matters, in pixels of the images; None if nobody knows.
        largest: the largest side that the kind of detector makes use of.
        given: settings that are not to be chosen, such as `image_size` or `view`.

    Example:
        >>> sight([np.zeros((1000, 2000, 3), np.uint8)], 6.0, 256, {}).settings
        {'view': 'tiles', 'image_size': 128, 'tile_scale': 0.5}
        >>> sight([np.zeros((100, 200, 3), np.uint8)], 6.0, 256, {}).settings
        {'view': 'whole', 'image_size': 128}
    """
    longest = int(np.median([max(image.shape[:2]) for image in images]))
    sides = (
        (given["image_size"],) if "image_size" in given else [side for side in SIDES if side <= largest] or [largest]
    )
    if smallest is None:
        return _by_detail(images, longest, sides, given)
    scale = min(1.0, KEPT / smallest)
    enough = next((side for side in sides if side >= longest * scale), None)
    view = given.get("view", "tiles" if enough is None else "whole")
    defect = f"a defect of {smallest:g} px in images of {longest} px"
    if view == "whole":
        side = enough or sides[-1]
        kept = smallest * min(1.0, side / longest)
        return Sight(
            {"view": view, "image_size": side}, f"images are seen whole at {side} px: {defect} keeps {kept:.1f} px"
        )
    side = sides[0]
    scale = given.get("tile_scale", min(1.0, math.ceil(scale * 20) / 20))
    keeps = f"{defect} keeps {smallest * scale:.1f} px"
    reason = f"images are seen in tiles of {side} px, at {percent(scale)} of their size: {keeps}"
    return Sight({"view": view, "image_size": side, "tile_scale": scale}, reason)


def _by_detail(images: Sequence[np.ndarray], longest: int, sides: Sequence[int], given: Mapping[str, Any]) -> Sight:
    """Choose the smallest side of which images lose little; tiles are for those who know how small defects are."""
    if given.get("view") == "tiles":
        scale = given.get("tile_scale", 1.0)
        settings = {"view": "tiles", "image_size": sides[0], "tile_scale": scale}
        return Sight(
            settings, f"images are seen in tiles of {sides[0]} px, at {percent(scale)} of their size, as asked"
        )
    lost = {side: float(np.median([detail_lost(image, side) for image in images])) for side in sides}
    side = next((side for side in sides if lost[side] <= MOST_LOST), sides[-1])
    figures = ", ".join(f"{percent(share)} at {tried} px" for tried, share in lost.items() if tried <= side)
    reason = f"images of {longest} px are seen whole at {side} px: of their detail, they lose {figures}"
    if lost[side] > MOST_LOST:
        reason += "; if small defects matter, say how small by --smallest-defect PIXELS"
    return Sight({"view": "whole", "image_size": side}, reason)


def detail_lost(image: np.ndarray, side: int) -> float:
    """Return the share of the variance of an image [H,W,3], noise left aside, that the square of `side` px loses.

    Example:
        >>> stripes = np.broadcast_to((np.arange(256) // 2 % 2 * 255).astype(np.uint8)[:, None], (256, 256, 3))
        >>> round(detail_lost(stripes, 64), 2), round(detail_lost(stripes, 256), 2)
        (1.0, 0.0)
    """
    grey = image.astype(np.float32).mean(axis=2)
    height, width = grey.shape
    variance = float(grey.var())
    if not variance:
        return 0.0
    small = resized(grey, min(side, width), min(side, height))
    lost = float(np.square(grey - cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)).mean())
    share_of_noise = 1 - small.size / grey.size
    return min(1.0, max(0.0, lost - noise(grey) ** 2 * share_of_noise) / variance)


def noise(grey: np.ndarray) -> float:
    """Return the standard deviation of the noise of an image [H,W] float32, by the method of Immerkær (1996).

    Blocks with the least detail tell it, since texture would count as noise elsewhere.

    Example:
        >>> levels = 5 * np.random.default_rng(0).standard_normal((256, 256)).astype(np.float32)
        >>> 4 < noise(levels) < 5.5
        True
    """
    found = np.abs(cv2.filter2D(grey, -1, LAPLACIANS))[1:-1, 1:-1]
    rows, columns = (max(1, length // BLOCK) for length in found.shape)
    whole = found[: rows * BLOCK, : columns * BLOCK]
    means = [part.mean() for band in np.array_split(whole, rows) for part in np.array_split(band, columns, axis=1)]
    return math.sqrt(math.pi / 2) / 6 * float(np.quantile(means, 0.1))
