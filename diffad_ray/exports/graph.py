"""A detector as one module: from the pixels of an image of any size to its score and its maps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

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
        with WindowedPooling():
            found = self.detector.look(images, self.detector.evidence(images))
        # The maps of scoring travel in half precision, and regions are found in what arrives.
        score, shown = self.detector.scored(found)
        arrived = shown.half().float()
        image_map = F.interpolate(arrived, (pixels.shape[0], pixels.shape[1]), mode="bilinear")
        return score[0], shown[0, 0], image_map[0, 0]


class WindowedPooling(TorchFunctionMode):
    """Computes adaptive pooling by slices, since ONNX has it for some pairs of sizes only."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.interpolate and kwargs["mode"] == "area":
            # Torch computes these means by adaptive pooling.
            return pooled(args[0], kwargs["size"], torch.mean)
        reduce = _REDUCTIONS.get(func)
        return func(*args, **kwargs) if reduce is None else pooled(args[0], args[1], reduce)


def pooled(images: Tensor, size: int | Sequence[int], reduce: Callable[[Tensor, int], Tensor]) -> Tensor:
    """Reduce the windows of an adaptive pooling of images [N,C,H,W] to `size`, along one axis after the other.

    Example:
        >>> pooled(torch.arange(6.0).view(1, 1, 1, 6), (1, 4), torch.amax).flatten().tolist()
        [1.0, 2.0, 4.0, 5.0]
    """
    height, width = (size, size) if isinstance(size, int) else size
    return _along(_along(images, -2, height, reduce), -1, width, reduce)


def _along(images: Tensor, axis: int, new: int, reduce: Callable[[Tensor, int], Tensor]) -> Tensor:
    length = int(images.shape[axis])
    if length % new == 0:
        return reduce(images.unflatten(axis, (new, length // new)), axis)
    ends = [(k * length // new, -(-(k + 1) * length // new)) for k in range(new)]
    return torch.stack([reduce(images.narrow(axis, start, end - start), axis) for start, end in ends], dim=axis)


_REDUCTIONS: dict[Any, Callable[[Tensor, int], Tensor]] = {
    F.adaptive_avg_pool2d: torch.mean,
    F.adaptive_max_pool2d: torch.amax,
}
