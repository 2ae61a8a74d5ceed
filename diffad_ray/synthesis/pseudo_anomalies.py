"""Turns a batch of normal images into training samples, about half of them with a pseudo-anomaly."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from diffad_ray.synthesis.appearance import changed, each, grey, shaded, shuffled_strips, texture_sources
from diffad_ray.synthesis.shapes import perlin_masks, spot_masks, stroke_masks


@dataclass(frozen=True, kw_only=True)
class AnomalySettings:
    """How pseudo-anomalies are made. Shares and weights are relative; a weight of 0 leaves a kind out.

    Attributes:
        share: share of the samples that get an anomaly, in [0, 1].
        perlin, strokes, spots: weights of the shapes: Perlin blobs (the paper's), thin random walks, ellipses.
        textures, strips, shades: weights of the appearances: textures and shuffled strips of the image itself (the
            paper's), the image itself lighter or darker.
        opacity: range of the anomaly's weight over the image; the paper's b in [0.2, 0.8], as 1 - b.
    """

    share: float = 0.5
    perlin: float = 0.5
    strokes: float = 0.25
    spots: float = 0.25
    textures: float = 0.5
    strips: float = 0.25
    shades: float = 0.25
    opacity: tuple[float, float] = (0.2, 0.8)

    def __post_init__(self) -> None:
        object.__setattr__(self, "opacity", tuple(self.opacity))
        if not 0 <= self.share <= 1:
            raise ValueError(f"share of anomalous samples {self.share} must lie in [0, 1]")
        if len(self.opacity) != 2 or not 0 <= self.opacity[0] <= self.opacity[1] <= 1:
            raise ValueError(f"opacity {self.opacity} must be two numbers in [0, 1], the smaller first")
        for names in (("perlin", "strokes", "spots"), ("textures", "strips", "shades")):
            weights = [getattr(self, name) for name in names]
            if min(weights) < 0 or sum(weights) <= 0:
                raise ValueError(f"weights {', '.join(names)} must be 0 or more, and one of them above 0")


class Samples(NamedTuple):
    """Training samples of N images."""

    images: Tensor
    "[N,3,H,W] in [0,1]"
    masks: Tensor
    "[N,1,H,W], 1.0 where the image was changed"
    is_normal: Tensor
    "[N] bool, true where the mask is empty"


def choose(weights: tuple[float, ...], options: list[Tensor], generator: torch.Generator) -> Tensor:
    """For each of M samples one of the options [M,...], with the given relative weights."""
    m = len(options[0])
    drawn = torch.tensor(weights, dtype=torch.float32, device=generator.device).multinomial(
        m, replacement=True, generator=generator
    )
    result = options[0]
    for number, option in enumerate(options[1:], start=1):
        result = torch.where((drawn == number).view(-1, *[1] * (option.dim() - 1)), option, result)
    return result


def pseudo_anomalies(
    normals: Tensor, textures: Tensor | None, generator: torch.Generator, settings: AnomalySettings
) -> Samples:
    """Draw training samples: S = x (1-M) + M ((1-b) A + b x) (DiffusionAD section 3.5).

    The first samples of the batch get the anomalies, as many as `settings.share` asks for on average; batches are
    shuffled, so which ones they are carries no meaning.

    Args:
        normals: [N,3,H,W] in [0,1], on the generator's device; not changed.
        textures: [K,3,h,w] in [0,1] that lend their appearance, or None for procedural ones.
    """
    n, _, height, width = normals.shape
    rounding = torch.rand((), generator=generator, device=generator.device).item()
    m = math.floor(settings.share * n + rounding)
    masks = torch.zeros((n, 1, height, width), device=normals.device)
    if m == 0:
        return Samples(normals, masks, torch.ones(n, dtype=torch.bool, device=normals.device))

    x = normals[:m]
    shapes = [draw(m, height, width, generator) for draw in (perlin_masks, stroke_masks, spot_masks)]
    mask = choose((settings.perlin, settings.strokes, settings.spots), shapes, generator)[:, None].float()

    texture = changed(texture_sources(textures, x.shape, generator), generator)
    # An anomaly on a grey product is grey: colour alone would give it away.
    is_grey = (x.amax(dim=1) - x.amin(dim=1)).amax(dim=(1, 2)) < 2 / 255
    texture = torch.where(is_grey[:, None, None, None], grey(texture).expand_as(texture), texture)
    strips = changed(shuffled_strips(x, generator), generator)
    weights = (settings.textures, settings.strips, settings.shades)
    appearance = choose(weights, [texture, strips, shaded(x, generator)], generator)

    opacity = each(m, *settings.opacity, generator)
    anomalous = torch.lerp(x, appearance, opacity * mask)
    masks[:m] = mask
    images = torch.cat([anomalous, normals[m:]])
    return Samples(images, masks, masks.flatten(1).amax(dim=1) == 0)
