"""The denoiser: a time-conditioned U-Net that estimates the noise in an image.

The architecture is that of guided diffusion (Dhariwal & Nichol 2021) as DiffusionAD uses it: residual blocks with
GroupNorm and SiLU, resampling inside residual blocks, self-attention at small feature maps. Shapes: N images, C
channels, H x W pixels, E embedding width.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffad_ray.networks.group_norm import GroupNorm
from diffad_ray.networks.presets import NetworkSizes


def zeroed(module: nn.Module) -> nn.Module:
    """Zero the parameters of a block's last layer, and return the layer; the block then starts as the identity."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


class TimeEmbedding(nn.Module):
    """Maps t [N] to an embedding [N,E], E = 4 x channels, by sinusoids and two linear layers."""

    frequencies: Tensor

    def __init__(self, channels: int):
        super().__init__()
        half = channels // 2
        frequencies = torch.exp(torch.arange(half) * (-math.log(10000) / half))
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.layer1 = nn.Linear(channels, 4 * channels)
        self.layer2 = nn.Linear(4 * channels, 4 * channels)

    def forward(self, t: Tensor) -> Tensor:
        angles = t.float()[:, None] * self.frequencies
        waves = torch.cat([angles.sin(), angles.cos()], dim=-1)
        return self.layer2(F.silu(self.layer1(waves)))


class ResidualBlock(nn.Module):
    """A residual block of two convolutions with the time embedding added between them.

    The block may halve or double the sides of the feature map.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        embedding: int,
        groups: int,
        resample: Literal["down", "up"] | None = None,
    ):
        super().__init__()
        self.norm1 = GroupNorm(groups, in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.time = nn.Linear(embedding, out_channels)
        self.norm2 = GroupNorm(groups, out_channels)
        self.conv2 = zeroed(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        same = in_channels == out_channels
        self.skip = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1)
        self.resample = resample

    def _resampled(self, x: Tensor) -> Tensor:
        if self.resample == "down":
            return F.avg_pool2d(x, 2)
        return F.interpolate(x, scale_factor=2, mode="nearest") if self.resample == "up" else x

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.conv1(self._resampled(F.silu(self.norm1(x))))
        h = h + self.time(F.silu(embedding))[:, :, None, None]
        h = self.conv2(F.silu(self.norm2(h)))
        return self.skip(self._resampled(x)) + h


class AttentionBlock(nn.Module):
    """Multi-head self-attention over the pixels of a feature map."""

    def __init__(self, channels: int, heads: int, groups: int):
        super().__init__()
        self.heads = heads
        self.norm = GroupNorm(groups, channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.out = zeroed(nn.Conv1d(channels, channels, 1))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        n, channels, height, width = x.shape
        flat = x.reshape(n, channels, height * width)
        # The q, k and v of a head are adjacent, as in the released weights.
        heads = self.qkv(self.norm(flat)).reshape(n, self.heads, 3, channels // self.heads, -1)
        # Fused kernels need contiguous heads; the fallback for strided ones is several times slower.
        q, k, v = (part.transpose(-1, -2).contiguous() for part in heads.unbind(dim=2))
        attended = _attended(q, k, v).transpose(-1, -2)
        return x + self.out(attended.reshape(flat.shape)).reshape(x.shape)


def _attended(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return the attention of contiguous q, k and v [N,heads,pixels,channels]."""
    if q.requires_grad and q.device.type == "cpu" and q.dtype == torch.bfloat16:
        # The backward pass of torch's kernel for CPUs takes ten times as long in bfloat16 as in float32.
        with torch.autocast("cpu", enabled=False):
            return F.scaled_dot_product_attention(q.float(), k.float(), v.float()).to(q.dtype)
    return F.scaled_dot_product_attention(q, k, v)


class Stage(nn.ModuleList):
    """A sequence of blocks that all receive the time embedding."""

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        for block in self:
            x = block(x, embedding)
        return x


class Denoiser(nn.Module):
    """Estimates the noise in x_t: (x_t [N,C,H,W], t [N] int64) -> [N,3,H,W].

    Args:
        sizes: widths and depths.
        image_size: side in pixels to which `sizes.attention_sizes` refer. Inputs may have other sides; attention stays
            at the same levels.
        in_channels: C; channels beyond the image's three are further conditions of the estimate.
    """

    def __init__(self, sizes: NetworkSizes, image_size: int, in_channels: int = 3):
        super().__init__()
        embedding, groups = 4 * sizes.channels, sizes.norm_groups
        widths = [sizes.channels * multiplier for multiplier in sizes.channel_multipliers]
        self.patch, pixels = sizes.patch, sizes.patch**2
        last = len(widths) - 1

        def stage(in_width: int, out_width: int, level: int, also: Literal["up"] | None = None) -> Stage:
            blocks: list[nn.Module] = [ResidualBlock(in_width, out_width, embedding, groups)]
            if image_size // sizes.patch >> level in sizes.attention_sizes:
                blocks.append(AttentionBlock(out_width, sizes.heads, groups))
            if also:
                blocks.append(ResidualBlock(out_width, out_width, embedding, groups, resample=also))
            return Stage(blocks)

        self.time_embedding = TimeEmbedding(sizes.channels)
        self.conv_in = nn.Conv2d(in_channels * pixels, sizes.channels, 3, padding=1)
        self.down = nn.ModuleList()
        width, skips = sizes.channels, [sizes.channels]
        for level, level_width in enumerate(widths):
            for _ in range(sizes.residual_blocks):
                self.down.append(stage(width, level_width, level))
                width = level_width
                skips.append(width)
            if level < last:
                self.down.append(Stage([ResidualBlock(width, width, embedding, groups, resample="down")]))
                skips.append(width)

        self.middle = Stage(
            [
                ResidualBlock(width, width, embedding, groups),
                AttentionBlock(width, sizes.heads, groups),
                ResidualBlock(width, width, embedding, groups),
            ]
        )

        self.up = nn.ModuleList()
        for level, level_width in reversed(list(enumerate(widths))):
            for block in range(sizes.residual_blocks + 1):
                rises = level > 0 and block == sizes.residual_blocks
                self.up.append(stage(width + skips.pop(), level_width, level, "up" if rises else None))
                width = level_width

        self.norm_out = GroupNorm(groups, width)
        self.conv_out = zeroed(nn.Conv2d(width, 3 * pixels, 3, padding=1))

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        embedding = self.time_embedding(t)
        h = self.conv_in(F.pixel_unshuffle(x_t, self.patch))
        skips = [h]
        for stage in self.down:
            h = stage(h, embedding)
            skips.append(h)
        h = self.middle(h, embedding)
        for stage in self.up:
            h = stage(torch.cat([h, skips.pop()], dim=1), embedding)
        return F.pixel_shuffle(self.conv_out(F.silu(self.norm_out(h))), self.patch)
