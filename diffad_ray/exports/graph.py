"""A detector as one module: from the pixels of an image of any size to its score and its maps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffad_ray.detectors.base import Mode
from diffad_ray.detectors.judged import JudgedDetector
from diffad_ray.exports.resizing import stretched

EXACT = Mode(channels_last=False, precision="float32")
"In which every graph computes, whatever the detector's own mode is."


class PixelsToScore(nn.Module):
    """Maps pixels [H,W,3] uint8 to the score [], the map [S,S], and the map [H,W] in which regions are looked for.

    Args:
        detector: on the CPU, in eval mode; it is put into the mode `EXACT`. It must view images as a whole.
    """

    def __init__(self, detector: JudgedDetector):
        super().__init__()
        self.detector = detector.run_in(EXACT)
        side = detector.settings.image_size
        with torch.no_grad():
            # Draws the fixed noise, which the graph must find as constants.
            detector.evidence(torch.zeros((1, 3, side, side)))

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        images = stretched(pixels, self.detector.settings.image_size)[None] / 255
        found = self.detector.look(images, self.detector.evidence(images))
        # The maps of scoring travel in half precision, and regions are found in what arrives.
        arrived = found.anomaly_map.half().float()
        image_map = F.interpolate(arrived, (pixels.shape[0], pixels.shape[1]), mode="bilinear")
        return self.detector.image_score(found.anomaly_map)[0], found.anomaly_map[0, 0], image_map[0, 0]


def pooled_means(images: Tensor, size: list[int]) -> Tensor:
    """Return `F.adaptive_avg_pool2d(images, size)`, computed along one axis after the other."""
    return _pooled(_pooled(images, -2, size[0], torch.mean), -1, size[1], torch.mean)


def pooled_maxima(images: Tensor, size: list[int]) -> tuple[Tensor, Tensor]:
    """Return `F.adaptive_max_pool2d(images, size)`, and zeros for the places of the maxima, for which no detector asks."""
    maxima = _pooled(_pooled(images, -2, size[0], torch.amax), -1, size[1], torch.amax)
    return maxima, torch.zeros_like(maxima, dtype=torch.long)


def _pooled(images: Tensor, axis: int, new: int, reduce: Callable[[Tensor, int], Tensor]) -> Tensor:
    """Reduce an axis of images to `new` values, each from a window of an adaptive pooling."""
    length = int(images.shape[axis])
    if length % new == 0:
        return reduce(images.unflatten(axis, (new, length // new)), axis)
    ends = [(k * length // new, -(-(k + 1) * length // new)) for k in range(new)]
    return torch.stack([reduce(images.narrow(axis, start, end - start), axis) for start, end in ends], dim=axis)


DECOMPOSITIONS: dict[Any, Callable[..., Any]] = {
    torch.ops.aten._adaptive_avg_pool2d.default: pooled_means,
    torch.ops.aten.adaptive_max_pool2d.default: pooled_maxima,
}
"Operations that ONNX has for some sizes only, in terms of others."
