"""A Gaussian of features per grid cell (PaDiM, Defard et al. 2020), with a mean conditional on the whole image.

The conditional mean is a ridge regression on principal components of the miniature, which follow the width of the part
and the course of its edges.

Letters in shapes: N images, C feature channels, G cells a side, K principal components, D numbers of a miniature.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from diffad_ray.familiarity.features import Described

MOST_COMPONENTS, IMAGES_A_COMPONENT = 160, 4
"Largest number of principal components, and the number of training images needed for each."
FARTHEST = 5.0
"Standard deviations at which components of the code are clipped, and beyond which an exposure is an outlier."
LEAST_EXPOSURES = 0.1
"Floor of the standard deviation of log exposures: a tenth more or less light is usual."
SHRINKAGE = 0.3
"Covariance shrinkage: this times the identity is added to each cell's covariance, as there are often few images."
LEAST_CHANNEL_SPREAD = 0.01
"Floor of a channel's standard deviation, in units of the image's contrast for the colours."


class PatchGaussian(NamedTuple):
    """Parameters of the Gaussians of all cells, and of the distribution of exposures."""

    miniature_mean: Tensor
    "[D] mean miniature"
    basis: Tensor
    "[D,K]: (miniature - miniature_mean) @ basis is the image's code, K principal components of variance 1"
    mean: Tensor
    "[C,G,G] mean feature map"
    effect: Tensor
    "[K,C,G,G] float16: regression coefficients of the mean on the code"
    spread: Tensor
    "[C]: standard deviation of the regression's residuals over all images and cells"
    whitening: Tensor
    """[G x G,C,C] whitening matrix of each cell's residuals / spread. It is symmetric (ZCA), so that each whitened
    channel stays close to its original one."""
    exposure_mean: Tensor
    exposure_spread: Tensor
    "[2] each: mean and standard deviation of `Described.exposure`"


def patch_gaussian(seen: Described, images: int) -> PatchGaussian:
    """Fit the Gaussians to the features of squares; `images` is the number of different images they are cut from."""
    miniature_mean = seen.miniature.mean(dim=0)
    values, directions = _principal((seen.miniature - miniature_mean).double())
    # Components with a tiny singular value are rounding errors.
    count = min(MOST_COMPONENTS, images // IMAGES_A_COMPONENT, int((values > 1e-4 * values[0].clamp(min=1e-9)).sum()))
    basis = (directions[:, :count] / values[:count] * math.sqrt(len(seen.miniature))).float()
    code = _code(seen.miniature, miniature_mean, basis)

    # Cells before channels: in this order, neither the regression nor the covariances copy anything.
    left = seen.responses.flatten(2).permute(0, 2, 1).contiguous()
    mean = left.mean(dim=0)
    left -= mean
    # The ridge penalty N halves each coefficient, as code.T @ code is N times the identity: new lots differ from these.
    gram = code.T @ code + len(code) * torch.eye(count, device=code.device)
    effect = torch.linalg.solve(gram, code.T) @ left.flatten(1)
    left.flatten(1).addmm_(code, effect, alpha=-1)
    covariances = left.permute(1, 2, 0) @ left.transpose(0, 1) / len(left)
    spread = covariances.diagonal(dim1=1, dim2=2).mean(dim=0).sqrt().clamp(min=LEAST_CHANNEL_SPREAD)
    # The shrinkage precedes the decomposition: eigenvectors of variances near 0 are arbitrary.
    floor = SHRINKAGE * torch.eye(len(spread), device=left.device)
    whitening = inverse_root(covariances / (spread[:, None] * spread) + floor)
    exposures = seen.exposure.mean(dim=0), seen.exposure.std(dim=0).clamp(min=LEAST_EXPOSURES)
    by_channel = effect.half().view(count, *mean.shape).permute(0, 2, 1).reshape(count, *seen.responses.shape[1:])
    mean = mean.T.contiguous().view(seen.responses.shape[1:])
    return PatchGaussian(miniature_mean, basis, mean, by_channel.contiguous(), spread, whitening, *exposures)


def inverse_root(covariances: Tensor) -> Tensor:
    """Return the symmetric whitening matrices, covariance^(-1/2), of covariances [...,C,C]; of the same shape."""
    variances, axes = torch.linalg.eigh(covariances)
    return (axes * variances.rsqrt()[..., None, :]) @ axes.transpose(-1, -2)


def unexplained(gaussian: PatchGaussian, seen: Described) -> Tensor:
    """Return the whitened residuals [N,C,G,G] from the conditional means, of variance about 1 in normal images."""
    code = _code(seen.miniature, gaussian.miniature_mean, gaussian.basis)
    expected = gaussian.mean + (code @ gaussian.effect.float().flatten(1)).view_as(seen.responses)
    left = (seen.responses - expected) / gaussian.spread[:, None, None]
    # The product of small matrices is faster with the channels last.
    places = left.flatten(2).permute(0, 2, 1).contiguous()
    whitened = places.transpose(0, 1) @ gaussian.whitening.transpose(1, 2)
    return whitened.permute(1, 2, 0).reshape(left.shape)


def exposed_otherwise(gaussian: PatchGaussian, seen: Described) -> Tensor:
    """Return a factor [N] >= 1: 1 plus the standard deviations by which an exposure lies beyond `FARTHEST`."""
    beyond = ((seen.exposure - gaussian.exposure_mean) / gaussian.exposure_spread).abs().sub(FARTHEST).clamp(min=0)
    return 1 + beyond.sum(dim=1)


def _principal(centred: Tensor) -> tuple[Tensor, Tensor]:
    """Return the singular values [K] of centred miniatures [N,D] in float64, the largest first, and directions [D,K].

    The eigenvectors of the smaller product of the matrix with itself take a third of the time of its own decomposition.
    Squares lose half of the digits, which leaves as many as float32 has.
    """
    if is_wide := len(centred) < centred.shape[1]:
        squares, vectors = torch.linalg.eigh(centred @ centred.T)
    else:
        squares, vectors = torch.linalg.eigh(centred.T @ centred)
    values, vectors = squares.flip(0).clamp(min=0).sqrt(), vectors.flip(1)
    return values, centred.T @ vectors / values.clamp(min=1e-12) if is_wide else vectors


def _code(miniature: Tensor, mean: Tensor, basis: Tensor) -> Tensor:
    """Return the images' codes [N,K], clipped at `FARTHEST`, since the regression should not extrapolate."""
    return ((miniature - mean) @ basis).clamp(-FARTHEST, FARTHEST)
