"""Appearance of pseudo-anomalies: textures, self-augmentation and the ten changes of DRAEM's recipe.

Images and results are [M,3,H,W] in [0,1]. All functions draw from an explicit generator on the images' device.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from diffad_ray.synthesis.shapes import log_uniform, perlin_noise, uniform

Change = Callable[[Tensor, torch.Generator], Tensor]
LUMA = (0.299, 0.587, 0.114)


def each(m: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    """Draw [M,1,1,1] floats, uniform in [low, high): one number per image."""
    return uniform(m, low, high, generator)[:, None, None, None]


def grey(images: Tensor) -> Tensor:
    """Return the luma [M,1,H,W] (ITU-R BT.601)."""
    weights = torch.tensor(LUMA, device=images.device)[:, None, None]
    return (images * weights).sum(dim=1, keepdim=True)


def gamma(images: Tensor, generator: torch.Generator) -> Tensor:
    return images.clamp(min=1e-6) ** torch.exp(each(len(images), math.log(0.5), math.log(2.0), generator))


def brightness(images: Tensor, generator: torch.Generator) -> Tensor:
    scale = each(len(images), 0.8, 1.2, generator)
    return (images * scale + each(len(images), -0.12, 0.12, generator)).clamp(0, 1)


def sharpness(images: Tensor, generator: torch.Generator) -> Tensor:
    """Apply unsharp masking by a random amount; negative amounts blur."""
    blurred = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    return (images + each(len(images), -1.0, 3.0, generator) * (images - blurred)).clamp(0, 1)


def hue_saturation(images: Tensor, generator: torch.Generator) -> Tensor:
    """Rotate the chroma plane about the grey axis (hue), and scale the chroma (saturation)."""
    luma = grey(images)
    chroma = images - luma
    angle = each(len(images), -math.pi, math.pi, generator)
    # The cross product of the grey axis (1,1,1)/sqrt(3) and the chroma is the chroma rotated by 90 degrees.
    red, green, blue = chroma.unbind(dim=1)
    quarter = torch.stack([blue - green, red - blue, green - red], dim=1) / math.sqrt(3)
    turned = (angle.cos() * chroma + angle.sin() * quarter) * each(len(images), 0.5, 1.5, generator)
    return (luma + turned).clamp(0, 1)


def solarise(images: Tensor, generator: torch.Generator) -> Tensor:
    threshold = each(len(images), 0.125, 0.5, generator)
    return torch.where(images < threshold, images, 1 - images)


def posterise(images: Tensor, generator: torch.Generator) -> Tensor:
    levels = 2.0 ** torch.randint(1, 5, (len(images), 1, 1, 1), generator=generator, device=images.device)
    return (images * levels).floor().clamp(max=levels - 1) / (levels - 1)


def invert(images: Tensor, generator: torch.Generator) -> Tensor:
    return 1 - images


def autocontrast(images: Tensor, generator: torch.Generator) -> Tensor:
    low, high = images.amin(dim=(2, 3), keepdim=True), images.amax(dim=(2, 3), keepdim=True)
    return (images - low) / (high - low).clamp(min=1 / 255)


def equalise(images: Tensor, generator: torch.Generator) -> Tensor:
    """Equalise the histogram of each channel over 64 levels."""
    levels = (images * 63).round().long().flatten(2)
    histogram = torch.zeros((*levels.shape[:2], 64), device=images.device)
    histogram.scatter_add_(2, levels, torch.ones_like(levels, dtype=histogram.dtype))
    return (histogram.cumsum(dim=2) / levels.shape[2]).gather(2, levels).view_as(images).clamp(0, 1)


def rotation(images: Tensor, generator: torch.Generator) -> Tensor:
    """Rotate by a random angle in [-45, 45) degrees; reflection fills the corners."""
    angle = uniform(len(images), -math.pi / 4, math.pi / 4, generator)
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    matrix = torch.stack([torch.stack([cos, -sin, zero], dim=1), torch.stack([sin, cos, zero], dim=1)], dim=1)
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


CHANGES: tuple[Change, ...] = (
    gamma,
    brightness,
    sharpness,
    hue_saturation,
    solarise,
    posterise,
    invert,
    autocontrast,
    equalise,
    rotation,
)
"DRAEM's ten changes; each appearance gets three of them."


def changed(images: Tensor, generator: torch.Generator, count: int = 3) -> Tensor:
    """Apply `count` of the ten changes to each image, chosen per image."""
    ranks = torch.rand((len(images), len(CHANGES)), generator=generator, device=images.device).argsort(dim=1)
    images = images.clone()
    for number, change in enumerate(CHANGES):
        chosen = (ranks[:, number] < count).nonzero().squeeze(1)
        if len(chosen):
            images[chosen] = change(images[chosen], generator)
    return images


def shuffled_strips(images: Tensor, generator: torch.Generator, strips: int = 8) -> Tensor:
    """Shuffle `strips` columns of each image, then as many rows; both sides must be multiples of `strips`."""
    for dim in (3, 2):
        order = torch.rand((len(images), strips), generator=generator, device=images.device).argsort(dim=1)
        parts = images.unflatten(dim, (strips, -1)).movedim(dim, 1)
        index = order.view(*order.shape, *[1] * (parts.dim() - 2)).expand_as(parts)
        images = parts.gather(1, index).movedim(1, dim).flatten(dim, dim + 1)
    return images


def spread(images: Tensor) -> Tensor:
    """Return the standard deviation [M,1,1,1] of each image's luma, at least 0.02."""
    return grey(images).flatten(1).std(dim=1).clamp(min=0.02)[:, None, None, None]


