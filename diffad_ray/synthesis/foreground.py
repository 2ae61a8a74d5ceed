"""Foregrounds: masks of the product, computed from the images alone.

The background of an object consists of the pixels that have the colour of the image border and are connected to it.
Images without such a background, such as those of a texture, are foreground everywhere.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

FOREGROUND_SIDE = 64
"Side of the coarse image on which the background is grown."
TOLERANCE = (8 / 255, 32 / 255)
"Range to which the background's tolerance per channel, 6 median absolute deviations of the border, is clamped."
OBJECT_AREA = (0.03, 0.9)
"Range of the share of the image that an object covers."
MOST_OF_BORDER = 0.35
"Largest share of the border that an object touches."
COMPACT = 0.7
"Least share of an object's cells that remains after an opening by 3 x 3 cells."
CONSENT = 0.8
"Share of the images that must show an object for the product to count as one."


def foregrounds(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return foregrounds [N,64,64] bool of images [N,3,H,W] in [0,1], and whether each is that of an object [N] bool.

    Foregrounds include enclosed holes of the object, and a margin of one cell.
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
    """Dilate cells [N,1,H,W] by 3 x 3."""
    return F.max_pool2d(cells, 3, stride=1, padding=1)


def _eroded(cells: Tensor) -> Tensor:
    return 1 - _dilated(1 - cells)


def _grown(seeds: Tensor, within: Tensor) -> Tensor:
    """Return the 8-connected components of `within` [N,1,H,W] that contain a seed."""
    while True:
        before = seeds
        for _ in range(8):
            seeds = _dilated(seeds) * within
        if torch.equal(seeds, before):
            return seeds


def with_foregrounds(squares: Tensor) -> tuple[Tensor, Tensor | None]:
    """Split squares [N,C,H,W] in [0,1] into images [N,3,H,W] and foregrounds [N,1,H,W] bool, channel 3 if any."""
    return squares[:, :3], squares[:, 3:] >= 0.5 if squares.shape[1] > 3 else None
