"""What a detector looks back at when its training has ended: the normal images once more, varied as they were."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from diffad_ray.detectors.base import Detector
from diffad_ray.detectors.engine import as_unit_tensor
from diffad_ray.diffusion.noise import seeded_generator
from diffad_ray.training.augmentation import augmented
from diffad_ray.training.loop import TrainingSettings

ENOUGH, MOST_IMAGES, MOST_PASSES = 1000, 2000, 8
"Of fewer images several variations are looked at, of more only some."
BATCH = 16


def variations(
    normals: np.ndarray, sources: np.ndarray, settings: TrainingSettings, detector: Detector, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of squares of normal images, varied as in training, and which images they are of; see `familiarise`.

    Args:
        normals: [N,S,S,3], uint8 or uint16; further channels are left out.
        sources: [N], the number of the image that each square is of: it has several where it is cut into tiles.
    """
    chosen = np.random.default_rng(settings.seed).permutation(len(normals))[:MOST_IMAGES]
    generator = seeded_generator(device, settings.seed)
    for _ in range(min(MOST_PASSES, -(-ENOUGH // len(chosen)))):
        for start in range(0, len(chosen), BATCH):
            numbers = chosen[start : start + BATCH]
            images = augmented(as_unit_tensor(normals[numbers, ..., :3]).to(device), settings.augmentation, generator)
            yield detector.mode.laid_out(images), torch.from_numpy(sources[numbers]).to(device)
