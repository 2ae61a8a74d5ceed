"""Foregrounds: where the product is in an image, found from the images alone.

The background of an object is what looks like the border of its image and hangs together with it. Images without such a
background, such as those of a texture, are foreground everywhere.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

FOREGROUND_SIDE = 64
"Side of the coarse image on which the background is grown."
TOLERANCE = (8 / 255, 32 / 255)
"How far a channel of the background may lie from the middle of the border: 6 of its deviations, but within this."
OBJECT_AREA = (0.03, 0.9)
"Share of the image that an object covers."
MOST_OF_BORDER = 0.35
"Share of the border that an object may touch."
COMPACT = 0.7
"Share of an object that is left where all of it that is thinner than three cells is taken away."
CONSENT = 0.8
"Share of the images that must look like an object for the product to be one."


def foregrounds(images: Tensor) -> tuple[Tensor, Tensor]:
    """Foregrounds [N,64,64] bool of images [N,3,H,W] in [0,1], and whether each looks like one of an object [N] bool.

    An object has closed holes filled, and a seam of one cell around it.
    """
    coarse = F.interpolate(images, (FOREGROUND_SIDE, FOREGROUND_SIDE), mode="area")
    on_border = torch.zeros((FOREGROUND_SIDE, FOREGROUND_SIDE), dtype=torch.bool, device=images.device)
    on_border[[0, -1]] = on_border[:, [0, -1]] = True
    border = coarse[:, :, on_border]
    middle = border.median(dim=2, keepdim=True).values
    deviation = (border - middle).abs().median(dim=2, keepdim=True).values
    far = (coarse - middle[..., None]).abs() / (6 * deviation).clamp(*TOLERANCE)[..., None]
    alike = (far.amax(dim=1) <= 1).float()[:, None]
    product = 1 - _grown(alike * on_border, alike)

    thick = _dilated(_eroded(product))
    area, cells = product.mean(dim=(1, 2, 3)), product.sum(dim=(1, 2, 3)).clamp(min=1)
    is_object = (
        (area >= OBJECT_AREA[0])
        & (area <= OBJECT_AREA[1])
        & ((product * on_border).sum(dim=(1, 2, 3)) <= MOST_OF_BORDER * on_border.sum())
        & (thick.sum(dim=(1, 2, 3)) >= COMPACT * cells)
    )
    return _dilated(thick).squeeze(1) > 0, is_object


def _dilated(cells: Tensor) -> Tensor:
    """Cells [N,1,H,W] and their eight neighbours."""
    return F.max_pool2d(cells, 3, stride=1, padding=1)


def _eroded(cells: Tensor) -> Tensor:
    return 1 - _dilated(1 - cells)


def _grown(seeds: Tensor, within: Tensor) -> Tensor:
    """The connected parts of `within` [N,1,H,W] that hold a seed."""
    while True:
        before = seeds
        for _ in range(8):
            seeds = _dilated(seeds) * within
        if torch.equal(seeds, before):
            return seeds


def with_foregrounds(squares: Tensor) -> tuple[Tensor, Tensor | None]:
    """Images [N,3,H,W] and foregrounds [N,1,H,W] bool of squares [N,C,H,W] in [0,1]: their fourth channel, if any."""
    return squares[:, :3], squares[:, 3:] >= 0.5 if squares.shape[1] > 3 else None
