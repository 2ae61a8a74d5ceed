"""What normal images look like: what each place shows on average, given the image, and examples of what places show.

Letters in shapes: N images, C responses and colours, G places a side.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from diffad_ray.familiarity.exemplars import KnownPlaces, known_places, unlike_known
from diffad_ray.familiarity.features import Described
from diffad_ray.familiarity.gaussians import PatchGaussian, exposed_otherwise, patch_gaussian, unexplained

RESIDUALS = 3
"Of each place: from the Gaussian's mean, from the nearest example, and what is left of both."


class Normality(NamedTuple):
    """Statistics of normal images."""

    gaussian: PatchGaussian
    places: KnownPlaces


def normality(seen: Described, images: int, generator: torch.Generator) -> Normality:
    """The statistics of squares that are of so many different images."""
    gaussian = patch_gaussian(seen, images)
    return Normality(gaussian, known_places(seen, gaussian, generator))


def residuals(normal: Normality, seen: Described) -> Tensor:
    """What normal images do not explain of each place, [N,RESIDUALS,C,G,G], whitened.

    They are larger everywhere in an image that is far darker, brighter, duller or harsher than all normal ones.
    """
    left = unexplained(normal.gaussian, seen)
    shown, left_of_left = unlike_known(normal.places, seen, left)
    found = torch.stack([left, shown, left_of_left], dim=1)
    return found * exposed_otherwise(normal.gaussian, seen)[:, None, None, None, None]
