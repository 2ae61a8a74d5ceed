"""The judge: a small network that segments residuals from the statistics of normal images."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH = 48
DILATIONS = (1, 4)
"Dilations of the two residual blocks: one sees adjacent cells, the other a quarter of the image's side."
RARE = -3.0
"Initial bias of the output: the prior log odds of an anomaly."
LEAST_DISTANCE = 1e-3
"Floor of squared distances: smaller ones are rounding errors."


class ResidualSegmenter(nn.Module):
    """Map whitened residuals [N,R,C,G,G] to log odds of an anomaly [N,G,G].

    Whitened residuals mean the same for every product, so a small network suffices. SimpleNet (Liu et al. 2023) and
    ResAD (Yao et al. 2024) use a similar head on features of pretrained networks.

    Args:
        kinds: R, the number of kinds of residuals.
        channels: C, the number of feature channels.
    """

    def __init__(self, kinds: int, channels: int):
        super().__init__()
        self.into = nn.Conv2d(kinds * (channels + 1), WIDTH, 1)
        self.blocks = nn.ModuleList(_Block(dilation) for dilation in DILATIONS)
        self.out = nn.Conv2d(WIDTH, 1, 1)
        for parameter, value in zip(self.out.parameters(), (0.0, RARE), strict=True):
            nn.init.constant_(parameter, value)

    def forward(self, residuals: Tensor) -> Tensor:
        return self.judged(compressed(residuals))

    def judged(self, seen: Tensor) -> Tensor:
        """Return the log odds of residuals that are `compressed` already, which those who learn do once."""
        h = self.into(seen)
        for block in self.blocks:
            h = block(h)
        return self.out(F.silu(h)).squeeze(1)


def compressed(residuals: Tensor) -> Tensor:
    """Return the input [N,R x (C+1),G,G] of the judge's network: residuals [N,R,C,G,G] and their log distances."""
    seen = torch.cat([residuals.flatten(1, 2), squared_distance(residuals).log()], dim=1)
    # The signed logarithm compresses the residuals of strong anomalies, which are a hundred times the usual ones.
    return seen.sign() * seen.abs().log1p()


def squared_distance(residuals: Tensor) -> Tensor:
    """Return the mean square [N,R,G,G] over the channels of whitened residuals [N,R,C,G,G]."""
    return residuals.square().mean(dim=2).clamp(min=LEAST_DISTANCE)


def untaught(kinds: int, channels: int, seed: int) -> ResidualSegmenter:
    """Return an untrained judge, whose weights depend on the seed alone; torch's generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ResidualSegmenter(kinds, channels)


class _Block(nn.Module):
    """A residual block of two dilated convolutions, the identity at initialisation."""

    def __init__(self, dilation: int):
        super().__init__()
        self.first = nn.Conv2d(WIDTH, WIDTH, 3, padding=dilation, dilation=dilation)
        self.second = nn.Conv2d(WIDTH, WIDTH, 3, padding=dilation, dilation=dilation)
        for parameter in self.second.parameters():
            nn.init.zeros_(parameter)

    def forward(self, h: Tensor) -> Tensor:
        return h + self.second(F.silu(self.first(F.silu(h))))
