"""Simplex noise in torch: smooth noise in octaves, batched, on any device.

Perlin's simplex noise (2001) in two dimensions has a triangular lattice with a random gradient at each vertex. The
linear ramps of the gradients are added, each within a radius around its vertex. Octaves of this noise are the noise of
AnoDDPM (Wyatt et al. 2022). Shapes: N draws, C channels, H x W pixels.

Two things differ from the usual code. Gradients are drawn for each vertex instead of looked up in a hashed table of
few directions, so that the noise does not repeat; and its variance is 1, as diffusion schedules assume.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

OCTAVES, PERSISTENCE = 6, 0.8
FEATURE_SHARE = 0.25
"Feature size of the coarsest octave as a share of the shorter side: AnoDDPM's 64 px at 256 x 256."

SKEW = (math.sqrt(3) - 1) / 2
"F in two dimensions: x + (x + y) F skews pairs of triangles into squares."
UNSKEW = (3 - math.sqrt(3)) / 6
RADIUS_SQUARED = 0.5
"Squared distance from a vertex at which its ramp ends; all nearer vertices belong to the pixel's own triangle."
VARIANCE = math.sqrt(3) * math.pi / 184320
"Variance of the sum over vertices of (1/2 - d^2)^4 g.d, g unit: vertex density times the integral of the square."


def simplex_noise(
    shape: tuple[int, int, int, int],
    generator: torch.Generator,
    octaves: int = OCTAVES,
    persistence: float = PERSISTENCE,
) -> Tensor:
    """Draw noise [N,C,H,W] of mean 0 and variance 1 on the generator's device, independently per image and channel.

    Each octave has half the feature size and `persistence` times the amplitude of the one before.
    """
    n, channels, height, width = shape
    device = generator.device
    total = torch.zeros(shape, device=device)
    rows = torch.arange(height, device=device)[:, None]
    columns = torch.arange(width, device=device)
    for octave in range(octaves):
        frequency = 2**octave / (FEATURE_SHARE * min(height, width))
        if frequency > 1:
            # With features smaller than a pixel, adjacent pixels share no vertex, so white noise is equivalent.
            total += persistence**octave * torch.randn(shape, generator=generator, device=device)
            continue
        y, x = rows * frequency, columns * frequency
        skewed = torch.stack([x + (x + y) * SKEW, y + (x + y) * SKEW])
        # The noise is 0 at vertices; a random shift moves those in every draw.
        shift = torch.rand((n, 2, 1, 1), generator=generator, device=device)
        u, v = (skewed + shift).unbind(dim=1)
        diagonal = (height + width) * SKEW
        vertices = [math.ceil((side + diagonal) * frequency) + 3 for side in (width, height)]
        angles = torch.rand((n, *vertices, channels), generator=generator, device=device) * (2 * math.pi)
        total += persistence**octave * simplex_octave(u, v, torch.stack([angles.cos(), angles.sin()], dim=-1))
    return total / math.sqrt(sum(persistence ** (2 * octave) for octave in range(octaves)))


def simplex_octave(u: Tensor, v: Tensor, gradients: Tensor) -> Tensor:
    """Return simplex noise [N,C,H,W] of variance 1 at skewed coordinates u, v [N,H,W].

    Args:
        u, v: x + (x + y) F and y + (x + y) F, in cells, at least 0 and below I - 2 and J - 2.
        gradients: [N,I,J,C,2] unit vectors per vertex and channel.
    """
    n, _, down, channels, _ = gradients.shape
    i, j = u.long(), v.long()
    part_u, part_v = u - i, v - j
    upper = (part_u > part_v).long()
    # Separate planes [N,C,vertices] of x and y, because gathering single numbers is several times faster than pairs.
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
