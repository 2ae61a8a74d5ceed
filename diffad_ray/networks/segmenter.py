"""The segmenter: a U-Net that segments anomalies from an image and its reconstruction.

It is the discriminative network of DRAEM (Zavrtanik et al. 2021) as DiffusionAD uses it: six levels of conv-BN-ReLU,
with max-pooling and bilinear upsampling.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from diffad_ray.networks.batch_norm import BatchNorm2d


def double_conv(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1),
        BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
        nn.Conv2d(out_channels, out_channels, 3, padding=1),
        BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


def upsample_conv(channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
        nn.Conv2d(channels, out_channels, 3, padding=1),
        BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


class Segmenter(nn.Module):
    """Maps an image and its reconstruction, concatenated on channels [N,6,H,W], to anomaly logits [N,1,H,W].

    H and W are multiples of 32.

    Args:
        channels: width of the first level.
        in_channels: channels of image plus reconstruction.
    """

    def __init__(self, channels: int, in_channels: int = 6):
        super().__init__()
        widths = [channels * multiplier for multiplier in (1, 2, 4, 8, 8, 8)]
        self.encoder = nn.ModuleList(map(double_conv, [in_channels, *widths], widths))
        self.pool = nn.MaxPool2d(2)
        self.up = nn.ModuleList()
        self.decoder = nn.ModuleList()
        width = widths[-1]
        for skip, out in zip(reversed(widths[:-1]), (8, 4, 2, 1, 1), strict=True):
            self.up.append(upsample_conv(width, out * channels))
            width = out * channels
            self.decoder.append(double_conv(width + skip, width))
        self.conv_out = nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, pair: Tensor) -> Tensor:
        features: list[Tensor] = []
        for level, block in enumerate(self.encoder):
            features.append(block(self.pool(features[-1]) if level else pair))
        *skips, h = features
        for up, block in zip(self.up, self.decoder, strict=True):
            h = block(torch.cat([up(h), skips.pop()], dim=1))
        return self.conv_out(h)
