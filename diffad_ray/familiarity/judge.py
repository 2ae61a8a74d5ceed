"""A small network that segments what models of normal images leave unexplained."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH = 48
DILATIONS = (1, 4)
"Of its two blocks: the first sees what lies next to a place, the second a quarter of the image's side around it."
RARE = -3.0
"Log odds of an anomaly before anything is learnt."
LEAST_DISTANCE = 1e-3
"Squared: what is nearer than this is the same but for rounding."


class ResidualSegmenter(nn.Module):
    """Log odds of an anomaly from whitened residuals: [N,R,C,G,G] -> [N,G,G].

    Residuals have one meaning whatever the product is, so that little is left to learn of each (SimpleNet, Liu et al.
    2023, and ResAD, Yao et al. 2024, judge features of pretrained networks by such a part).

    Args:
        kinds: R, of residuals.
        channels: C.
    """

    def __init__(self, kinds: int, channels: int):
        super().__init__()
        self.into = nn.Conv2d(kinds * (channels + 1), WIDTH, 1)
        self.blocks = nn.ModuleList(_Block(dilation) for dilation in DILATIONS)
        self.out = nn.Conv2d(WIDTH, 1, 1)
        for parameter, value in zip(self.out.parameters(), (0.0, RARE), strict=True):
            nn.init.constant_(parameter, value)

    def forward(self, residuals: Tensor) -> Tensor:
        seen = torch.cat([residuals.flatten(1, 2), squared_distance(residuals).log()], dim=1)
        # Strong anomalies leave residuals of a hundred times the usual ones.
        h = self.into(seen.sign() * seen.abs().log1p())
        for block in self.blocks:
            h = block(h)
        return self.out(F.silu(h)).squeeze(1)


def squared_distance(residuals: Tensor) -> Tensor:
    """Mean square over the channels of whitened residuals [N,R,C,G,G]: [N,R,G,G]."""
    return residuals.square().mean(dim=2).clamp(min=LEAST_DISTANCE)


def untaught(kinds: int, channels: int, seed: int) -> ResidualSegmenter:
    """A network that knows nothing; its weights are a function of the seed, whatever else draws random numbers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ResidualSegmenter(kinds, channels)


class _Block(nn.Module):
    """Two convolutions around which the input passes; at first nothing else does."""

    def __init__(self, dilation: int):
        super().__init__()
        self.first = nn.Conv2d(WIDTH, WIDTH, 3, padding=dilation, dilation=dilation)
        self.second = nn.Conv2d(WIDTH, WIDTH, 3, padding=dilation, dilation=dilation)
        for parameter in self.second.parameters():
            nn.init.zeros_(parameter)

    def forward(self, h: Tensor) -> Tensor:
        return h + self.second(F.silu(self.first(F.silu(h))))
