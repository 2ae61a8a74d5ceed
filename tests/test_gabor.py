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
    MINIATURE,
    ORIENTATIONS,
    WAVELENGTH,
    WEAK,
    Described,
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


def test_filters_are_those_that_bundles_were_made_with() -> None:
    """Statistics of older bundles fit no other filters, no other grid, and no other number of channels."""
    filters = gabor_filters()
    assert filters.shape == (8, 1, 7, 7)
    axis = torch.arange(-3.0, 4.0)
    for number, found in enumerate(filters[:, 0]):
        angle, phase = math.pi * (number // 2) / 4, math.pi / 2 * (number % 2)
        across = axis * math.cos(angle) + axis[:, None] * math.sin(angle)
        along = axis[:, None] * math.cos(angle) - axis * math.sin(angle)
        wave = torch.exp(-(across**2 + 0.49 * along**2) / 3.92) * torch.cos(math.pi / 2 * across + phase)
        wave -= wave.mean()
        torch.testing.assert_close(found, wave / wave.abs().sum(), atol=1e-6, rtol=0)
    assert (GRID, MINIATURE) == (32, 16)
    assert {side: channels(side) for side in (16, 31, 32, 64, 128, 500)} == {
        16: 7, 31: 7, 32: 11, 64: 19, 128: 27, 500: 27
    }  # fmt: skip
    assert octave_sides(500) == [128, 64, 32, 16]
    assert octave_sides(100) == [100, 50, 25]


def some_images(side: int) -> torch.Tensor:
    return torch.rand((2, 3, side, side), generator=torch.Generator().manual_seed(0))


def test_light_contrast_and_colours_by_hand() -> None:
    images = some_images(128)
    found, grey = described(images, gabor_filters()), images.mean(dim=1)
    light = grey.mean(dim=(1, 2))
    contrast = 1.48 * (grey - light[:, None, None]).abs().sqrt().mean(dim=(1, 2)) ** 2
    torch.testing.assert_close(found.exposure, torch.stack([light, contrast], dim=1).log())
    plain = (images - light[:, None, None, None]) / contrast[:, None, None, None]
    torch.testing.assert_close(found.miniature, F.avg_pool2d(plain, 8).flatten(1), atol=1e-5, rtol=1e-4)
    red, green, blue = F.avg_pool2d(plain, 4).unbind(dim=1)
    colours = torch.stack([(red + green + blue) / 3, red - green, (red + green) / 2 - blue], dim=1)
    torch.testing.assert_close(found.responses[:, -3:], colours, atol=1e-5, rtol=1e-4)
    noise = torch.randn((1, 1, 128, 128), generator=torch.Generator().manual_seed(1))
    spread = described(0.5 + 0.1 * noise.expand(-1, 3, -1, -1), None).exposure[0, 1].exp()
    assert spread == pytest.approx(0.1, rel=0.03), "of normal noise it is the standard deviation"
    without = described(images, None)
    assert without.responses.shape == (2, 0, GRID, GRID)
    assert torch.equal(without.miniature, found.miniature)
    assert described(torch.zeros((1, 3, 32, 32)), None).exposure.exp().flatten().tolist() == pytest.approx([0.02] * 2)


def test_magnitudes_by_hand() -> None:
    images, filters = some_images(128), gabor_filters()
    found = described(images, filters).responses[:, :-3].square() - 0.05
    grey, first = images.mean(dim=1, keepdim=True), 0
    for side in (128, 64, 32, 16):
        waves = F.conv2d(F.pad(F.avg_pool2d(grey, 128 // side), (3, 3, 3, 3), mode="reflect"), filters)
        strengths = waves.unflatten(1, (4, 2)).norm(dim=2)
        strengths = strengths / strengths.mean(dim=(1, 2, 3), keepdim=True)
        if side > 32:
            expected = [F.max_pool2d(strengths, side // 32), F.avg_pool2d(strengths, side // 32)]
        else:
            expected = [F.interpolate(strengths, (32, 32), mode="bilinear")]
        for values in expected:
            torch.testing.assert_close(found[:, first : first + 4], values, atol=1e-4, rtol=1e-3)
            first += 4
    assert first == found.shape[1]


def test_large_images_are_seen_at_a_smaller_size_and_integers_as_numbers() -> None:
    images = some_images(256)
    found = (described(seen, gabor_filters()) for seen in (images, F.avg_pool2d(images, 2)))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)
    of_half = described(some_images(64).half(), gabor_filters())
    assert {values.dtype for values in of_half} == {torch.float32}


def test_weak_structure_is_noise() -> None:
    """What has less than the least strength is divided by that, so that it is not scaled up to the usual."""
    grey = 0.5 + 1e-4 * torch.rand((1, 1, 128, 128), generator=torch.Generator().manual_seed(0))
    waves = F.conv2d(F.pad(grey, (3, 3, 3, 3), mode="reflect"), gabor_filters())
    strengths = F.avg_pool2d(waves.unflatten(1, (4, 2)).norm(dim=2), 4) / 5e-4
    assert strengths.mean() < 0.1
    found = described(grey.expand(-1, 3, -1, -1), gabor_filters()).responses[:, 4:8]
    torch.testing.assert_close(found.square() - WEAK, strengths, atol=2e-3, rtol=0)


def test_some_of_the_images_are_chosen_by_number_or_by_mask() -> None:
    seen = Described(*(torch.arange(6.0).view(3, 2) + k for k in range(3)))
    for chosen in (torch.tensor([0, 2]), torch.tensor([True, False, True])):
        for one, all_of_them in zip(seen.those(chosen), seen, strict=True):
            assert torch.equal(one, all_of_them[[0, 2]])
