"""The resizing of `images.pixels.resized` as torch operations, so that a graph can take images of any size.

OpenCV shrinks by area means and enlarges in fixed-point arithmetic. Both are computed here as OpenCV computes them, so
that the networks of a graph see the pixels that the networks of the package see. A side may shrink while the other one
grows.

Letters in shapes: H x W pixels of the image, S the side of the result, L either H or W.
"""

from __future__ import annotations

import torch
from torch import Tensor

LEAST_OVERLAP = 1e-3
"OpenCV leaves out pixels of which a mean covers less than this."
FIXED_POINT = 2048
"One, as the weights of OpenCV's bilinear interpolation count it."


def stretched(pixels: Tensor, side: int) -> Tensor:
    """Return an image [H,W,3] uint8 as the networks see it: [3,S,S] float32, whole numbers in [0, 255].

    Example:
        >>> stretched(torch.full((5, 9, 3), 7, dtype=torch.uint8), 4).unique()
        tensor([7.])
    """
    columns, rows = _places(pixels[0, :, 0]), _places(pixels[:, 0, 0])
    shrunk = _shrunk(pixels.permute(2, 0, 1).float(), rows, columns, side)
    return _enlarged(shrunk.double(), _length(rows, side), _length(columns, side), side).float()


def _places(line: Tensor) -> Tensor:
    """Return the indices [L] of a line of pixels, float64: OpenCV computes places in double precision."""
    return torch.arange(line.shape[0], dtype=torch.float64, device=line.device)


def _length(places: Tensor, side: int) -> Tensor:
    """Return the length of an axis after it was shrunk."""
    return (places[-1] + 1).clamp(max=side)


def _shrunk(image: Tensor, rows: Tensor, columns: Tensor, side: int) -> Tensor:
    """Return the area means [3,S,S] of [3,H,W]. If an axis is shorter than S, only its own length is filled."""
    (scale_y, covered_y, weights_y), (scale_x, covered_x, weights_x) = (_means(axis, side) for axis in (rows, columns))
    # Blocks of whole pixels are summed first and then divided, others are summed with weights: they round differently.
    is_whole = (scale_y == scale_y.floor()) & (scale_x == scale_x.floor())
    across = torch.where(is_whole, covered_x, weights_x).float()
    down = torch.where(is_whole, covered_y, weights_y).float()
    means = down @ (image @ across.T)
    means = means * torch.where(is_whole, 1 / (scale_y * scale_x), torch.ones_like(scale_x)).float()
    # OpenCV rounds halves to even, but for blocks of 2 x 2, where it rounds them up.
    is_quartered = (scale_y == 2) & (scale_x == 2)
    return torch.where(is_quartered, (means + 0.5).floor(), means.round())


def _means(places: Tensor, side: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the pixels a mean along an axis of L pixels, at least 1; the share of each pixel that each mean covers
    [S,L]; and its weight in the mean [S,L]."""
    length = places[-1] + 1
    scale = (length / side).clamp(min=1)
    start = (torch.arange(side, dtype=torch.float64, device=places.device) * scale)[:, None]
    covered = torch.minimum(start + scale, places + 1) - torch.maximum(start, places)
    covered = torch.where(covered > LEAST_OVERLAP, covered, torch.zeros_like(covered))
    # Means beyond the end of a short axis cover nothing, and are not used.
    cell = torch.minimum(scale, length - start).clamp(min=LEAST_OVERLAP)
    return scale, covered, covered / cell


def _enlarged(image: Tensor, height: Tensor, width: Tensor, side: int) -> Tensor:
    """Return the bilinear interpolation [3,S,S] of the first `height` x `width` pixels of [3,S,S], all float64.

    The whole numbers of the fixed-point arithmetic are exact in float64.
    """
    left, right, left_weight, right_weight = _neighbours(width, side, stops_at_ends=True)
    across = image[:, :, left] * left_weight + image[:, :, right] * right_weight
    above, below, above_weight, below_weight = _neighbours(height, side, stops_at_ends=False)
    parts = [
        ((across[:, line] / 16).floor() * weight[:, None] / 2**16).floor()
        for line, weight in ((above, above_weight), (below, below_weight))
    ]
    return ((parts[0] + parts[1] + 2) / 4).floor()


def _neighbours(length: Tensor, side: int, stops_at_ends: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the two pixels of an axis between which each of S new ones lies [S], and their weights [S].

    Args:
        length: of the axis, at most S.
        stops_at_ends: whether pixels beyond an end have the weight 0, as along rows. Along columns, both neighbours are
            the last pixel then, which rounds differently.
    """
    place = ((torch.arange(side, dtype=torch.float64, device=length.device) + 0.5) * (length / side) - 0.5).float()
    first, last = place.floor(), (length - 1).float()
    share = place - first
    if stops_at_ends:
        share = torch.where((first < 0) | (first >= last), torch.zeros_like(share), share)
    zero = torch.zeros_like(first)
    one, other = (torch.minimum(torch.maximum(at, zero), last).long() for at in (first, first + 1))
    one_weight, other_weight = ((part * FIXED_POINT).round().double() for part in (1 - share, share))
    return one, other, one_weight, other_weight
