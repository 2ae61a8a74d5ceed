"""Anomaly maps from the difference of an image and its reconstruction, for detectors without a segmenter."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def squared_error(x0: Tensor, reconstruction: Tensor) -> Tensor:
    """Return the channel mean [N,1,H,W] of the squared difference of [N,C,H,W] (AnoDDPM, Wyatt et al. 2022)."""
    return _within_range(x0).sub(reconstruction).square().mean(dim=1, keepdim=True)


def absolute_error(x0: Tensor, reconstruction: Tensor) -> Tensor:
    """Return the channel mean [N,1,H,W] of the absolute difference of [N,C,H,W]."""
    return _within_range(x0).sub(reconstruction).abs().mean(dim=1, keepdim=True)


LEAST_ERROR = 1e-6
"Error of scaled images below which a difference is a rounding error."


def logarithm(errors: Tensor) -> Tensor:
    """Return the logarithms of errors, which are comparable between products, since errors vary by factors."""
    return (errors + LEAST_ERROR).log()


def _within_range(x0: Tensor) -> Tensor:
    # Reconstructions are clamped to [-1, 1]; a normal pixel outside this range must not count as an error.
    return x0.clamp(-1, 1)


def smoothed(maps: Tensor, share: float) -> Tensor:
    """Blur maps [N,1,H,W] by a Gaussian with sigma `share` x the shorter side; 0 leaves the maps unchanged."""
    # A traced size is a tensor, which rounds to nothing.
    side = min(map(int, maps.shape[-2:]))
    sigma = share * side
    reach = min(round(3 * sigma), side - 1)
    if reach < 1:
        return maps
    distances = torch.arange(-reach, reach + 1, device=maps.device, dtype=maps.dtype)
    kernel = torch.exp(-distances.square() / (2 * sigma**2))
    kernel = (kernel / kernel.sum())[None, None]
    padded = F.pad(maps, (reach, reach, reach, reach), mode="reflect")
    return F.conv2d(F.conv2d(padded, kernel[..., None, :]), kernel[..., None])
