"""Samples to make a gate by: normal images, varied and with pseudo-anomalies, and what the detector says of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from diffad_ray.diffusion.noise import seeded_generator
from diffad_ray.familiarity.samples import Tell
from diffad_ray.gates.student import GRID, SIDE
from diffad_ray.images import network_input
from diffad_ray.inference.engine import Engine
from diffad_ray.synthesis.foreground import with_foregrounds
from diffad_ray.synthesis.pseudo_anomalies import AnomalySettings, pseudo_anomalies
from diffad_ray.tensors import as_unit_tensor
from diffad_ray.training.augmentation import Augmentation, augmented

DRAWN = 16
"Images that are varied together, of which pseudo-anomalies may take parts of each other."


@dataclass(frozen=True)
class Recipe:
    """How samples are made of normal squares.

    Attributes:
        augmentation: how normal images are varied.
        anomalies: how pseudo-anomalies are made, and in which share of the samples.
        textures: [K,3,S,S] in [0,1] that lend pseudo-anomalies their appearance, or None.
        seed: of all random choices.
    """

    augmentation: Augmentation
    anomalies: AnomalySettings
    textures: Tensor | None
    seed: int

    def with_share(self, share: float, seed: int) -> Recipe:
        """Return the recipe with another share of pseudo-anomalies, in [0, 1], and other random numbers."""
        return replace(self, anomalies=replace(self.anomalies, share=share), seed=seed)


@dataclass(frozen=True)
class Scored:
    """Squares with what a detector says of them.

    Attributes:
        pixels: [N,s,s,3] uint8, at the side that gates see.
        score: [N] float32.
        places: [N,GRID,GRID] float32, the largest value of the anomaly map in each cell.
        is_pseudo: [N] bool, whether a pseudo-anomaly was put into the square.
    """

    pixels: np.ndarray
    score: np.ndarray
    places: np.ndarray
    is_pseudo: np.ndarray


def scored_samples(engine: Engine, squares: np.ndarray, count: int, recipe: Recipe, tell: Tell) -> Scored:
    """Make `count` samples of normal squares [M,S,S,C], and let the detector score them.

    They are rounded to 8 bits first, as images are, so that the detector sees what it sees in scoring.

    Args:
        tell: receives the number of samples from time to time.
    """
    pixels, is_pseudo = [], []
    side = min(engine.detector.settings.image_size, SIDE)
    score, places, told = [], [], 0
    for images, has_anomaly in _drawn(squares, count, recipe):
        is_pseudo.append(has_anomaly)
        pixels.append(np.stack([network_input(image, side) for image in images]))
        for found in engine.detect(images):
            score.append(found.score)
            places.append(F.adaptive_max_pool2d(torch.from_numpy(found.anomaly_map), GRID).numpy())
        told += len(images)
        if told % (DRAWN * 20) == 0:
            tell(f"{told} of {count} samples scored")
    return Scored(*map(np.concatenate, (pixels, score, places, is_pseudo)))


def _drawn(squares: np.ndarray, count: int, recipe: Recipe) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield batches of samples [B,S,S,3] uint8, and which of them have a pseudo-anomaly [B] bool."""
    rng, made = np.random.default_rng(recipe.seed), 0
    generator = seeded_generator("cpu", recipe.seed)
    order = np.array([], dtype=int)
    while made < count:
        size = min(DRAWN, count - made)
        while len(order) < size:
            order = np.concatenate([order, rng.permutation(len(squares))])
        chosen, order = order[:size], order[size:]
        varied = augmented(as_unit_tensor(squares[chosen]), recipe.augmentation, generator)
        images, foregrounds = with_foregrounds(varied)
        samples = pseudo_anomalies(images, recipe.textures, generator, recipe.anomalies, foregrounds=foregrounds)
        pixels = (samples.images.permute(0, 2, 3, 1) * 255).round().byte().numpy()
        yield pixels, ~samples.is_normal.numpy()
        made += size
