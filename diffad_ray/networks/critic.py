"""The critic of a Wasserstein GAN, and its gradient penalty."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEVELS = 4


class Critic(nn.Module):
    """Maps images [N,3,H,W] to unbounded values [N], higher for real images.

    The critic has no batch normalisation, since the gradient penalty is per sample, and no sigmoid, since its value is
    not a probability (Gulrajani et al. 2017).

    Args:
        channels: width of the first of four levels; each next level has half the size and twice the width.
    """

    def __init__(self, channels: int):
        super().__init__()
        widths = [3, *(channels * 2**level for level in range(LEVELS))]
        self.levels = nn.ModuleList(
            nn.Conv2d(before, width, 4, stride=2, padding=1) for before, width in pairwise(widths)
        )
        self.out = nn.Linear(widths[-1], 1)

    def forward(self, images: Tensor) -> Tensor:
        h = images
        for level in self.levels:
            h = F.leaky_relu(level(h), 0.2)
        return self.out(h.mean(dim=(2, 3))).squeeze(1)


def gradient_penalty(critic: nn.Module, real: Tensor, made: Tensor, generator: torch.Generator) -> Tensor:
    """Return the mean of (|gradient| - 1)^2 at random interpolations of real and made images [N,3,H,W].

    The norm is per sample. This is the third term of Gulrajani et al. 2017, Eq. 3, without its weight.
    """
    share = torch.rand((len(real), 1, 1, 1), generator=generator, device=real.device)
    between = (share * real + (1 - share) * made).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    return (gradient.flatten(1).norm(dim=1) - 1).square().mean()
