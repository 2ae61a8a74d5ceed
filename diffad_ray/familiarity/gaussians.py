"""At each place of an image a Gaussian of what normal images show there (PaDiM, Defard et al. 2020), given the rest.

What the image as a whole says of a place is taken into account first: its width, where its edges run.

Letters in shapes: N images, C responses and colours, G places a side, K components of an image's code, D numbers of its
miniature.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from diffad_ray.familiarity.features import Described

MOST_COMPONENTS, IMAGES_A_COMPONENT = 160, 4
"How many principal components tell the whole image: few where there are few images to learn their effect from."
FARTHEST = 5.0
"Standard deviations of a component of the code, and of an exposure in which nothing is strange."
LEAST_EXPOSURES = 0.1
"Standard deviation of exposures at least: a tenth more or less light is no other one."
SHRINKAGE = 0.3
"Variance that a channel has at least at any place, as a share of its usual one: there are often few images."
LEAST_CHANNEL_SPREAD = 0.01
"Standard deviation that a channel has at least: a hundredth of the image's own contrast."


class PatchGaussian(NamedTuple):
    """At each place a Gaussian of responses and colours, whose mean depends on the image as a whole."""

    miniature_mean: Tensor
    "[D]"
    basis: Tensor
    "[D,K]: a miniature less its mean, times this, is the image's code: principal components of variance 1"
    mean: Tensor
    "[C,G,G]"
    effect: Tensor
    "[K,C,G,G] float16: what each component of the code adds to the mean"
    spread: Tensor
    "[C]: standard deviation of what is left, over all places"
    whitening: Tensor
    """[G x G,C,C]: times what is left, in units of its spread, gives uncorrelated numbers of variance 1. Symmetric, so
    that each of them still tells of its channel."""
    exposure_mean: Tensor
    exposure_spread: Tensor
    "[2] each: of logarithms of light and contrast"


def patch_gaussian(seen: Described, images: int) -> PatchGaussian:
    """The Gaussians of squares that are of so many different images."""
    miniature_mean = seen.miniature.mean(dim=0)
    _, values, directions = torch.linalg.svd((seen.miniature - miniature_mean).double(), full_matrices=False)
    # What hardly varies is rounding.
    count = min(MOST_COMPONENTS, images // IMAGES_A_COMPONENT, int((values > 1e-4 * values[0].clamp(min=1e-9)).sum()))
    basis = (directions[:count].T / values[:count] * math.sqrt(len(seen.miniature))).float()
    code = _code(seen.miniature, miniature_mean, basis)

    mean = seen.responses.mean(dim=0)
    left = seen.responses - mean
    # Half of what a component seems to add is believed: lots to come are like none of those learnt from.
    gram = code.T @ code + len(code) * torch.eye(count, device=code.device)
    effect = torch.linalg.solve(gram, code.T @ left.flatten(1)).view(count, *mean.shape)
    left -= (code @ effect.flatten(1)).view_as(left)
    spread = left.square().mean(dim=(0, 2, 3)).sqrt().clamp(min=LEAST_CHANNEL_SPREAD)
    left /= spread[:, None, None]
    floor, whitening = SHRINKAGE * torch.eye(len(spread), device=left.device), []
    for row in left.unbind(dim=2):
        places = row.permute(2, 1, 0)
        # The floor comes first: variances that are all but 0 have no axes.
        whitening.append(inverse_root(places @ places.transpose(1, 2) / len(left) + floor))
    exposures = seen.exposure.mean(dim=0), seen.exposure.std(dim=0).clamp(min=LEAST_EXPOSURES)
    effect = effect.half().contiguous()
    return PatchGaussian(miniature_mean, basis, mean, effect, spread, torch.cat(whitening), *exposures)


def inverse_root(covariances: Tensor) -> Tensor:
    """What whitens numbers of these covariances [...,C,C]: symmetric, of the same shape."""
    variances, axes = torch.linalg.eigh(covariances)
    return (axes * variances.rsqrt()[..., None, :]) @ axes.transpose(-1, -2)


def unexplained(gaussian: PatchGaussian, seen: Described) -> Tensor:
    """What the Gaussian leaves unexplained at each place, whitened: [N,C,G,G], of variance 1 in normal images."""
    code = _code(seen.miniature, gaussian.miniature_mean, gaussian.basis)
    expected = gaussian.mean + (code @ gaussian.effect.float().flatten(1)).view_as(seen.responses)
    left = (seen.responses - expected) / gaussian.spread[:, None, None]
    whitened = gaussian.whitening @ left.flatten(2).permute(2, 1, 0)
    return whitened.permute(2, 1, 0).reshape(left.shape)


def exposed_otherwise(gaussian: PatchGaussian, seen: Described) -> Tensor:
    """1 for an image with light and contrast as normal ones have them, [N]; more far outside of these."""
    beyond = ((seen.exposure - gaussian.exposure_mean) / gaussian.exposure_spread).abs().sub(FARTHEST).clamp(min=0)
    return 1 + beyond.sum(dim=1)


def _code(miniature: Tensor, mean: Tensor, basis: Tensor) -> Tensor:
    """[N,K]; what lies far outside of all that was seen says no more than what lies at its border."""
    return ((miniature - mean) @ basis).clamp(-FARTHEST, FARTHEST)
