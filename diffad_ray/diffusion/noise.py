"""Noise draws. Every draw takes an explicit generator, so that resumed trainings and repeated scorings are exact."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from diffad_ray.diffusion.simplex import simplex_noise

Noise = Literal["gaussian", "simplex"]
"Kinds of noise, of mean 0 and variance 1: independent pixels, or spatially smooth octaves."


def seeded_generator(device: torch.device | str, *seed: int) -> torch.Generator:
    """Return a generator on `device` whose state is a function of all numbers in `seed` (seed, step, rank, ...).

    The numbers are mixed by the finaliser of SplitMix64, so that adjacent seeds give unrelated streams.
    """
    mixed = 0
    for number in seed:
        mixed = (mixed + number + 0x9E3779B97F4A7C15) % 2**64
        mixed = (mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EB % 2**64
        mixed ^= mixed >> 31
    return torch.Generator(device).manual_seed(mixed % 2**63)


def draw_noise(kind: Noise, shape: tuple[int, int, int, int], generator: torch.Generator) -> Tensor:
    """Draw noise [N,C,H,W] on the generator's device."""
    if kind == "simplex":
        return simplex_noise(shape, generator)
    return torch.randn(shape, generator=generator, device=generator.device)


def fixed_noise(kind: Noise, seed: int, draw: int, channels: int, height: int, width: int) -> Tensor:
    """Draw the noise [1,C,H,W] of scoring for all images; it depends on seed, draw and size alone.

    The noise is drawn on the CPU, because other devices give other numbers for the same seed.
    """
    return draw_noise(kind, (1, channels, height, width), seeded_generator("cpu", seed, draw))
