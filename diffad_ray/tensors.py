"""Conversion of pixels to tensors, and the input of `Trainable.fit`."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


def as_unit_tensor(pixels: np.ndarray) -> Tensor:
    """Convert [N,H,W,C] uint8 or uint16 to float32 [N,C,H,W] in [0,1].

    Example:
        >>> as_unit_tensor(np.full((1, 2, 2, 3), 255, np.uint8)).shape
        torch.Size([1, 3, 2, 2])
    """
    full = float(np.iinfo(pixels.dtype).max)
    return torch.from_numpy(pixels.astype(np.float32)).permute(0, 3, 1, 2).contiguous() / full


class NormalSquares(NamedTuple):
    """Network inputs from normal images, and parameters for fitting a detector to them.

    Attributes:
        pixels: [N,S,S,C] uint8 or uint16; channel 3, if any, is the foreground.
        sources: [N] index of the image that each square is cut from; an image in tiles has several squares.
        textures: [K,3,S,S] in [0,1] images for the appearance of pseudo-anomalies, or None.
        steps: number of training steps.
        seed: seed of all random choices.
        device: device for computation.
        bfloat16: whether gradients may be computed in bfloat16.
    """

    pixels: np.ndarray
    sources: np.ndarray
    textures: Tensor | None
    steps: int
    seed: int
    device: torch.device
    bfloat16: bool = False
