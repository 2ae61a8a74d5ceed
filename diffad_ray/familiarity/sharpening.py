"""From log odds of cells to those of pixels, along the edges of the image: a guided filter (He et al. 2013).

A cell is several pixels wide, and interpolation knows nothing about where in it a defect ends. The filter fits the log
odds of each window as a linear function of the grey level, and that function is applied to every pixel.

Letters in shapes: N images, G cells a side, S pixels a side.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from diffad_ray.familiarity.features import GRID, LEAST_CONTRAST

LATTICE, REACH = 2 * GRID, 2
"""Places a side at which the function is fitted, whatever the size of the image, so that the price is the same for all;
and those from the middle of a window to its edge: it is two and a half cells wide."""
RIDGE = 0.01
"Added to the variance of grey levels in a window, in units of the image's variance; less contrast moves no edge."


def along_edges(log_odds: Tensor, images: Tensor) -> Tensor:
    """Return the log odds [N,S,S] of pixels from those of cells [N,G,G], which are smoothed except along edges.

    Args:
        log_odds: of each cell alone; smoothed ones would have lost small defects already.
        images: [N,3,S,S] in [0,1].

    Example:
        >>> along_edges(torch.full((1, 32, 32), -4.0), torch.rand((1, 3, 64, 64))).aminmax()[1].item()
        -4.0
    """
    grey = images.float().mean(dim=1, keepdim=True)
    grey = grey - grey.mean(dim=(2, 3), keepdim=True)
    grey = grey / grey.square().mean(dim=(2, 3), keepdim=True).sqrt().clamp(min=LEAST_CONTRAST)
    guide = F.adaptive_avg_pool2d(grey, LATTICE)
    odds = F.interpolate(log_odds[:, None], (LATTICE, LATTICE), mode="bilinear")
    means = _windowed(torch.cat([guide, odds, guide * odds, guide.square()], dim=1))
    grey_mean, odds_mean, product_mean, square_mean = means.split(1, dim=1)
    slope = (product_mean - grey_mean * odds_mean) / ((square_mean - grey_mean.square()).clamp(min=0) + RIDGE)
    # Each pixel lies in many windows, and takes the mean of their functions.
    functions = _windowed(torch.cat([slope, odds_mean - slope * grey_mean], dim=1))
    slope, offset = F.interpolate(functions, images.shape[-2:], mode="bilinear").split(1, dim=1)
    return (slope * grey + offset)[:, 0]


def _windowed(places: Tensor) -> Tensor:
    """Mean-pool [N,C,L,L] over windows that reach `REACH` places, along one axis after the other, which is cheaper."""
    padded = F.pad(places, (REACH,) * 4, mode="replicate")
    return F.avg_pool2d(F.avg_pool2d(padded, (1, 2 * REACH + 1), 1), (2 * REACH + 1, 1), 1)
