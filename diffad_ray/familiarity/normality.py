"""Statistics of normal images: the Gaussians of `gaussians.py` and the coresets of `exemplars.py`.

Letters in shapes: N images, C feature channels, G cells a side.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from diffad_ray.familiarity.exemplars import KnownPlaces, known_places, unlike_known
from diffad_ray.familiarity.features import Described
from diffad_ray.familiarity.gaussians import PatchGaussian, exposed_otherwise, patch_gaussian, unexplained

RESIDUALS = 3
"R: residual from the Gaussian's mean, from the nearest feature, and of the first from the nearest one of its coreset."


class Normality(NamedTuple):
    """Statistics of normal images."""

    gaussian: PatchGaussian
    places: KnownPlaces


def normality(seen: Described, images: int, generator: torch.Generator) -> Normality:
    """Fit the statistics to the features of squares; `images` is the number of different images they are cut from."""
    gaussian = patch_gaussian(seen, images)
    return Normality(gaussian, known_places(seen, gaussian, generator))


def residuals(normal: Normality, seen: Described) -> Tensor:
    """Return the whitened residuals [N,RESIDUALS,C,G,G] of each cell.

    All residuals of an image are multiplied by `exposed_otherwise`, which exceeds 1 for outliers in brightness or
    contrast.
    """
    left = unexplained(normal.gaussian, seen)
    shown, left_of_left = unlike_known(normal.places, seen, left)
    found = torch.stack([left, shown, left_of_left], dim=1)
    return found * exposed_otherwise(normal.gaussian, seen)[:, None, None, None, None]
