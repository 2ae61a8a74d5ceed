"""Features of a network that learnt from other images, beside or instead of the Gabor filters of `features.py`.

The channels of its layers are divided by their spread over normal images, and projected by a random matrix with
orthonormal rows, which keeps distances approximately (Kim et al. 2021). Gaussians of all channels of a large network
would need gigabytes.

Letters in shapes: N images, S pixels a side, C channels of a layer, F channels of all layers, D channels of the
projection, G cells a side.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from diffad_ray.errors import UserError
from diffad_ray.familiarity.features import GRID
from diffad_ray.familiarity.features import channels as gabor_channels
from diffad_ray.familiarity.fitted import FittedModule
from diffad_ray.familiarity.onnx_network import OnnxNetwork
from diffad_ray.networks.efficientnet import LAYERS, EfficientNetLite0

DEFAULT_LAYERS = ("block3", "block5", "block11")
"Of EfficientNet-Lite0: the last ones at strides 4, 8 and 16, as PaDiM takes them of ResNets."
OWN_LIGHT, OWN_CONTRAST = 0.45, 0.2
"Mean and contrast that every image is given where its own do not count: about those of ImageNet's images."
LEAST_SPREAD = 1e-4
"Floor of the standard deviation of a channel."
PROJECTION_SEED = 0
DIMENSIONS = {"projection": 2, "offset": 1}
"Of the fitted buffers."
Source = Literal["gabor", "backbone", "both"]


@dataclass(frozen=True, kw_only=True)
class FeatureSettings:
    """What familiarity sees of an image: the section `[detector.features]`.

    Attributes:
        source: `gabor` takes Gabor filters and colours, `backbone` a network that learnt from other images, `both`
            both.
        path: location of an ONNX file with the network; None takes EfficientNet-Lite0 (extra `features`).
        layers: names of the outputs of the ONNX file, () for all of them; or of blocks of EfficientNet-Lite0, `block1`
            to `block16`, () for the third, fifth and eleventh.
        channels: D, to which the channels of all layers together are projected. Memory and time grow with its square.
        light: `own` gives each image the same mean and contrast before the network sees it, as the Gabor features do;
            with `as it is`, an image that is darker or has less contrast than others is unlike them.
    """

    source: Source = "gabor"
    path: str | None = None
    layers: tuple[str, ...] = ()
    channels: int = 64
    light: Literal["own", "as it is"] = "own"

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", tuple(self.layers))
        if self.source not in get_args(Source):
            raise ValueError(f"source {self.source!r} is none of 'gabor', 'backbone', 'both'")
        if self.light not in ("own", "as it is"):
            raise ValueError(f"light {self.light!r} is neither 'own' nor 'as it is'")
        if self.channels < 1:
            raise ValueError(f"channels {self.channels} must be 1 or more")
        if self.source == "gabor" and (self.path or self.layers):
            raise ValueError("path and layers are those of a network: set source to 'backbone' or 'both'")
        if self.path is None and (unknown := set(self.layers) - set(LAYERS)):
            raise ValueError(f"layer {min(unknown)!r} is none of {LAYERS[0]} to {LAYERS[-1]} of EfficientNet-Lite0")

    @property
    def has_gabor(self) -> bool:
        return self.source != "backbone"

    @property
    def has_backbone(self) -> bool:
        return self.source != "gabor"

    def channels_at(self, side: int) -> int:
        """Return the number of channels that familiarity sees of squares of `side` pixels."""
        return self.has_gabor * gabor_channels(side) + self.has_backbone * self.channels


class Backbone(FittedModule):
    """Maps images to feature maps of D channels by a network and a projection.

    Args:
        settings: those with a backbone.
    """

    fitted = tuple(DIMENSIONS)
    projection: Tensor
    "[D,F]: to multiply the channels with; empty before `fit`"
    offset: Tensor
    "[D]: to subtract, the mean over normal images"

    def __init__(self, settings: FeatureSettings):
        super().__init__()
        self.settings = settings
        self.network: EfficientNetLite0 | OnnxNetwork = (
            EfficientNetLite0(settings.layers or DEFAULT_LAYERS)
            if settings.path is None
            else OnnxNetwork(settings.path, settings.layers)
        )
        for name in self.fitted:
            self.register_buffer(name, torch.empty(0))

    def forward(self, images: Tensor, exposure: Tensor) -> Tensor:
        """Return the features [N,D,G,G] of images [N,3,S,S] in [0,1] with `exposure` [N,2] of `Described`."""
        found = self._layers(images, exposure)
        parts = self.projection.split([one.shape[1] for one in found], dim=1)
        # A projection costs less before the resizing, and both are linear.
        projected = [on_grid(F.conv2d(one, part[:, :, None, None])) for one, part in zip(found, parts, strict=True)]
        return torch.stack(projected).sum(dim=0) - self.offset[:, None, None]

    def load(self, side: int) -> None:
        """Load the network, and try it with an image of `side` pixels.

        Raises:
            UserError: a package or the file is missing, or does not fit; or its layers have too few channels.
        """
        self.network.load(side)
        device = next(self.buffers()).device
        with torch.no_grad():
            found = self._layers(torch.full((1, 3, side, side), 0.5, device=device), torch.zeros((1, 2), device=device))
        if (most := sum(one.shape[1] for one in found)) < self.settings.channels:
            raise UserError(
                f"the layers have {most} channels, which can't be projected to {self.settings.channels}: set "
                f"detector.features.channels to {most} or fewer, or take more layers"
            )

    @torch.no_grad()
    def fit(self, seen: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Fit the projection to normal images and their exposures, as `forward` takes them."""
        count, total, squares = 0, torch.zeros(()), torch.zeros(())
        for images, exposure in seen:
            means = [
                torch.stack([one.double().mean(dim=(0, 2, 3)), one.double().square().mean(dim=(0, 2, 3))])
                for one in self._layers(images, exposure)
            ]
            both = len(images) * torch.cat(means, dim=1).cpu()
            count, total, squares = count + len(images), total + both[0], squares + both[1]
        mean = total / count
        spread = (squares / count - mean.square()).clamp(min=0).sqrt().clamp(min=LEAST_SPREAD)
        generator = torch.Generator().manual_seed(PROJECTION_SEED)
        drawn = torch.randn((len(mean), self.settings.channels), generator=generator, dtype=torch.float64)
        projection = torch.linalg.qr(drawn).Q.T / spread
        device = self.projection.device
        self.projection, self.offset = projection.float().to(device), (projection @ mean).float().to(device)

    def _layers(self, images: Tensor, exposure: Tensor) -> list[Tensor]:
        """Return the outputs [N,C,h,w] of the network's layers."""
        if self.settings.light == "own":
            light, contrast = exposure.exp()[:, :, None, None, None].unbind(dim=1)
            images = (images - light) / contrast * OWN_CONTRAST + OWN_LIGHT
        found: list[Tensor] = self.network(images)
        return found

    def damage(self, given: dict[str, Tensor]) -> str | None:
        for name, tensor in given.items():
            fits = tensor.dim() == DIMENSIONS[name] and len(tensor) == self.settings.channels
            if tensor.dtype != torch.float32 or not tensor.isfinite().all() or (len(tensor) and not fits):
                return f"{name} holds numbers that can't be"
        return None


def on_grid(features: Tensor) -> Tensor:
    """Resize feature maps [N,C,h,w] to [N,C,G,G]: means where they are larger, bilinear where they are smaller."""
    if min(features.shape[-2:]) >= GRID:
        return F.adaptive_avg_pool2d(features, GRID)
    return F.interpolate(features, (GRID, GRID), mode="bilinear")
