"""How an image differs from its reconstruction: maps for the detectors that have no network to tell."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def squared_error(x0: Tensor, reconstruction: Tensor) -> Tensor:
    """Mean over channels of the squared difference, [N,1,H,W] from [N,C,H,W] (AnoDDPM, Wyatt et al. 2022)."""
    return _within_range(x0).sub(reconstruction).square().mean(dim=1, keepdim=True)


def absolute_error(x0: Tensor, reconstruction: Tensor) -> Tensor:
    """Mean over channels of the absolute difference, [N,1,H,W] from [N,C,H,W]."""
    return _within_range(x0).sub(reconstruction).abs().mean(dim=1, keepdim=True)


LEAST_ERROR = 1e-6
"Of scaled images, below which a difference is rounding."


def logarithm(errors: Tensor) -> Tensor:
    """Logarithms of errors: they vary by factors, and their logarithms compare over dark and bright products."""
    return (errors + LEAST_ERROR).log()


def _within_range(x0: Tensor) -> Tensor:
    # Reconstructions end at -1 and 1; a good pixel beyond must not look like an error.
    return x0.clamp(-1, 1)


def smoothed(maps: Tensor, share: float) -> Tensor:
    """Maps [N,1,H,W] blurred by a Gaussian whose sigma is `share` of the shorter side; 0 leaves them as they are."""
    sigma = share * min(maps.shape[-2:])
    reach = min(round(3 * sigma), min(maps.shape[-2:]) - 1)
    if reach < 1:
        return maps
    distances = torch.arange(-reach, reach + 1, device=maps.device, dtype=maps.dtype)
    kernel = torch.exp(-distances.square() / (2 * sigma**2))
    kernel = (kernel / kernel.sum())[None, None]
    padded = F.pad(maps, (reach, reach, reach, reach), mode="reflect")
    return F.conv2d(F.conv2d(padded, kernel[..., None, :]), kernel[..., None])
