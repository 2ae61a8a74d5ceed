"""The student: a small convolutional network that estimates the score and a coarse map of a detector."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

SIDE, GRID = 128, 8
"Pixels a side of the largest image that a gate sees, and cells a side of the student's map."
WIDTHS = (16, 32, 64, 64)
"Channels after each of the four convolutions that halve the image."
TOP_CELLS = 3
"Cells of the map, the largest, whose mean is part of the score."


class Estimate(NamedTuple):
    """What the student expects of the detector for N images, in its log odds less its threshold."""

    score: Tensor
    "[N]"
    places: Tensor
    "[N,GRID,GRID] the largest value of the anomaly map in each cell"


class Student(nn.Module):
    """Maps images [N,3,S,S] in [0,1] to an `Estimate`.

    A learnt map is added after the second convolution, so that the student can know what is usual at a place of the
    product.

    Args:
        side: S, at least `GRID`.
        is_fused: whether batch normalisation is a part of the convolutions already, as in a stored student.
    """

    def __init__(self, side: int, is_fused: bool = False):
        super().__init__()
        self.side = side
        blocks: list[nn.Module] = []
        width = 3
        for out in WIDTHS:
            blocks.append(_block(width, out, 2, is_fused))
            width = out
        blocks.insert(3, _block(WIDTHS[2], WIDTHS[2], 1, is_fused))
        self.blocks = nn.ModuleList(blocks)
        self.place = nn.Parameter(torch.zeros(1, WIDTHS[1], -(-side // 4), -(-side // 4)))
        self.pool = nn.AdaptiveMaxPool2d(GRID)
        self.to_places = nn.Conv2d(width, 1, 1)
        self.to_score = nn.Linear(2 * width + 1, 1)

    def forward(self, images: Tensor) -> Estimate:
        h = (images - 0.5) * 4
        for level, block in enumerate(self.blocks):
            h = block(h)
            if level == 1:
                h = h + self.place
        h = self.pool(h)
        places = self.to_places(h).squeeze(1)
        largest = places.flatten(1).topk(TOP_CELLS, dim=1).values.mean(dim=1, keepdim=True)
        seen = torch.cat([h.amax(dim=(2, 3)), h.mean(dim=(2, 3)), largest], dim=1)
        return Estimate(self.to_score(seen).squeeze(1), places)

    @torch.no_grad()
    def fused(self) -> Student:
        """Return a student in eval mode whose convolutions contain the batch normalisation; estimates stay the same."""
        copy = Student(self.side, is_fused=True)
        own = {name: value for name, value in self.state_dict().items() if not name.startswith("blocks.")}
        for number, block in enumerate(self.blocks):
            assert isinstance(block, nn.Sequential)
            conv, norm = block[0], block[1]
            assert isinstance(conv, nn.Conv2d)
            assert isinstance(norm, nn.BatchNorm2d)
            fused = fuse_conv_bn_eval(conv.eval(), norm.eval())
            own |= {f"blocks.{number}.0.{name}": value for name, value in fused.state_dict().items()}
        copy.load_state_dict(own)
        return copy.eval().requires_grad_(False)


def _block(width: int, out: int, stride: int, is_fused: bool) -> nn.Sequential:
    conv = nn.Conv2d(width, out, 3, stride=stride, padding=1, bias=is_fused)
    return nn.Sequential(conv, nn.ReLU()) if is_fused else nn.Sequential(conv, nn.BatchNorm2d(out), nn.ReLU())
