"""Draws of noise. Every draw names its generator, so that training resumes and scoring repeats exactly."""

from __future__ import annotations

import torch
from torch import Tensor


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


def fixed_gaussian(seed: int, draw: int, channels: int, height: int, width: int) -> Tensor:
    """Noise [1,C,H,W] of scoring, shared by all images: the same for a seed, draw and size on every machine.

    It is drawn on the CPU whatever the device, since devices disagree on the numbers that a seed gives.
    """
    generator = seeded_generator("cpu", seed, draw)
    return torch.randn((1, channels, height, width), generator=generator)
