"""Simplex noise: against its definition, vertex by vertex, and as noise for a diffusion."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffad_ray.diffusion.noise import draw_noise, fixed_noise, seeded_generator
from diffad_ray.diffusion.simplex import VARIANCE, simplex_noise, simplex_octave

F2 = (math.sqrt(3) - 1) / 2
G2 = (3 - math.sqrt(3)) / 6


def by_definition(x: float, y: float, gradients: np.ndarray) -> float:
    """The sum over all vertices of max(0, r^2 - d^2)^4 times the ramp, with r^2 = 1/2 (the report's Eq. 8)."""
    total = 0.0
    for i, j in np.ndindex(gradients.shape[:2]):
        # Where vertex (i, j) of the lattice lies before the skew of Eq. 5 to 7.
        offset = np.array([x - (i - (i + j) * G2), y - (j - (i + j) * G2)])
        total += max(0.0, 0.5 - float(offset @ offset)) ** 4 * float(offset @ gradients[i, j])
    return total


@given(st.floats(0, 3), st.floats(0, 3), st.integers(0, 2**32 - 1))
def test_an_octave_is_what_its_definition_says(x: float, y: float, seed: int) -> None:
    angles = np.random.default_rng(seed).uniform(0, 2 * math.pi, (9, 9))
    gradients = np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    u, v = (torch.tensor([[[place + (x + y) * F2]]], dtype=torch.float64) for place in (x, y))
    found = simplex_octave(u, v, torch.from_numpy(gradients)[None, :, :, None])
    assert float(found) * math.sqrt(VARIANCE) == pytest.approx(by_definition(x, y, gradients), abs=1e-9)


@pytest.mark.parametrize("octaves", [1, 6])
def test_each_pixel_of_many_draws_has_mean_0_and_variance_1(octaves: int) -> None:
    noise = simplex_noise((2000, 1, 16, 24), seeded_generator("cpu", 0), octaves)
    assert noise.mean(dim=0).abs().max() < 0.1
    torch.testing.assert_close(noise.var(dim=0), torch.ones(1, 16, 24), atol=0.25, rtol=0)
    assert float(noise.var()) == pytest.approx(1, abs=0.02)


def test_images_and_channels_have_draws_of_their_own() -> None:
    noise = simplex_noise((40, 3, 32, 32), seeded_generator("cpu", 1))
    channels = np.corrcoef(noise.transpose(0, 1).flatten(1))
    assert np.abs(channels - np.eye(3)).max() < 0.1
    images = np.corrcoef(noise.flatten(1))
    assert np.abs(images - np.eye(40)).max() < 0.5


def test_features_are_smooth_and_more_octaves_are_rougher() -> None:
    noise = simplex_noise((50, 1, 64, 64), seeded_generator("cpu", 2), octaves=1)
    # A feature is a quarter of the side, 16 px: neighbours agree, pixels a feature and a half apart don't.
    assert float((noise[..., 1:] * noise[..., :-1]).mean()) > 0.94
    assert abs(float((noise[..., 24:] * noise[..., :-24]).mean())) < 0.1
    rough = simplex_noise((50, 1, 64, 64), seeded_generator("cpu", 2), octaves=6)
    assert 0.4 < float((rough[..., 1:] * rough[..., :-1]).mean()) < 0.8


@pytest.mark.parametrize("kind", ["gaussian", "simplex"])
def test_fixed_noise_is_a_function_of_seed_draw_and_size(kind: str) -> None:
    first = fixed_noise(kind, 3, 0, 3, 32, 48)  # type: ignore[arg-type]
    torch.manual_seed(99)
    assert first.shape == (1, 3, 32, 48)
    assert torch.equal(first, fixed_noise(kind, 3, 0, 3, 32, 48))  # type: ignore[arg-type]
    assert not torch.equal(first, fixed_noise(kind, 3, 1, 3, 32, 48))  # type: ignore[arg-type]
    assert torch.equal(draw_noise(kind, (1, 3, 32, 48), seeded_generator("cpu", 3, 0)), first)  # type: ignore[arg-type]
