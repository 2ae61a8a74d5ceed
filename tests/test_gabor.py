"""The features of familiarity: Gabor responses and colours at each place, whatever the light of the whole image."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from diffad_ray.familiarity.features import (
    COLOURS,
    GRID,
    ORIENTATIONS,
    WAVELENGTH,
    WEAK,
    channels,
    described,
    gabor_filters,
    octave_sides,
)


@given(st.floats(0.6, 1.5), st.floats(-0.1, 0.1))
@settings(deadline=None, max_examples=20)
def test_light_and_contrast_of_the_whole_image_change_nothing(gain: float, offset: float) -> None:
    generator = torch.Generator().manual_seed(0)
    rough = F.interpolate(torch.rand((2, 3, 16, 16), generator=generator), 128, mode="bicubic")
    images = 0.25 + 0.3 * rough + 0.05 * torch.rand((2, 3, 128, 128), generator=generator)
    before, after = (described(x, gabor_filters()) for x in (images, gain * images + offset))
    torch.testing.assert_close(after.responses, before.responses, atol=2e-3, rtol=2e-3)
    torch.testing.assert_close(after.miniature, before.miniature, atol=2e-3, rtol=2e-3)
    light, contrast = (after.exposure.exp() / before.exposure.exp()).unbind(dim=1)
    torch.testing.assert_close(contrast, torch.full_like(contrast, gain), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(light, gain + offset / before.exposure[:, 0].exp(), atol=1e-3, rtol=1e-3)


@given(st.integers(0, ORIENTATIONS - 1), st.integers(0, 2))
@settings(deadline=None)
def test_a_wave_is_seen_by_the_filter_of_its_direction_and_length(orientation: int, level: int) -> None:
    angle, length = math.pi * orientation / ORIENTATIONS, WAVELENGTH * 2**level
    axis = torch.arange(128, dtype=torch.float32)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    wave = 0.5 + 0.2 * torch.sin(2 * math.pi * (x * math.cos(angle) + y * math.sin(angle)) / length)
    found = described(wave.expand(1, 3, -1, -1), gabor_filters()).responses
    roots = found[0, :-COLOURS, 8:-8, 8:-8].mean(dim=(1, 2))
    # Of the two finest octaves there are maxima, too, each before its means.
    means = roots.view(-1, ORIENTATIONS)[[1, 3, 4, 5]]
    assert means.flatten().argmax() == level * ORIENTATIONS + orientation
    assert means.max().square() > 2


@pytest.mark.parametrize("side", [16, 32, 64, 96, 128, 160, 256])
def test_filters_see_squares_of_any_size(side: int) -> None:
    found = described(torch.full((2, 3, side, side), 0.3), gabor_filters()).responses
    assert found.shape == (2, channels(side), GRID, GRID)
    roots, colours = found.split([found.shape[1] - COLOURS, COLOURS], dim=1)
    # What has no structure has no usual energy, either: that is noise, not 1.
    assert (roots.square() - WEAK).abs().max() < 1e-3
    assert colours.abs().max() < 1e-4
    assert octave_sides(side)[0] == min(side, 128)


def test_a_speck_sets_the_maximum_of_its_place() -> None:
    image = torch.full((1, 3, 128, 128), 0.5)
    image[..., 65, 65] = 0.0
    maxima, means = described(image, gabor_filters()).responses[0, : 2 * ORIENTATIONS].split(ORIENTATIONS)
    assert (maxima[:, 16, 16].square() > 1.3 * means[:, 16, 16].square()).all()