def shaded(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return images lighter or darker by 0.5 to 5 `spread`s, for cracks, holes, stains and uneven grinding."""
    m = len(images)
    amount = log_uniform(m, 0.5, 5.0, generator)[:, None, None, None] * spread(images)
    mean = grey(images).mean(dim=(2, 3), keepdim=True)
    # Bright images are mostly darkened and dark ones lightened, so that the change is not clipped.
    darker = torch.rand((m, 1, 1, 1), generator=generator, device=images.device) < mean.clamp(0.3, 0.7)
    down = images * (1 - (amount / mean.clamp(min=1e-3)).clamp(max=0.9))
    up = images + (1 - images) * (amount / (1 - mean).clamp(min=1e-3)).clamp(max=0.9)
    return torch.where(darker, down, up)


def moved(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return the next image of the batch, randomly shifted and mirrored, for parts in a wrong position."""
    m, _, height, width = images.shape
    flips = torch.rand((2, m, 1), generator=generator, device=images.device) < 0.5
    rows, columns = (
        (
            torch.arange(length, device=images.device)
            + torch.randint(length, (m, 1), generator=generator, device=images.device)
        )
        % length
        for length in (height, width)
    )
    rows, columns = (
        torch.where(flip, length - 1 - index, index)
        for flip, index, length in zip(flips, (rows, columns), (height, width), strict=True)
    )
    index = torch.arange(m, device=images.device).roll(-1)
    return images[index[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def recoloured(appearance: Tensor, images: Tensor, generator: torch.Generator) -> Tensor:
    """Return appearances with the images' tint, and near their brightness and contrast.

    Brightness is shifted by -2.5 to 2.5 `spread`s, contrast is scaled by 0.5 to 2. Most real defects have the product's
    colour; training on bright textures alone would leave the networks blind to such defects.
    """
    m = len(images)
    light, light_here = grey(appearance), grey(images)
    pattern = (light - light.mean(dim=(2, 3), keepdim=True)) / spread(appearance)
    scale = log_uniform(m, 0.5, 2.0, generator)[:, None, None, None]
    shift = each(m, -2.5, 2.5, generator)
    tint = (images - light_here).mean(dim=(2, 3), keepdim=True)
    mean = light_here.mean(dim=(2, 3), keepdim=True)
    return (mean + tint + spread(images) * (pattern * scale + shift)).clamp(0, 1)


def procedural_textures(m: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """Generate textures [M,3,H,W] of two colours: bands, plateaus or clouds from anisotropic Perlin noise."""
    fields = []
    for octave in (0, 1):
        cells = 2 ** torch.randint(1 + 2 * octave, 4 + octave, (2, m), generator=generator, device=generator.device)
        fields.append(perlin_noise(height, width, cells[0].float(), cells[1].float(), generator))
    field = (fields[0] + 0.5 * fields[1])[:, None]
    bands = (torch.sin(field * each(m, 4, 40, generator)) + 1) / 2
    plateaus = (field > 0).float()
    soft = (field + 1).clamp(0, 2) / 2
    kind = torch.randint(0, 3, (m, 1, 1, 1), generator=generator, device=generator.device)
    blend = torch.where(kind == 0, bands, torch.where(kind == 1, plateaus, soft))
    colours = torch.rand((2, m, 3, 1, 1), generator=generator, device=generator.device)
    return torch.lerp(colours[0].expand(m, 3, height, width), colours[1], blend)


def texture_sources(textures: Tensor | None, shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Draw appearances of `shape` [M,3,H,W] from texture images [K,3,h,w], or procedural ones where that is None."""
    m, _, height, width = shape
    if textures is None:
        return procedural_textures(m, height, width, generator)
    chosen = torch.randint(0, len(textures), (m,), generator=generator, device=generator.device)
    picked = textures[chosen.to(textures.device)].to(generator.device)
    return picked if picked.shape == shape else F.interpolate(picked, (height, width), mode="bilinear")
