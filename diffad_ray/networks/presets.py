"""Sizes of the networks, and the named presets."""

from __future__ import annotations

from dataclasses import dataclass

COARSEST = 32
"Image sides must be multiples of this, because the segmenter halves them five times."


@dataclass(frozen=True, kw_only=True)
class NetworkSizes:
    """Sizes of the denoiser and the segmenter of one detector.

    Attributes:
        channels: width of the denoiser's first level.
        channel_multipliers: width of each level divided by `channels`; each level halves the feature map.
        residual_blocks: residual blocks per level.
        attention_sizes: sides in pixels of the feature maps with self-attention.
        heads: attention heads; divides every attended width.
        norm_groups: groups of GroupNorm; divides every width.
        segmenter_channels: width of the segmenter's first level (levels are 1, 2, 4, 8, 8, 8 times as wide).
        patch: factor of the denoiser's pixel unshuffle: patch x patch pixels become channels of one. 1 is the published
            network. A CPU is several times faster on wide coarse feature maps than on narrow fine ones.
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
    """Return the channel multipliers of the released DiffusionAD denoiser for an image side in pixels."""
    if image_size >= 192:
        return (1, 1, 2, 2, 4, 4)
    return (1, 1, 2, 3, 4) if image_size >= 96 else (1, 2, 3, 4)


def _attention_sizes(image_size: int, levels: int, largest: int) -> tuple[int, ...]:
    """Return the feature map sides between 8 and `largest`: the published 32, 16 and 8 for 256 px and largest 32."""
    sides = (image_size >> level for level in range(levels))
    return tuple(side for side in sides if 8 <= side <= largest)


PRESETS = ("tiny", "small", "base", "paper")


def nearest_side(side: float) -> int:
    """Return the multiple of `COARSEST` nearest to a side in pixels, at least `COARSEST`."""
    return max(COARSEST, round(side / COARSEST) * COARSEST)


def check_image_size(image_size: int) -> None:
    """Raise ValueError if a side in pixels is not a positive multiple of `COARSEST`."""
    if image_size % COARSEST or image_size < COARSEST:
        near = nearest_side(image_size)
        raise ValueError(f"image size {image_size} px is not a multiple of {COARSEST}: take {near}")


def scaled_size(height: int, width: int, scale: float) -> tuple[int, int]:
    """Return the multiples of `COARSEST` nearest to `scale` times a height and width in pixels."""
    return nearest_side(scale * height), nearest_side(scale * width)


def network_sizes(preset: str, image_size: int) -> NetworkSizes:
    """Return the sizes of the preset `tiny`, `small`, `base` or `paper` (the published ones) for an image side.

    Raises:
        ValueError: there is no such preset, or the side is not a multiple of 32.
    """
    check_image_size(image_size)
    multipliers = published_multipliers(image_size)
    if preset == "tiny":
        # `tiny` must train in minutes on two cores, hence feature maps of 32 px at most for sides of 64 and 128.
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
