"""Augmentation of normal images: turned, moved, zoomed and brightened views of a good part."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from diffad_ray.networks.presets import scaled_size
from diffad_ray.synthesis.appearance import each
from diffad_ray.synthesis.shapes import uniform

MOVED = 0.75
"Share of the images that are turned, shifted and zoomed."
Mirror = Literal["none", "horizontal", "vertical", "both"]


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How normal images are varied in training.

    A variation that would make a good part defective must stay off, such as mirroring if the side matters. The defaults
    are small movements that occur on every line.

    Attributes:
        mirror: left and right (`horizontal`), top and bottom (`vertical`), or `both`, each for half of the images.
        quarter_turns: rotation by 0, 90, 180 or 270 degrees with equal chances.
        rotation: largest angle in degrees, in both directions. Rotation, shift and zoom are applied together, to three
            quarters of the images. Pixels from outside the image are filled by reflection.
        shift: largest shift in both directions, as a share of each side, in [0, 0.5].
        zoom: largest relative change of size, in both directions, in [0, 0.5].
        brightness: largest relative change of brightness, in both directions, in [0, 1).
    """

    mirror: Mirror = "none"
    quarter_turns: bool = False
    rotation: float = 2.0
    shift: float = 0.02
    zoom: float = 0.02
    brightness: float = 0.05

    def __post_init__(self) -> None:
        if self.mirror not in ("none", "horizontal", "vertical", "both"):
            raise ValueError(f"mirror {self.mirror!r} is none of 'none', 'horizontal', 'vertical', 'both'")
        if not 0 <= self.rotation <= 180:
            raise ValueError(f"rotation {self.rotation} must lie in [0, 180] degrees")
        for name in ("shift", "zoom"):
            if not 0 <= getattr(self, name) <= 0.5:
                raise ValueError(f"{name} {getattr(self, name)} must lie in [0, 0.5]")
        if not 0 <= self.brightness < 1:
            raise ValueError(f"brightness {self.brightness} must lie in [0, 1)")


def augmented(inputs: Tensor, settings: Augmentation, generator: torch.Generator, scale: float = 1.0) -> Tensor:
    """Return varied inputs [N,C,h,w]: three channels in [0,1], and a fourth if the inputs have a foreground.

    The foreground is moved with the image. Its brightness does not change.

    Args:
        inputs: [N,C,H,W] on the device of the generator, with H = W for quarter turns. They are not changed.
        scale: the inputs are resized to this share of their sides first, see `DetectorSettings`.
    """
    if scale != 1.0:
        inputs = F.interpolate(inputs, scaled_size(inputs.shape[2], inputs.shape[3], scale), mode="area")
    n, device = len(inputs), inputs.device
    for side, dim in (("horizontal", 3), ("vertical", 2)):
        if settings.mirror in (side, "both"):
            flip = torch.rand((n, 1, 1, 1), generator=generator, device=device) < 0.5
            inputs = torch.where(flip, inputs.flip(dim), inputs)
    if settings.quarter_turns:
        for turns in (1, 2):
            chosen = torch.rand((n, 1, 1, 1), generator=generator, device=device) < 0.5
            inputs = torch.where(chosen, torch.rot90(inputs, turns, (2, 3)), inputs)
    if settings.rotation or settings.shift or settings.zoom:
        # Some images stay as sharp as they are. If all were interpolated, sharpness itself would become an anomaly.
        moved = torch.rand((n, 1, 1, 1), generator=generator, device=device) < MOVED
        inputs = torch.where(moved, _placed_otherwise(inputs, settings, generator), inputs)
    if settings.brightness:
        factor = 1 + each(n, -settings.brightness, settings.brightness, generator)
        inputs = torch.cat([(inputs[:, :3] * factor).clamp(max=1), inputs[:, 3:]], dim=1)
    return inputs


def _placed_otherwise(inputs: Tensor, settings: Augmentation, generator: torch.Generator) -> Tensor:
    """Return inputs [N,C,H,W] rotated, shifted and zoomed at random."""
    n = len(inputs)
    angle = uniform(n, -math.radians(settings.rotation), math.radians(settings.rotation), generator)
    size = 1 + uniform(n, -settings.zoom, settings.zoom, generator)
    # The units of affine_grid are half sides, while a shift is a share of a side.
    right, down = (2 * uniform(n, -settings.shift, settings.shift, generator) for _ in range(2))
    cos, sin = angle.cos() / size, angle.sin() / size
    # A rotation must keep angles in pixels, also in an image that is not square.
    ratio = inputs.shape[2] / inputs.shape[3]
    rows = torch.stack([cos, -sin * ratio, right], dim=1), torch.stack([sin / ratio, cos, down], dim=1)
    grid = F.affine_grid(torch.stack(rows, dim=1), list(inputs.shape), align_corners=False)
    # Bilinear interpolation would blur fine textures.
    return F.grid_sample(inputs, grid, mode="bicubic", padding_mode="reflection", align_corners=False).clamp(0, 1)
