"""Pictures of the product: a mean good image with the density of regions over it, and with recurring places."""

from __future__ import annotations

import cv2
import matplotlib
import numpy as np

from diffad_ray.analytics.recurrence import GRID, WINDOW
from diffad_ray.analytics.report.places import Density
from diffad_ray.analytics.report.recurring import Recurring
from diffad_ray.reports.drawing import FOUND, HEAT

LONGEST_SIDE = 480
GREY = 235


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
