"""The batch that a rank of a training learns from in each step."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from diffad_ray.detectors.base import Mode, TrainingBatch
from diffad_ray.synthesis.foreground import with_foregrounds
from diffad_ray.tensors import as_unit_tensor
from diffad_ray.training.augmentation import augmented
from diffad_ray.training.settings import TrainingSettings

DEFECTIVE_SEED = 1_000_003


class World(NamedTuple):
    """The rank of this process, the number of ranks, and the device of this rank."""

    rank: int = 0
    size: int = 1
    device: torch.device = torch.device("cpu")


ALONE = World()


class Images(NamedTuple):
    """The images that one rank learns from.

    Attributes:
        normals: this rank's normal images [N,H,W,3], uint8 or uint16; a fourth channel, if any, is their foreground.
        textures: [K,3,h,w] in [0,1], or None; see `TrainingBatch`.
        defective: defective images [M,H,W,3] for a detector that learns from them; all ranks hold the same.
    """

    normals: np.ndarray
    textures: Tensor | None = None
    defective: np.ndarray | None = None


class Batches:
    """Batches from shuffled passes over images.

    A batch is a function of seed and step, so a resumed training gets the batches of an uninterrupted one.
    """

    def __init__(self, images: np.ndarray, batch: int, seed: int):
        self.images, self.batch, self.seed = images, batch, seed
        self.passes: dict[int, np.ndarray] = {}

    def _shuffled(self, number: int) -> np.ndarray:
        if number not in self.passes:
            self.passes = {k: order for k, order in self.passes.items() if k >= number - 1}
            self.passes[number] = np.random.default_rng([self.seed, number]).permutation(len(self.images))
        return self.passes[number]

    def at(self, step: int, device: torch.device) -> Tensor:
        """Return the images [B,C,H,W] in [0,1] of a step."""
        positions = np.arange(step * self.batch, (step + 1) * self.batch)
        chosen = [self._shuffled(int(p // len(self.images)))[p % len(self.images)] for p in positions]
        return as_unit_tensor(self.images[chosen]).to(device, non_blocking=True)


class Source:
    """The augmented batches of a rank. A batch is a function of settings, rank and step."""

    def __init__(self, images: Images, scales: tuple[float, ...], settings: TrainingSettings, world: World):
        share, seed = settings.batch_size // world.size, settings.seed + world.rank
        self.normals = Batches(images.normals, share, seed)
        # A batch has as many defective images as normal ones, in an order of their own.
        self.defective = None
        if images.defective is not None:
            self.defective = Batches(images.defective, share, seed + DEFECTIVE_SEED)
        self.textures, self.scales, self.settings, self.world = images.textures, scales, settings, world

    def at(self, step: int, mode: Mode, generator: torch.Generator) -> TrainingBatch:
        """Return the batch of a step, in the memory format of a mode."""
        # All ranks draw the same scale, so that they process equally many pixels. A scale that alternated with the
        # steps could coincide with the turns of the parts.
        scale = np.random.default_rng([self.settings.seed, step]).choice(self.scales)

        def inputs(source: Batches) -> Tensor:
            return augmented(source.at(step, self.world.device), self.settings.augmentation, generator, scale)

        images, foregrounds = with_foregrounds(inputs(self.normals))
        return TrainingBatch(
            normals=mode.laid_out(images),
            foregrounds=foregrounds,
            textures=self.textures,
            defective=None if self.defective is None else mode.laid_out(inputs(self.defective)),
        )
