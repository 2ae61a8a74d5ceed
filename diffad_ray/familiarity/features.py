"""What familiarity looks at: at each place of an image, strengths of Gabor filters and colours, and the whole in small.

All of that is relative to the image itself. One part is photographed under several exposures, and one lot is polished
finer than the next: that is no defect, and what is left tells more of the place.

Letters in shapes: N images, C responses and colours, G places a side, D numbers of a miniature.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

SIDE, GRID, MINIATURE = 128, 32, 16
"Pixels a side of the images that the filters see at most; places a side; and the miniature that tells the whole image."
LEVELS, SMALLEST = 4, 16
"Octaves that the filters see, and the smallest side of an image that they still see."
ORIENTATIONS = 4
WAVELENGTH, WIDTH, ASPECT, RADIUS = 4.0, 1.4, 0.7, 3
"Of the Gabor filters: pixels, standard deviation across the waves, its ratio to the one along them, half the window."
COLOURS = 3
"Grey level and two differences of colours."
LEAST_CONTRAST, LEAST_STRENGTH = 0.02, 5e-4
"Of an image in [0, 1]: usual deviation of its grey levels, and mean strength of an octave's waves. Less is noise."
WEAK = 0.05
"""Strengths are compared by their roots, which vary alike where they are weak and strong; below this share of the
image's mean they are noise."""


class Described(NamedTuple):
    """What is looked at of N images."""

    responses: Tensor
    "[N,C,G,G], see `described`"
    miniature: Tensor
    "[N,D], the images at 16 x 16 pixels, in their own light and contrast"
    exposure: Tensor
    "[N,2], logarithms of that light and contrast"

    def those(self, chosen: Tensor) -> Described:
        """Of the chosen images alone: numbers, or a bool each."""
        return Described(*(values[chosen] for values in self))


def gabor_filters() -> Tensor:
    """[2 x ORIENTATIONS,1,w,w]: even and odd waves of each orientation, of mean 0 and sum of magnitudes 1."""
    axis = torch.arange(-RADIUS, RADIUS + 1, dtype=torch.float32)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    filters = []
    for k in range(ORIENTATIONS):
        angle = math.pi * k / ORIENTATIONS
        across, along = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
        envelope = torch.exp(-(across.square() + (ASPECT * along).square()) / (2 * WIDTH**2))
        for phase in (0.0, math.pi / 2):
            wave = envelope * torch.cos(2 * math.pi * across / WAVELENGTH + phase)
            wave -= wave.mean()
            filters.append(wave / wave.abs().sum())
    return torch.stack(filters)[:, None]


def octave_sides(side: int) -> list[int]:
    """Sides of the images, octave by octave, that the filters see of an image with this side."""
    sides = [min(side, SIDE) >> level for level in range(LEVELS)]
    return [seen for seen in sides if seen >= SMALLEST]


def channels(side: int) -> int:
    """C for images with this side."""
    return ORIENTATIONS * sum(2 if seen > GRID else 1 for seen in octave_sides(side)) + COLOURS


def described(images: Tensor, gabor: Tensor) -> Described:
    """What is looked at of images [N,3,S,S] in [0,1].

    Octave by octave how strong the waves of each Gabor filter are, on average and, where a place has several pixels,
    before that at most, which a speck or a hairline sets, in shares of the image's mean of this octave; then the
    colours, in usual deviations of the image's grey level.
    """
    images = images.float()
    if images.shape[-1] > SIDE:
        images = F.interpolate(images, (SIDE, SIDE), mode="area")
    grey, found = images.mean(dim=1, keepdim=True), []
    for level in range(len(octave_sides(images.shape[-1]))):
        waves = F.conv2d(F.pad(F.avg_pool2d(grey, 2**level), (RADIUS,) * 4, mode="reflect"), gabor)
        strengths = (waves[:, 0::2].square() + waves[:, 1::2].square()).sqrt()
        strengths = strengths / strengths.mean(dim=(1, 2, 3), keepdim=True).clamp(min=LEAST_STRENGTH)
        if strengths.shape[-1] > GRID:
            found += [F.adaptive_max_pool2d(strengths, GRID), F.adaptive_avg_pool2d(strengths, GRID)]
        else:
            found.append(F.interpolate(strengths, (GRID, GRID), mode="bilinear"))
    light = grey.mean(dim=(2, 3), keepdim=True)
    contrast = _deviation(grey - light).clamp(min=LEAST_CONTRAST)
    exposure = torch.cat([light.clamp(min=LEAST_CONTRAST), contrast], dim=1).flatten(1).log()
    images = (images - light) / contrast
    red, green, blue = F.adaptive_avg_pool2d(images, GRID).split(1, dim=1)
    colours = [(red + green + blue) / 3, red - green, (red + green) / 2 - blue]
    responses = torch.cat([(torch.cat(found, dim=1) + WEAK).sqrt(), *colours], dim=1)
    return Described(responses, F.adaptive_avg_pool2d(images, MINIATURE).flatten(1), exposure)


def _deviation(grey: Tensor) -> Tensor:
    """Usual deviation [N,1,1,1] of grey levels [N,1,H,W] of mean 0: the standard one, were they normally distributed.

    The standard deviation itself follows a strong scratch, beside which all of a smooth image, or tile, would look
    strange. The square of the mean root does so far less.
    """
    return 1.48 * grey.abs().sqrt().mean(dim=(2, 3), keepdim=True).square()
