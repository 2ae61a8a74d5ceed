"""Sizes of the networks, and the named presets."""

from __future__ import annotations

from dataclasses import dataclass

COARSEST = 32
"An image side must be a multiple of this: the segmenter halves it five times."


@dataclass(frozen=True, kw_only=True)
class NetworkSizes:
    """Sizes of the denoiser and the segmenter of one detector.

    Attributes:
        channels: width of the denoiser's first level.
        channel_multipliers: width of each level over `channels`; each level halves the feature map.
        residual_blocks: residual blocks a level.
        attention_sizes: sides of the feature maps, in pixels, that get self-attention.
        heads: attention heads; divides every attended width.
        norm_groups: groups of GroupNorm; divides every width.
        segmenter_channels: width of the segmenter's first level (levels are 1, 2, 4, 8, 8, 8 times as wide).
        patch: side in pixels of the squares whose pixels the denoiser takes as channels of one; 1 is the published
            network. A CPU computes on wide coarse maps several times faster than on narrow fine ones.
    """

    channels: int
    channel_multipliers: tuple[int, ...]
    residual_blocks: int
    attention_sizes: tuple[int, ...]
    heads: int = 4
    norm_groups: int = 32
    segmenter_channels: int
    patch: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "channel_multipliers", tuple(self.channel_multipliers))
        object.__setattr__(self, "attention_sizes", tuple(self.attention_sizes))
        for multiplier in self.channel_multipliers:
            width = self.channels * multiplier
            if width % self.norm_groups or width % self.heads:
                raise ValueError(
                    f"a level {width} channels wide can't be split into {self.norm_groups} norm groups "
                    f"and {self.heads} heads: change channels or channel_multipliers"
                )


def published_multipliers(image_size: int) -> tuple[int, ...]:
    """Widths of the released DiffusionAD denoiser's levels for an image side in pixels."""
    if image_size >= 192:
        return (1, 1, 2, 2, 4, 4)
    return (1, 1, 2, 3, 4) if image_size >= 96 else (1, 2, 3, 4)


def _attention_sizes(image_size: int, levels: int, largest: int) -> tuple[int, ...]:
    """Feature map sides between 8 and `largest`: at 256 px and largest 32 the published 32, 16 and 8."""
    sides = (image_size >> level for level in range(levels))
    return tuple(side for side in sides if 8 <= side <= largest)


PRESETS = ("tiny", "small", "base", "paper")


def nearest_side(side: float) -> int:
    """The side in pixels nearest to this one that the networks can halve often enough."""
    return max(COARSEST, round(side / COARSEST) * COARSEST)


def check_image_size(image_size: int) -> None:
    """Raise ValueError for a side in pixels that the networks can't halve often enough."""
    if image_size % COARSEST or image_size < COARSEST:
        near = nearest_side(image_size)
        raise ValueError(f"image size {image_size} px is not a multiple of {COARSEST}: take {near}")


def scaled_size(height: int, width: int, scale: float) -> tuple[int, int]:
    """About `scale` times a height and width in pixels, as near as the networks can halve often enough."""
    return nearest_side(scale * height), nearest_side(scale * width)


def network_sizes(preset: str, image_size: int) -> NetworkSizes:
    """Sizes of the preset `tiny`, `small`, `base` or `paper` (the published ones) for an image side in pixels.

    Raises:
        ValueError: no such preset, or a side that the networks can't halve often enough.
    """
    check_image_size(image_size)
    multipliers = published_multipliers(image_size)
    if preset == "tiny":
        # Two cores must train it in minutes: maps of at most 32 px on a side of 64 or 128.
        patch = 2 if image_size < 96 else 4
        multipliers = (1, 2, 4) if image_size < 192 else (1, 2, 4, 4)
        return NetworkSizes(
            channels=16,
            channel_multipliers=multipliers,
            residual_blocks=1,
            attention_sizes=_attention_sizes(image_size // patch, len(multipliers), largest=8),
            norm_groups=8,
            segmenter_channels=8,
            patch=patch,
        )
    widths = {"small": (32, 16), "base": (64, 32), "paper": (128, 64)}
    if preset not in widths:
        raise ValueError(f"unknown preset {preset!r}: take one of {', '.join(PRESETS)}")
    channels, segmenter_channels = widths[preset]
    return NetworkSizes(
        channels=channels,
        channel_multipliers=multipliers,
        residual_blocks=2,
        attention_sizes=_attention_sizes(image_size, len(multipliers), largest=32),
        segmenter_channels=segmenter_channels,
    )
