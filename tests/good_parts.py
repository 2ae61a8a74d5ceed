"""Images of good parts, and detectors that know them, for tests of familiarity."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from diffad_ray.detectors.diffusion_ad import DiffusionAD
from diffad_ray.familiarity.model import Familiarity
from diffad_ray.tensors import NormalSquares

SIDE = 64


def parts(count: int, seed: int) -> Tensor:
    """Images [N,3,64,64] of a part: a disk that is a little elsewhere and in another light each time, with grain."""
    generator = torch.Generator().manual_seed(seed)
    axis = torch.arange(SIDE, dtype=torch.float32)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    shift = 32 + 2 * torch.randn((count, 2, 1, 1), generator=generator)
    radius = ((y - shift[:, 0]).square() + (x - shift[:, 1]).square()).sqrt()
    light = 0.4 + 0.2 * torch.rand((count, 1, 1), generator=generator)
    grain = 0.01 * torch.randn((count, SIDE, SIDE), generator=generator)
    grey = light * (1 + torch.sigmoid(radius - 20)) + grain
    return grey[:, None].expand(-1, 3, -1, -1).clamp(0, 1)


def peaks(familiarity: Familiarity, images: Tensor, weight: float = 1.0) -> Tensor:
    return familiarity.log_odds(images, weight).flatten(1).amax(dim=1)


def as_pixels(images: Tensor) -> np.ndarray:
    return (images * 255).round().byte().permute(0, 2, 3, 1).numpy()


def familiar(detector: DiffusionAD, images: np.ndarray) -> DiffusionAD:
    squares = NormalSquares(images, np.arange(len(images)), None, 10, 0, torch.device("cpu"))
    detector.fit(squares, lambda doing: None)
    return detector


def smooth_images(count: int, seed: int) -> np.ndarray:
    coarse = torch.rand((count, 3, 4, 4), generator=torch.Generator().manual_seed(seed))
    fine = F.interpolate(coarse, 32, mode="bicubic").clamp(0, 1)
    return (fine * 255).byte().permute(0, 2, 3, 1).numpy()
