"""What a detector looks back at when its training has ended: the normal images once more, as they are."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from diffad_ray.detectors.base import Detector
from diffad_ray.detectors.engine import as_unit_tensor

MOST_SQUARES = 1500
BATCH = 16


def looking_back(
    normals: np.ndarray, sources: np.ndarray, seed: int, detector: Detector, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of squares of normal images, and which images they are of; see `Detector.familiarise`.

    Args:
        normals: [N,S,S,3], uint8 or uint16; further channels are left out.
        sources: [N], the number of the image that each square is of: it has several where it is cut into tiles.
        seed: of the choice, where there are more than enough.
    """
    chosen = np.random.default_rng(seed).permutation(len(normals))[:MOST_SQUARES]
    for start in range(0, len(chosen), BATCH):
        numbers = chosen[start : start + BATCH]
        images = as_unit_tensor(normals[numbers, ..., :3]).to(device)
        yield detector.mode.laid_out(images), torch.from_numpy(sources[numbers]).to(device)
