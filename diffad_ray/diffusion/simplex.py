"""Simplex noise in torch: smooth noise of many sizes at once, batched, on any device.

Perlin's simplex noise (2001) in two dimensions: a lattice of triangles with a random gradient at each vertex, whose
linear ramps are added up, each within a radius around its vertex. Octaves of it are the noise of AnoDDPM (Wyatt et al.
2022). Shapes: N draws, C channels, H x W pixels.

Two things differ from the usual code. Gradients are drawn for each vertex instead of looked up in a hashed table of
few directions, so that nothing repeats; and the noise has a variance of 1, as the schedules of diffusion assume.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

OCTAVES, PERSISTENCE = 6, 0.8
FEATURE_SHARE = 0.25
"Size of the largest octave's features as a share of the shorter side: AnoDDPM's 64 px at 256 x 256."

SKEW = (math.sqrt(3) - 1) / 2
"F of two dimensions: x + (x + y) F makes squares of the triangles, two each."
UNSKEW = (3 - math.sqrt(3)) / 6
RADIUS_SQUARED = 0.5
"Beyond this squared distance from a vertex its ramp is 0; the pixel's own triangle has all vertices that are nearer."
VARIANCE = math.sqrt(3) * math.pi / 184320
"Of the sum of (1/2 - d^2)^4 g.d over vertices, unit gradients g: vertices an area times the integral of its square."


def simplex_noise(
    shape: tuple[int, int, int, int],
    generator: torch.Generator,
    octaves: int = OCTAVES,
    persistence: float = PERSISTENCE,
) -> Tensor:
    """Noise [N,C,H,W] of mean 0 and variance 1 on the generator's device, a fresh draw for each image and channel.

    Each octave has features of half the size of the one before, and `persistence` times its amplitude.
    """
    n, channels, height, width = shape
    device = generator.device
    total = torch.zeros(shape, device=device)
    rows = torch.arange(height, device=device)[:, None]
    columns = torch.arange(width, device=device)
    for octave in range(octaves):
        frequency = 2**octave / (FEATURE_SHARE * min(height, width))
        if frequency > 1:
            # Features smaller than a pixel: neighbours have no vertex in common, and white noise says as much.
            total += persistence**octave * torch.randn(shape, generator=generator, device=device)
            continue
        y, x = rows * frequency, columns * frequency
        skewed = torch.stack([x + (x + y) * SKEW, y + (x + y) * SKEW])
        # A lattice that lay still would be 0 at the same pixels in every draw.
        shift = torch.rand((n, 2, 1, 1), generator=generator, device=device)
        u, v = (skewed + shift).unbind(dim=1)
        diagonal = (height + width) * SKEW
        vertices = [math.ceil((side + diagonal) * frequency) + 3 for side in (width, height)]
        angles = torch.rand((n, *vertices, channels), generator=generator, device=device) * (2 * math.pi)
        total += persistence**octave * simplex_octave(u, v, torch.stack([angles.cos(), angles.sin()], dim=-1))
    return total / math.sqrt(sum(persistence ** (2 * octave) for octave in range(octaves)))


def simplex_octave(u: Tensor, v: Tensor, gradients: Tensor) -> Tensor:
    """Simplex noise [N,C,H,W] of variance 1 at skewed places u, v [N,H,W].

    Args:
        u, v: x + (x + y) F and y + (x + y) F, in cells, at least 0 and below I - 2 and J - 2.
        gradients: [N,I,J,C,2], the unit vector of each vertex and channel.
    """
    n, _, down, channels, _ = gradients.shape
    i, j = u.long(), v.long()
    part_u, part_v = u - i, v - j
    upper = (part_u > part_v).long()
    # Planes of x and of y, [N,C,vertices]: gathering from rows of one number is several times as fast as from pairs.
    planes = gradients.permute(4, 0, 3, 1, 2).flatten(3)

    total = torch.zeros((n, channels, u[0].numel()), device=u.device, dtype=gradients.dtype)
    for step_i, step_j in ((0, 0), (upper, 1 - upper), (1, 1)):
        off_u, off_v = part_u - step_i, part_v - step_j
        back = (off_u + off_v) * UNSKEW
        x, y = off_u - back, off_v - back
        weight = (RADIUS_SQUARED - x * x - y * y).clamp(min=0).square().square()
        vertex = ((i + step_i) * down + (j + step_j)).flatten(1)[:, None].expand(-1, channels, -1)
        for plane, offset in zip(planes, (x, y), strict=True):
            total += plane.gather(2, vertex) * (offset * weight).flatten(1)[:, None]
    return total.unflatten(2, u.shape[1:]) / math.sqrt(VARIANCE)
