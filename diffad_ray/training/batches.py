"""What a rank of a training learns from in each step."""

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
    """This process among the ranks of a run."""

    rank: int = 0
    size: int = 1
    device: torch.device = torch.device("cpu")


ALONE = World()


class Images(NamedTuple):
    """What a training learns from on one rank.

    Attributes:
        normals: this rank's normal images [N,H,W,3], uint8 or uint16; a fourth channel, if any, is their foreground.
        textures: [K,3,h,w] in [0,1], or None; see `TrainingBatch`.
        defective: defective images [M,H,W,3] for a detector that learns from them; all ranks hold the same.
    """

    normals: np.ndarray
    textures: Tensor | None = None
    defective: np.ndarray | None = None


class Batches:
    """Batches of this rank's images: shuffled passes, a function of seed and step, so that a resumed run sees what an
    uninterrupted one would have seen."""

    def __init__(self, images: np.ndarray, batch: int, seed: int):
        self.images, self.batch, self.seed = images, batch, seed
        self.passes: dict[int, np.ndarray] = {}

    def _shuffled(self, number: int) -> np.ndarray:
        if number not in self.passes:
            self.passes = {k: order for k, order in self.passes.items() if k >= number - 1}
            self.passes[number] = np.random.default_rng([self.seed, number]).permutation(len(self.images))
        return self.passes[number]

    def at(self, step: int, device: torch.device) -> Tensor:
        """Images [B,C,H,W] in [0,1] of a step."""
        positions = np.arange(step * self.batch, (step + 1) * self.batch)
        chosen = [self._shuffled(int(p // len(self.images)))[p % len(self.images)] for p in positions]
        return as_unit_tensor(self.images[chosen]).to(device, non_blocking=True)


class Source:
    """The batches of a rank, augmented; a function of settings, rank and step."""

    def __init__(self, images: Images, scales: tuple[float, ...], settings: TrainingSettings, world: World):
        share, seed = settings.batch_size // world.size, settings.seed + world.rank
        self.normals = Batches(images.normals, share, seed)
        # As many as normal ones, however few there are, in another order.
        self.defective = None
        if images.defective is not None:
            self.defective = Batches(images.defective, share, seed + DEFECTIVE_SEED)
        self.textures, self.scales, self.settings, self.world = images.textures, scales, settings, world

    def at(self, step: int, mode: Mode, generator: torch.Generator) -> TrainingBatch:
        """The batch of a step, in the memory format of a mode."""
        # The same on all ranks, which so hold equally many pixels; by turns it could fall in with those of the parts.
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
