"""Makes training samples with pseudo-anomalies from normal images."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from diffad_ray.synthesis.appearance import (
    changed,
    each,
    grey,
    moved,
    recoloured,
    shaded,
    shuffled_strips,
    spread,
    texture_sources,
)
from diffad_ray.synthesis.shapes import (
    patch_shapes,
    perlin_shapes,
    soft,
    spot_shapes,
    stroke_shapes,
    uniform,
)

FAINTEST = 3 / 255
"Least mean change of an image within an anomaly's mask, also for images without contrast."
MOST_AMPLIFIED = 4.0
SHAPES = ("perlin", "strokes", "spots", "patches")
APPEARANCES = ("textures", "strips", "moved", "shades")


@dataclass(frozen=True, kw_only=True)
class AnomalySettings:
    """Settings of pseudo-anomalies. Weights are relative; a weight of 0 excludes a kind.

    The paper's recipe is perlin=1, textures=1, strips=1, all other weights, edge, contrast and recoloured 0.

    Attributes:
        share: share of the samples that get an anomaly, in [0, 1].
        perlin, strokes, spots, patches: weights of the shapes: Perlin blobs (the paper's), thin random walks, small
            ellipses, wide areas with a blurred border.
        textures, strips, moved, shades: weights of the appearances: textures and shuffled strips of the image (the
            paper's), another image shifted and mirrored, the image lightened or darkened.
        recoloured: share of the textures that get the product's colour and about its brightness, in [0, 1].
        opacity: range of the blending weight of the anomaly, 1 - b for the paper's b in [0.2, 0.8]. Shades have
            weight 1 and a strength of their own.
        edge: range of the width in pixels of an anomaly's soft border.
        contrast: least mean change within the mask, in standard deviations of the image's brightness. Fainter anomalies
            are amplified, or omitted where clipping prevents that; 0 accepts all.
    """

    share: float = 0.5
    perlin: float = 0.35
    strokes: float = 0.25
    spots: float = 0.25
    patches: float = 0.15
    textures: float = 0.35
    strips: float = 0.15
    moved: float = 0.15
    shades: float = 0.35
    recoloured: float = 0.5
    opacity: tuple[float, float] = (0.2, 0.8)
    edge: tuple[float, float] = (0.5, 3.0)
    contrast: float = 0.3

    def __post_init__(self) -> None:
        object.__setattr__(self, "opacity", tuple(self.opacity))
        object.__setattr__(self, "edge", tuple(self.edge))
        for name in ("share", "recoloured"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} {getattr(self, name)} must lie in [0, 1]")
        if len(self.opacity) != 2 or not 0 <= self.opacity[0] <= self.opacity[1] <= 1:
            raise ValueError(f"opacity {self.opacity} must be two numbers in [0, 1], the smaller first")
        if len(self.edge) != 2 or not 0 <= self.edge[0] <= self.edge[1]:
            raise ValueError(f"edge {self.edge} must be two numbers of pixels, 0 or more, the smaller first")
        if self.contrast < 0:
            raise ValueError(f"contrast {self.contrast} must be 0 or more")
        for names in (SHAPES, APPEARANCES):
            weights = self.weights(names)
            if min(weights) < 0 or sum(weights) <= 0:
                raise ValueError(f"weights {', '.join(names)} must be 0 or more, and one of them above 0")

    def weights(self, names: tuple[str, ...]) -> tuple[float, ...]:
        return tuple(getattr(self, name) for name in names)


class Samples(NamedTuple):
    """Training samples from N images."""

    images: Tensor
    "[N,3,H,W] in [0,1]"
    masks: Tensor
    "[N,1,H,W], 1.0 where an anomaly has at least half of its strength, else 0.0"
    is_normal: Tensor
    "[N] bool, true for an empty mask"


def drawn_rows(m: int, weights: tuple[float, ...], generator: torch.Generator) -> list[Tensor]:
    """Assign M samples to kinds with the given relative weights; return the indices of each kind's samples."""
    drawn = torch.tensor(weights, dtype=torch.float32, device=generator.device).multinomial(
        m, replacement=True, generator=generator
    )
    return [(drawn == kind).nonzero().squeeze(1) for kind in range(len(weights))]


def pseudo_anomalies(
    normals: Tensor,
    textures: Tensor | None,
    generator: torch.Generator,
    settings: AnomalySettings,
    foregrounds: Tensor | None = None,
) -> Samples:
    """Draw training samples: S = x (1-M) + M ((1-b) A + b x) (DiffusionAD section 3.5), M with soft edges.

    The first samples of the batch get the anomalies, N times `settings.share` of them on average. Batches must be
    shuffled.

    Args:
        normals: [N,3,H,W] in [0,1], on the generator's device; not modified.
        textures: [K,3,h,w] in [0,1] texture images, or None for procedural ones.
        generator: source of all random numbers.
        settings: weights and ranges.
        foregrounds: [N,1,H,W] bool masks of the product, to which anomalies are confined; None means everywhere.
    """
    n, _, height, width = normals.shape
    rounding = torch.rand((), generator=generator, device=generator.device).item()
    m = math.floor(settings.share * n + rounding)
    masks = torch.zeros((n, 1, height, width), device=normals.device)
    if m == 0:
        return Samples(normals, masks, torch.ones(n, dtype=torch.bool, device=normals.device))

    x = normals[:m]
    inside = torch.ones_like(masks[:m], dtype=torch.bool) if foregrounds is None else foregrounds[:m]
    strength = _strengths(inside.squeeze(1), settings, generator)[:, None] * inside
    mask = (strength >= 0.5).float()
    appearance, is_shade = _appearances(x, textures, settings, generator)
    opacity = torch.where(is_shade, torch.ones_like(is_shade, dtype=x.dtype), each(m, *settings.opacity, generator))
    change = opacity * strength * (appearance - x)

    # Invisible anomalies would be wrong labels: faint ones are amplified, and those clipped to less are omitted.
    wanted = (settings.contrast * spread(x)).clamp(min=FAINTEST if settings.contrast else 0.0)
    factor = (wanted / _mean_change(change, mask).clamp(min=1e-6)).clamp(1, MOST_AMPLIFIED)
    anomalous = (x + factor * change).clamp(0, 1)
    seen = _mean_change(anomalous - x, mask) >= 0.5 * wanted
    masks[:m] = mask * seen
    images = torch.cat([torch.where(seen, anomalous, x), normals[m:]])
    return Samples(images, masks, masks.flatten(1).amax(dim=1) == 0)


def _strengths(inside: Tensor, settings: AnomalySettings, generator: torch.Generator) -> Tensor:
    """Draw the anomalies' soft masks [M,H,W] in [0,1] for foregrounds [M,H,W]."""
    strengths = torch.zeros(inside.shape, device=inside.device)
    rows = dict(zip(SHAPES, drawn_rows(len(inside), settings.weights(SHAPES), generator), strict=True))
    for shape, draw in (("perlin", perlin_shapes), ("strokes", stroke_shapes), ("spots", spot_shapes)):
        if len(mine := rows[shape]):
            edge = uniform(len(mine), *settings.edge, generator)
            strengths[mine] = soft(draw(inside[mine], generator), edge)
    if len(mine := rows["patches"]):
        strengths[mine] = soft(*patch_shapes(inside[mine], generator))
    return strengths


def _appearances(
    x: Tensor, textures: Tensor | None, settings: AnomalySettings, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw appearances [M,3,H,W]; also return whether each is a shade [M,1,1,1]."""
    rows = dict(zip(APPEARANCES, drawn_rows(len(x), settings.weights(APPEARANCES), generator), strict=True))
    appearances = torch.empty_like(x)
    for kind, of in (
        ("textures", lambda here: _textures(here, textures, settings.recoloured, generator)),
        ("strips", lambda here: changed(shuffled_strips(here, generator), generator)),
        ("shades", lambda here: shaded(here, generator)),
    ):
        if len(mine := rows[kind]):
            appearances[mine] = of(x[mine])
    if len(mine := rows["moved"]):
        # All images are passed, so that each has another one to take from.
        appearances[mine] = moved(x, generator)[mine]
    is_shade = torch.zeros((len(x), 1, 1, 1), dtype=torch.bool, device=x.device)
    is_shade[rows["shades"]] = True
    return appearances, is_shade


def _textures(x: Tensor, textures: Tensor | None, share_recoloured: float, generator: torch.Generator) -> Tensor:
    """Draw textures [M,3,H,W] for images x; a share of them are recoloured."""
    texture = changed(texture_sources(textures, x.shape, generator), generator)
    # Textures for grey images are grey, or colour alone would identify the anomaly.
    is_grey = (x.amax(dim=1) - x.amin(dim=1)).amax(dim=(1, 2)) < 2 / 255
    texture = torch.where(is_grey[:, None, None, None], grey(texture).expand_as(texture), texture)
    is_recoloured = uniform(len(x), 0, 1, generator) < share_recoloured
    return torch.where(is_recoloured[:, None, None, None], recoloured(texture, x, generator), texture)


def _mean_change(change: Tensor, mask: Tensor) -> Tensor:
    """Return the mean [M,1,1,1] over the mask [M,1,H,W] of the largest absolute change [M,3,H,W] of a channel."""
    total = (change.abs().amax(dim=1, keepdim=True) * mask).sum(dim=(1, 2, 3), keepdim=True)
    return total / mask.sum(dim=(1, 2, 3), keepdim=True).clamp(min=1)
