"""Shapes of pseudo-anomalies: batches of masks from Perlin noise, strokes and spots.

All functions draw from an explicit generator on the device where the result lies. Shapes: M masks, H x W pixels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

LATTICE = 64
"Gradients of Perlin noise repeat after this many cells; the finest noise has 32 cells across an image."
PERLIN_THRESHOLD = 0.5
MOST_REDRAWS = 50


def uniform(m: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    """[M] floats, uniform in [low, high)."""
    return low + (high - low) * torch.rand(m, generator=generator, device=generator.device)


def pixel_grid(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """x [1,W'] and y [H',1] of pixel centres, in units of the longer side, zero at the image's centre."""
    longest = max(height, width)
    y = (torch.arange(height, device=device) + 0.5 - height / 2) / longest
    x = (torch.arange(width, device=device) + 0.5 - width / 2) / longest
    return x[None, :], y[:, None]


def perlin_noise(height: int, width: int, cells_x: Tensor, cells_y: Tensor, generator: torch.Generator) -> Tensor:
    """Perlin gradient noise [M,H,W], in about [-1, 1], each image turned by its own angle of up to 90 degrees.

    Args:
        cells_x, cells_y: [M], lattice cells across the longer side of the image, up to 32.
    """
    m, device = len(cells_x), cells_x.device
    angle = uniform(m, 0, math.pi / 2, generator)[:, None, None]
    x, y = pixel_grid(height, width, device)
    # The lattice is turned rather than the noise: no resampling, no empty corners.
    u = (angle.cos() * x - angle.sin() * y) * cells_x[:, None, None] + LATTICE // 2
    v = (angle.sin() * x + angle.cos() * y) * cells_y[:, None, None] + LATTICE // 2
    column, row = u.floor(), v.floor()
    du, dv = u - column, v - row
    column, row = column.long(), row.long()
    phi = torch.rand((m, LATTICE * LATTICE), generator=generator, device=device) * (2 * math.pi)
    gradients_u, gradients_v = phi.cos(), phi.sin()

    def corner(i: int, j: int) -> Tensor:
        """Contribution of the lattice point (column + i, row + j): its gradient times the way to the pixel."""
        index = (((row + j) % LATTICE) * LATTICE + (column + i) % LATTICE).flatten(1)
        along_u = gradients_u.gather(1, index).view_as(u) * (du - i)
        return along_u + gradients_v.gather(1, index).view_as(u) * (dv - j)

    fade_u, fade_v = (d * d * d * (d * (d * 6 - 15) + 10) for d in (du, dv))
    top = torch.lerp(corner(0, 0), corner(1, 0), fade_u)
    bottom = torch.lerp(corner(0, 1), corner(1, 1), fade_u)
    return math.sqrt(2) * torch.lerp(top, bottom, fade_v)


def perlin_masks(m: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """Blobs [M,H,W] bool: Perlin noise of 2^(0..5) cells an axis over 0.5 (DRAEM; DiffusionAD section 3.5).

    Empty masks are drawn again, up to 50 times; what is empty then is left empty.
    """
    masks = torch.zeros((m, height, width), dtype=torch.bool, device=generator.device)
    empty = torch.arange(m, device=generator.device)
    for _ in range(MOST_REDRAWS):
        cells = 2 ** torch.randint(0, 6, (2, len(empty)), generator=generator, device=generator.device)
        masks[empty] = perlin_noise(height, width, cells[0].float(), cells[1].float(), generator) > PERLIN_THRESHOLD
        empty = empty[~masks[empty].flatten(1).any(dim=1)]
        if not len(empty):
            break
    return masks


def stroke_masks(m: int, height: int, width: int, generator: torch.Generator, segments: int = 8) -> Tensor:
    """Cracks and scratches [M,H,W] bool: thin random walks of `segments` straight pieces."""
    device = generator.device
    length = torch.exp(uniform(m, math.log(0.02), math.log(0.15), generator))[:, None]
    # A walk that hardly turns is a scratch, one that turns much is a crack.
    wobble = uniform(m, 0.0, 0.8, generator)[:, None]
    turns = wobble * torch.randn((m, segments), generator=generator, device=device)
    heading = uniform(m, 0, 2 * math.pi, generator)[:, None] + turns.cumsum(dim=1)
    x = torch.cat([uniform(m, -0.45, 0.45, generator)[:, None], length * heading.cos()], dim=1).cumsum(dim=1)
    y = torch.cat([uniform(m, -0.45, 0.45, generator)[:, None], length * heading.sin()], dim=1).cumsum(dim=1)
    pixel_x, pixel_y = pixel_grid(height, width, device)
    nearest = torch.full((m, height, width), torch.inf, device=device)
    for k in range(segments):
        ax, ay, bx, by = (p[:, k + i, None, None] for i in (0, 1) for p in (x, y))
        dx, dy = bx - ax, by - ay
        along = ((pixel_x - ax) * dx + (pixel_y - ay) * dy) / (dx * dx + dy * dy)
        along = along.clamp(0, 1)
        distance = (pixel_x - ax - along * dx).square() + (pixel_y - ay - along * dy).square()
        nearest = torch.minimum(nearest, distance)
    thinnest = 0.7 / max(height, width)
    half_width = torch.exp(uniform(m, math.log(thinnest), math.log(max(0.02, 2 * thinnest)), generator))
    return nearest < half_width.square()[:, None, None]


def spot_masks(m: int, height: int, width: int, generator: torch.Generator, spots: int = 3) -> Tensor:
    """Pits, holes and stains [M,H,W] bool: one to `spots` ellipses."""
    device = generator.device
    x, y = pixel_grid(height, width, device)
    masks = torch.zeros((m, height, width), dtype=torch.bool, device=device)
    count = torch.randint(1, spots + 1, (m,), generator=generator, device=device)
    for k in range(spots):
        centre_x, centre_y = (uniform(m, -0.45, 0.45, generator)[:, None, None] for _ in range(2))
        angle = uniform(m, 0, math.pi, generator)[:, None, None]
        smallest = 1.0 / max(height, width)
        radius = torch.exp(uniform(m, math.log(smallest), math.log(0.12), generator))[:, None, None]
        aspect = uniform(m, 0.4, 1.0, generator)[:, None, None]
        dx, dy = x - centre_x, y - centre_y
        along, across = angle.cos() * dx + angle.sin() * dy, angle.cos() * dy - angle.sin() * dx
        inside = (along / radius).square() + (across / (radius * aspect)).square() < 1
        masks |= inside & (k < count)[:, None, None]
    return masks
