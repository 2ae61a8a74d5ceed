"""Draws of noise. Every draw names its generator, so that training resumes and scoring repeats exactly."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from diffad_ray.diffusion.simplex import simplex_noise

Noise = Literal["gaussian", "simplex"]
"Kinds of noise, both of mean 0 and variance 1: pixels on their own, or smooth features of many sizes."


def seeded_generator(device: torch.device | str, *seed: int) -> torch.Generator:
    """A generator on `device` whose state is a function of all the numbers in `seed` (seed, step, rank, ...).

    Neighbouring seeds give unrelated streams: the numbers are mixed by multiplication with a large odd constant and
    folding of the high bits (the finaliser of SplitMix64).
    """
    mixed = 0
    for number in seed:
        mixed = (mixed + number + 0x9E3779B97F4A7C15) % 2**64
        mixed = (mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EB % 2**64
        mixed ^= mixed >> 31
    return torch.Generator(device).manual_seed(mixed % 2**63)


def draw_noise(kind: Noise, shape: tuple[int, int, int, int], generator: torch.Generator) -> Tensor:
    """Noise [N,C,H,W] on the generator's device."""
    if kind == "simplex":
        return simplex_noise(shape, generator)
    return torch.randn(shape, generator=generator, device=generator.device)


def fixed_noise(kind: Noise, seed: int, draw: int, channels: int, height: int, width: int) -> Tensor:
    """Noise [1,C,H,W] of scoring, shared by all images: the same for a seed, draw and size on every machine.

    It is drawn on the CPU whatever the device, since devices disagree on the numbers that a seed gives.
    """
    return draw_noise(kind, (1, channels, height, width), seeded_generator("cpu", seed, draw))
