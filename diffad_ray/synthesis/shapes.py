"""Shapes of pseudo-anomalies: Perlin noise, strokes, spots and patches.

A shape is a depth map [M,H,W]: the signed distance in pixels to the shape's border, positive inside. Soft edges of any
width follow from the depths. Shapes are drawn on foregrounds [M,H,W] bool, one each, with random numbers from an
explicit generator on the foregrounds' device.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

LATTICE = 64
"Period of the Perlin gradients in cells; the finest noise has 32 cells across an image."
PERLIN_THRESHOLD = 0.5
MOST_REDRAWS = 50


def uniform(m: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    """Draw [M] floats, uniform in [low, high)."""
    return low + (high - low) * torch.rand(m, generator=generator, device=generator.device)


def log_uniform(m: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    """Draw [M] floats in [low, high) whose logarithms are uniform."""
    return torch.exp(uniform(m, math.log(low), math.log(high), generator))


def pixel_grid(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return x [1,W] and y [H,1] of pixel centres, in units of the longer side, from the image's centre."""
    longest = max(height, width)
    y = (torch.arange(height, device=device) + 0.5 - height / 2) / longest
    x = (torch.arange(width, device=device) + 0.5 - width / 2) / longest
    return x[None, :], y[:, None]


def places(foreground: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw x and y [M,count], as in `pixel_grid`, of pixels of foregrounds [M,H,W] bool; anywhere if one is empty."""
    height, width = foreground.shape[1:]
    weights = foreground.flatten(1).float()
    weights = torch.where(weights.any(dim=1, keepdim=True), weights, torch.ones_like(weights))
    chosen = weights.multinomial(count, replacement=True, generator=generator)
    x, y = pixel_grid(height, width, foreground.device)
    return x[0][chosen % width], y[:, 0][chosen // width]


def perlin_noise(height: int, width: int, cells_x: Tensor, cells_y: Tensor, generator: torch.Generator) -> Tensor:
    """Draw Perlin gradient noise [M,H,W] in about [-1, 1], each image rotated by a random angle of up to 90 degrees.

    Args:
        cells_x, cells_y: [M] lattice cells across the longer side of the image, up to 32.
    """
    m, device = len(cells_x), cells_x.device
    angle = uniform(m, 0, math.pi / 2, generator)[:, None, None]
    x, y = pixel_grid(height, width, device)
    # Rotating the lattice rather than the noise needs no resampling and leaves no empty corners.
    u = (angle.cos() * x - angle.sin() * y) * cells_x[:, None, None] + LATTICE // 2
    v = (angle.sin() * x + angle.cos() * y) * cells_y[:, None, None] + LATTICE // 2
    column, row = u.floor(), v.floor()
    du, dv = u - column, v - row
    column, row = column.long(), row.long()
    phi = torch.rand((m, LATTICE * LATTICE), generator=generator, device=device) * (2 * math.pi)
    gradients_u, gradients_v = phi.cos(), phi.sin()

    def corner(i: int, j: int) -> Tensor:
        """Return the dot product of the gradient at (column + i, row + j) and the offset of the pixel from there."""
        index = (((row + j) % LATTICE) * LATTICE + (column + i) % LATTICE).flatten(1)
        along_u = gradients_u.gather(1, index).view_as(u) * (du - i)
        return along_u + gradients_v.gather(1, index).view_as(u) * (dv - j)

    fade_u, fade_v = (d * d * d * (d * (d * 6 - 15) + 10) for d in (du, dv))
    top = torch.lerp(corner(0, 0), corner(1, 0), fade_u)
    bottom = torch.lerp(corner(0, 1), corner(1, 1), fade_u)
    return math.sqrt(2) * torch.lerp(top, bottom, fade_v)


def perlin_shapes(foreground: Tensor, generator: torch.Generator) -> Tensor:
    """Draw blobs: Perlin noise of 2^(0..5) cells per axis, thresholded at 0.5 (DRAEM; DiffusionAD section 3.5).

    Blobs outside the foreground are redrawn in up to 50 rounds; those of the last round stay.
    """
    m, height, width = foreground.shape
    device, longest = foreground.device, max(height, width)
    depths = torch.full((m, height, width), -float(longest), device=device)
    missing = torch.arange(m, device=device)
    for _ in range(MOST_REDRAWS):
        cells = 2 ** torch.randint(0, 6, (2, len(missing)), generator=generator, device=device)
        above = perlin_noise(height, width, cells[0].float(), cells[1].float(), generator) - PERLIN_THRESHOLD
        # Value / |gradient| is the distance to first order; the usual slope of a cell is the gradient's lower bound.
        down, right = torch.gradient(above, dim=(1, 2))
        usual = 0.5 * cells.amax(dim=0)[:, None, None] / longest
        depths[missing] = above / torch.hypot(down, right).clamp(min=usual)
        missing = missing[~((above > 0) & foreground[missing]).flatten(1).any(dim=1)]
        if not len(missing):
            break
    return depths


def stroke_shapes(foreground: Tensor, generator: torch.Generator, segments: int = 8) -> Tensor:
    """Draw cracks and scratches: thin random walks of `segments` line segments of varying width."""
    m, height, width = foreground.shape
    device, longest = foreground.device, max(height, width)
    length = log_uniform(m, 0.02, 0.15, generator)[:, None]
    # Small turns give scratches, large turns give cracks.
    wobble = uniform(m, 0.0, 0.8, generator)[:, None]
    turns = wobble * torch.randn((m, segments), generator=generator, device=device)
    heading = uniform(m, 0, 2 * math.pi, generator)[:, None] + turns.cumsum(dim=1)
    x, y = places(foreground, 1, generator)
    x = torch.cat([x, length * heading.cos()], dim=1).cumsum(dim=1)
    y = torch.cat([y, length * heading.sin()], dim=1).cumsum(dim=1)
    thinnest = 0.7 / longest
    half_width = log_uniform(m, thinnest, max(0.02, 2 * thinnest), generator)[:, None]
    half_widths = half_width * (0.5 + torch.rand((m, segments), generator=generator, device=device))
    pixel_x, pixel_y = pixel_grid(height, width, device)
    depths = torch.full((m, height, width), -torch.inf, device=device)
    for k in range(segments):
        ax, ay, bx, by = (p[:, k + i, None, None] for i in (0, 1) for p in (x, y))
        dx, dy = bx - ax, by - ay
        along = ((pixel_x - ax) * dx + (pixel_y - ay) * dy) / (dx * dx + dy * dy)
        along = along.clamp(0, 1)
        distance = torch.hypot(pixel_x - ax - along * dx, pixel_y - ay - along * dy)
        depths = torch.maximum(depths, half_widths[:, k, None, None].clamp(min=thinnest) - distance)
    return depths * longest


def ellipses(x: Tensor, y: Tensor, radius: Tensor, shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Return depths of ellipses with centres x and y [M] and major radii [M], in units of the image's longer side."""
    m, height, width = shape
    pixel_x, pixel_y = pixel_grid(height, width, x.device)
    angle = uniform(m, 0, math.pi, generator)[:, None, None]
    shorter = (radius * uniform(m, 0.4, 1.0, generator))[:, None, None]
    dx, dy = pixel_x - x[:, None, None], pixel_y - y[:, None, None]
    along, across = angle.cos() * dx + angle.sin() * dy, angle.cos() * dy - angle.sin() * dx
    return (1 - torch.hypot(along / radius[:, None, None], across / shorter)) * shorter * max(height, width)


def spot_shapes(foreground: Tensor, generator: torch.Generator, spots: int = 3) -> Tensor:
    """Draw pits, holes and stains: one to `spots` ellipses per image."""
    m, height, width = foreground.shape
    x, y = places(foreground, spots, generator)
    count = torch.randint(1, spots + 1, (m,), generator=generator, device=foreground.device)
    depths = torch.full((m, height, width), -torch.inf, device=foreground.device)
    for k in range(spots):
        radius = log_uniform(m, 1 / max(height, width), 0.12, generator)
        ellipse = ellipses(x[:, k], y[:, k], radius, foreground.shape, generator)
        depths = torch.where((k < count)[:, None, None], torch.maximum(depths, ellipse), depths)
    return depths


def patch_shapes(foreground: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw wide ellipses; also return the widths [M] in pixels of their soft edges."""
    m, height, width = foreground.shape
    (x, y), radius = places(foreground, 1, generator), log_uniform(m, 0.1, 0.4, generator)
    edge = radius * max(height, width) * uniform(m, 0.5, 1.5, generator)
    return ellipses(x[:, 0], y[:, 0], radius, foreground.shape, generator), edge


def soft(depths: Tensor, edge: Tensor) -> Tensor:
    """Return soft masks [M,H,W] in [0,1] of depths [M,H,W], with linear edges `edge` [M] pixels wide, 1/2 at depth 0.

    An edge of 0 gives a binary mask.
    """
    edge = edge[:, None, None]
    return torch.where(edge > 0, (0.5 + depths / edge.clamp(min=1e-3)).clamp(0, 1), (depths > 0).to(depths.dtype))
