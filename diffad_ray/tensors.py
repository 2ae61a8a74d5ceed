"""From pixels to tensors, and the normal images that a detector learns from."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


def as_unit_tensor(pixels: np.ndarray) -> Tensor:
    """[N,H,W,C] uint8 or uint16 as float32 [N,C,H,W] in [0,1]."""
    full = float(np.iinfo(pixels.dtype).max)
    return torch.from_numpy(pixels.astype(np.float32)).permute(0, 3, 1, 2).contiguous() / full


class NormalSquares(NamedTuple):
    """What the networks see of normal images, and how a detector learns from them beside its training steps.

    Attributes:
        pixels: [N,S,S,C] uint8 or uint16; a fourth channel, if any, is the foreground.
        sources: [N], the number of the image that each square is of: an image that is cut into tiles has several.
        textures: [K,3,S,S] in [0,1] that lend pseudo-anomalies their appearance, or None.
        steps: of the training.
        seed: of every random choice.
        device: where to compute.
    """

    pixels: np.ndarray
    sources: np.ndarray
    textures: Tensor | None
    steps: int
    seed: int
    device: torch.device
