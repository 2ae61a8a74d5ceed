"""Features of familiarity: a feature map of Gabor magnitudes and colours, and a miniature of the whole image.

All features are normalised by the image's own mean and contrast, because exposure and surface finish vary between
lots and are no defects.

Letters in shapes: N images, C feature channels, G cells a side, D numbers of a miniature.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

SIDE, GRID, MINIATURE = 128, 32, 16
"Pixels a side: of the largest image that is filtered, of the feature map (G), of the miniature."
LEVELS, SMALLEST = 4, 16
"Number of octaves, and the smallest side in pixels of an image that is still filtered."
ORIENTATIONS = 4
WAVELENGTH, WIDTH, ASPECT, RADIUS = 4.0, 1.4, 0.7, 3
"Gabor filters: wavelength, sigma across the waves, its ratio to the sigma along them, radius of the window; in pixels."
COLOURS = 3
"Channels of colour: grey level, red - green, yellow - blue."
LEAST_CONTRAST, LEAST_STRENGTH = 0.02, 5e-4
"Floors of an image's contrast and of an octave's mean Gabor magnitude, for images in [0, 1]; less is noise."
WEAK = 0.05
"""Added to normalised Gabor magnitudes before their square root, which stabilises their variance; smaller ones are
noise."""


class Described(NamedTuple):
    """Features of N images."""

    responses: Tensor
    "[N,C,G,G] feature maps, see `described`"
    miniature: Tensor
    "[N,D] images at 16 x 16 pixels, less their mean grey level and divided by their contrast"
    exposure: Tensor
    "[N,2] logarithms of that mean and contrast"

    def those(self, chosen: Tensor) -> Described:
        """Return the features of the images that `chosen` selects: indices [M], or a mask [N] of bool."""
        return Described(*(values[chosen] for values in self))


def gabor_filters() -> Tensor:
    """Return [2 x ORIENTATIONS,1,w,w]: an even and an odd filter per orientation, of mean 0 and L1 norm 1."""
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
    """Return the sides in pixels of the octaves of an image with this side."""
    sides = [min(side, SIDE) >> level for level in range(LEVELS)]
    return [seen for seen in sides if seen >= SMALLEST]


def channels(side: int) -> int:
    """Return C, the number of feature channels, for images with this side."""
    return ORIENTATIONS * sum(2 if seen > GRID else 1 for seen in octave_sides(side)) + COLOURS


def described(images: Tensor, gabor: Tensor | None) -> Described:
    """Compute the features of images [N,3,S,S] in [0,1].

    Per octave and orientation: Gabor magnitude, max-pooled where a cell has several pixels, then mean-pooled; both
    divided by the image's mean. Max-pooling keeps specks and hairlines. Then the colours, divided by the contrast.
    Without filters, the maps have no channels.
    """
    images = images.float()
    if images.shape[-1] > SIDE:
        images = F.interpolate(images, (SIDE, SIDE), mode="area")
    grey = images.mean(dim=1, keepdim=True)
    light = grey.mean(dim=(2, 3), keepdim=True)
    contrast = _deviation(grey - light).clamp(min=LEAST_CONTRAST)
    exposure = torch.cat([light.clamp(min=LEAST_CONTRAST), contrast], dim=1).flatten(1).log()
    images = (images - light) / contrast
    if gabor is None:
        responses = images.new_zeros((len(images), 0, GRID, GRID))
    else:
        red, green, blue = F.adaptive_avg_pool2d(images, GRID).split(1, dim=1)
        colours = [(red + green + blue) / 3, red - green, (red + green) / 2 - blue]
        responses = torch.cat([(_magnitudes(grey, gabor) + WEAK).sqrt(), *colours], dim=1)
    return Described(responses, F.adaptive_avg_pool2d(images, MINIATURE).flatten(1), exposure)


def _magnitudes(grey: Tensor, gabor: Tensor) -> Tensor:
    """Return the pooled Gabor magnitudes [N,C-COLOURS,G,G] of grey images [N,1,S,S], divided by the image's mean."""
    found = []
    # A convolution of one channel takes half the time in this format.
    gabor = gabor.to(memory_format=torch.channels_last)
    for level in range(len(octave_sides(grey.shape[-1]))):
        waves = F.conv2d(F.pad(F.avg_pool2d(grey, 2**level), (RADIUS,) * 4, mode="reflect"), gabor)
        strengths = (waves[:, 0::2].square() + waves[:, 1::2].square()).sqrt()
        usual = strengths.mean(dim=(1, 2, 3), keepdim=True).clamp(min=LEAST_STRENGTH)
        # Division by a positive number may follow the pooling, which leaves fewer numbers to divide.
        if strengths.shape[-1] > GRID:
            found += [F.adaptive_max_pool2d(strengths, GRID) / usual, F.adaptive_avg_pool2d(strengths, GRID) / usual]
        else:
            found.append(F.interpolate(strengths, (GRID, GRID), mode="bilinear") / usual)
    return torch.cat(found, dim=1)


def _deviation(grey: Tensor) -> Tensor:
    """Return a robust standard deviation [N,1,1,1] of grey levels [N,1,H,W] of mean 0, exact for a normal distribution.

    The estimate is 1.48 mean(sqrt|x|)^2. A strong scratch inflates the sample standard deviation far more, and the
    rest of a smooth image or tile would then look anomalous.
    """
    return 1.48 * grey.abs().sqrt().mean(dim=(2, 3), keepdim=True).square()
