"""Pictures of the product: a mean good image with the density of regions over it, and with recurring places."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import matplotlib
import numpy as np

from diffad_ray.analytics.report.places import GRID, Density
from diffad_ray.analytics.report.recurring import WINDOW, Recurring
from diffad_ray.errors import UserError
from diffad_ray.images import for_display
from diffad_ray.reports.drawing import FOUND, HEAT
from diffad_ray.reports.originals import read_original

LONGEST_SIDE = 480
FEWEST = 3
"Images that a mean needs."
GREY = 235


def mean_image(images: Sequence[tuple[str, int, int]]) -> tuple[np.ndarray | None, str]:
    """Return the mean [H,W,3] uint8 of images that look good, or None and the reason why there is none.

    Args:
        images: URI, width and height of images of one size.
    """
    total: np.ndarray | None = None
    count, problem = 0, "too few images look good"
    for uri, width, height in images:
        try:
            picture = for_display(read_original(uri, (width, height)), LONGEST_SIDE).astype(np.float32)
        except UserError as error:
            problem = str(error)
            if not count:
                # The first one says whether the originals can be reached; each of the others would wait as long.
                break
            continue
        total = picture if total is None else total + picture
        count += 1
    if total is None or count < FEWEST:
        return None, problem
    return np.rint(total / count).astype(np.uint8), ""


def heat_map(density: Density, mean: np.ndarray | None) -> np.ndarray:
    """Return the density of regions [H,W,3] as colours over the mean image, or over grey where there is none."""
    if mean is None:
        mean = np.full((LONGEST_SIDE * 3 // 4, LONGEST_SIDE, 3), GREY, np.uint8)
    height, width = mean.shape[:2]
    counts = np.array(density.cells, np.float32)
    smooth = cv2.GaussianBlur(counts, (0, 0), 0.8, borderType=cv2.BORDER_CONSTANT)
    share = cv2.resize(smooth, (width, height), interpolation=cv2.INTER_CUBIC).clip(0)
    share = share / max(float(share.max()), 1e-9)
    colours = matplotlib.colormaps[HEAT](0.25 + 0.7 * share, bytes=True)[..., :3]
    opacity = (0.85 * np.sqrt(share))[..., None]
    grey = cv2.cvtColor(mean, cv2.COLOR_RGB2GRAY)[..., None].astype(np.float32)
    return np.rint(grey * (1 - opacity) + colours * opacity).astype(np.uint8)


def marked_place(place: Recurring, mean: np.ndarray | None) -> np.ndarray | None:
    """Return the mean image [H,W,3] with a ring around a recurring place."""
    if mean is None:
        return None
    drawn = mean.copy()
    height, width = drawn.shape[:2]
    centre = (round(place.x * width), round(place.y * height))
    radius = max(8, round(WINDOW / GRID * max(height, width)))
    cv2.circle(drawn, centre, radius, (255, 255, 255), 5, cv2.LINE_AA)
    cv2.circle(drawn, centre, radius, FOUND, 3, cv2.LINE_AA)
    return drawn
