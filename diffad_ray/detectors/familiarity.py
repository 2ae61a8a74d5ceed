"""Familiarity: how well each place of an image fits in with what normal images show there, given the rest of the image.

A segmenter has learnt from pseudo-anomalies alone. In what a good part looks like, no pseudo-anomaly has any part: at
each place, normal images give a Gaussian of a few filters' responses and colours (PaDiM, Defard et al. 2020, has one of
a pretrained network's features). What the image as a whole says of a place is taken into account first: its light, its
width, where its edges run. Segmenter and Gaussian both judge, and a pixel is anomalous where one or the other says so.

Letters in shapes: N images, C responses and colours, G places a side, K components of an image's code, D numbers of its
miniature.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIDE, GRID, MINIATURE = 128, 32, 16
"Pixels a side of the images that the filters see at most; places a side; and the miniature that tells the whole image."
LEVELS, SMALLEST = 4, 16
"Octaves that the filters see, and the smallest side of an image that they still see."
ORIENTATIONS = 4
WAVELENGTH, WIDTH, ASPECT, RADIUS = 4.0, 1.4, 0.7, 3
"Of the Gabor filters: pixels, standard deviation across the waves, its ratio to the one along them, half the window."
COLOURS = 3
"Grey level and two differences of colours."
MOST_COMPONENTS, IMAGES_A_COMPONENT = 160, 4
"How many principal components tell the whole image: few where there are few images to learn their effect from."
FARTHEST = 5.0
"Standard deviations of a component of the code."
SHRINKAGE = 0.3
"Variance that a channel has at least at any place, as a share of its usual one: there are often few images."
LEAST_SPREAD = 1e-3
"Standard deviation that a channel has at least: a quarter of a grey level."
LEAST_EVIDENCE, LEAST_DISTANCE = 0.1, 0.1
"How far the log odds and the log distances of one normal image in ten lie above the usual ones, at least."
FOLDS = 5
FEWEST_IMAGES = 10
"Of fewer normal images nothing is learnt."
MOST_ODDS = 12.0
"Log odds at most, so that a probability stays below 1."


class Described(NamedTuple):
    """What is looked at of N images."""

    responses: Tensor
    "[N,C,G,G], see `filtered`"
    miniature: Tensor
    "[N,D], the images at 16 x 16 pixels"


class PatchGaussian(NamedTuple):
    """At each place a Gaussian of responses and colours, whose mean depends on the image as a whole."""

    miniature_mean: Tensor
    "[D]"
    basis: Tensor
    "[D,K]: a miniature less its mean, times this, is the image's code: principal components of variance 1"
    mean: Tensor
    "[C,G,G]"
    effect: Tensor
    "[K,C,G,G] float16: what each component of the code adds to the mean"
    spread: Tensor
    "[C]: standard deviation of what is left, over all places"
    whitening: Tensor
    "[G x G,C,C]: times what is left, in units of its spread, gives uncorrelated numbers of variance 1"


def gabor_filters() -> Tensor:
    """[2 x ORIENTATIONS,1,w,w]: even and odd waves of each orientation, of mean 0 and sum of magnitudes 1."""
    axis = torch.arange(-RADIUS, RADIUS + 1, dtype=torch.float32)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    filters = []
    for k in range(ORIENTATIONS):
        angle = math.pi * k / ORIENTATIONS
        across, along = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
        envelope = torch.exp(-(across.square() + (ASPECT * along).square()) / (2 * WIDTH**2))
        for phase in (0.0, math.pi / 2):
            wave = envelope * torch.cos(2 * math.pi * across / WAVELENGTH + phase)
            wave -= wave.mean()
            filters.append(wave / wave.abs().sum())
    return torch.stack(filters)[:, None]


def octaves(side: int) -> int:
    """How many octaves of an image with this side the filters see."""
    return sum(min(side, SIDE) >> level >= SMALLEST for level in range(LEVELS))


def channels(side: int) -> int:
    """C for images with this side."""
    return ORIENTATIONS * octaves(side) + COLOURS


def filtered(images: Tensor, gabor: Tensor) -> Tensor:
    """Energies of Gabor filters, octave by octave, and colours of images [N,3,S,S] in [0,1]: [N,C,G,G]."""
    if images.shape[-1] > SIDE:
        images = F.interpolate(images, (SIDE, SIDE), mode="area")
    grey, found = images.mean(dim=1, keepdim=True), []
    for level in range(octaves(images.shape[-1])):
        waves = F.conv2d(F.pad(F.avg_pool2d(grey, 2**level), (RADIUS,) * 4, mode="reflect"), gabor)
        energies = (waves[:, 0::2].square() + waves[:, 1::2].square() + 1e-8).sqrt()
        if energies.shape[-1] > GRID:
            found.append(F.adaptive_avg_pool2d(energies, GRID))
        else:
            found.append(F.interpolate(energies, (GRID, GRID), mode="bilinear"))
    red, green, blue = F.adaptive_avg_pool2d(images, GRID).split(1, dim=1)
    return torch.cat([*found, (red + green + blue) / 3, red - green, (red + green) / 2 - blue], dim=1)


class Familiarity(nn.Module):
    """Gaussians of normal images, and what a distance from them says of the odds of an anomaly.

    Before `fit` it knows nothing: its statistics have no elements.

    Args:
        image_size: S.
    """

    usual_distance: Tensor
    "[1]: the usual log distance of a normal image's least familiar place"
    usual_evidence: Tensor
    "[1]: the usual log odds that the segmenter gives a normal image"
    slope: Tensor
    "[1]: log odds for each unit of the log distance"

    def __init__(self, image_size: int):
        super().__init__()
        count = channels(image_size)
        # None is the number of components, which depends on the images.
        self.shapes: dict[str, list[int | None]] = {
            "miniature_mean": [3 * MINIATURE**2],
            "basis": [3 * MINIATURE**2, None],
            "mean": [count, GRID, GRID],
            "effect": [None, count, GRID, GRID],
            "spread": [count],
            "whitening": [GRID**2, count, count],
            "usual_distance": [1],
            "usual_evidence": [1],
            "slope": [1],
        }
        for name in self.shapes:
            self.register_buffer(name, torch.empty(0))
        self.gabor: Tensor
        # Kept with the statistics: other filters would make other scores of them.
        self.register_buffer("gabor", gabor_filters())

    @property
    def is_fitted(self) -> bool:
        return self.slope.numel() > 0

    def describe(self, images: Tensor) -> Described:
        """What is looked at of images [N,3,S,S] in [0,1]."""
        images = images.float()
        return Described(filtered(images, self.gabor), F.adaptive_avg_pool2d(images, MINIATURE).flatten(1))

    def fit(self, seen: Described, images: Tensor, evidence: Tensor) -> None:
        """Learn from normal images.

        A Gaussian has its own data too near. So distances are taken from Gaussians of the other images, a fifth of the
        images at a time, and scaled so that they vary over normal images as much as the evidence does.

        Args:
            seen: of N squares.
            images: [N] int64, which image each square is of: tiles of an image are no other images.
            evidence: [N] log odds of an anomaly that the segmenter gives.
        """
        numbers, place = images.unique(return_inverse=True)
        is_finite = all(values.isfinite().all() for values in (*seen, evidence))
        if len(numbers) < FEWEST_IMAGES or not is_finite:
            return
        distances, fold = torch.empty_like(evidence), place % FOLDS
        for part in fold.unique():
            inside = fold == part
            others = patch_gaussian(_those(seen, ~inside), len(place[~inside].unique()))
            distances[inside] = log_distance(others, _those(seen, inside)).flatten(1).amax(dim=1).to(evidence.dtype)
        # Where the segmenter is sure of all normal images, or these are all alike, nothing varies.
        slope = _upper_spread(evidence).clamp(min=LEAST_EVIDENCE) / _upper_spread(distances).clamp(min=LEAST_DISTANCE)
        found = patch_gaussian(seen, len(numbers))._asdict()
        found |= {"usual_distance": distances.median()[None], "usual_evidence": evidence.median()[None]}
        for name, value in (found | {"slope": slope[None]}).items():
            setattr(self, name, value if name == "effect" else value.float())

    def log_odds(self, images: Tensor, weight: float) -> Tensor:
        """Log odds [N,G,G] of an anomaly at each place of images [N,3,S,S] in [0,1].

        A normal image's largest ones are usually those that the segmenter gives it, and vary `weight` times as much.
        """
        gaussian = PatchGaussian(*(getattr(self, name) for name in PatchGaussian._fields))
        beyond = log_distance(gaussian, self.describe(images)) - self.usual_distance
        return (self.usual_evidence + weight * self.slope * beyond).clamp(max=MOST_ODDS)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        state_dict.setdefault(prefix + "gabor", self.gabor)
        # Fitted or not, and with how many components, is up to what is loaded.
        for name, shape in self.shapes.items():
            given = state_dict.setdefault(prefix + name, torch.empty(0))
            fits = len(given.shape) == len(shape) and all(
                wanted in (None, length) for wanted, length in zip(shape, given.shape, strict=True)
            )
            if fits or list(given.shape) == [0]:
                setattr(self, name, torch.empty_like(given, device=getattr(self, name).device))
        super()._load_from_state_dict(state_dict, prefix, *others)


def patch_gaussian(seen: Described, images: int) -> PatchGaussian:
    """The Gaussians of squares that are of so many different images."""
    miniature_mean = seen.miniature.mean(dim=0)
    _, values, directions = torch.linalg.svd((seen.miniature - miniature_mean).double(), full_matrices=False)
    # What hardly varies is rounding.
    count = min(MOST_COMPONENTS, images // IMAGES_A_COMPONENT, int((values > 1e-4 * values[0].clamp(min=1e-9)).sum()))
    basis = (directions[:count].T / values[:count] * math.sqrt(len(seen.miniature))).float()
    code = _code(seen.miniature, miniature_mean, basis)

    mean = seen.responses.mean(dim=0)
    left = seen.responses - mean
    gram = code.T @ code + torch.eye(count, device=code.device)
    effect = torch.linalg.solve(gram, code.T @ left.flatten(1)).view(count, *mean.shape)
    left -= (code @ effect.flatten(1)).view_as(left)
    spread = left.square().mean(dim=(0, 2, 3)).sqrt().clamp(min=LEAST_SPREAD)
    left /= spread[:, None, None]
    identity = torch.eye(len(spread), device=left.device)
    whitening = []
    for row in left.unbind(dim=2):
        places = row.permute(2, 1, 0)
        factor = torch.linalg.cholesky(places @ places.transpose(1, 2) / len(left) + SHRINKAGE * identity)
        whitening.append(torch.linalg.solve_triangular(factor, identity.expand_as(factor), upper=False))
    return PatchGaussian(miniature_mean, basis, mean, effect.half(), spread, torch.cat(whitening))


def log_distance(gaussian: PatchGaussian, seen: Described) -> Tensor:
    """Log of the mean square, over the channels, of what the Gaussian leaves unexplained at each place: [N,G,G]."""
    code = _code(seen.miniature, gaussian.miniature_mean, gaussian.basis)
    expected = gaussian.mean + (code @ gaussian.effect.float().flatten(1)).view_as(seen.responses)
    left = (seen.responses - expected) / gaussian.spread[:, None, None]
    whitened = gaussian.whitening @ left.flatten(2).permute(2, 1, 0)
    height, width = seen.responses.shape[-2:]
    return whitened.square().mean(dim=1).clamp(min=1e-12).log().T.reshape(-1, height, width)


def _code(miniature: Tensor, mean: Tensor, basis: Tensor) -> Tensor:
    """[N,K]; what lies far outside of all that was seen says no more than what lies at its border."""
    return ((miniature - mean) @ basis).clamp(-FARTHEST, FARTHEST)


def either(probability: Tensor, log_odds: Tensor) -> Tensor:
    """Probabilities [N,1,H,W] that a pixel is anomalous by what the segmenter says [N,1,H,W] or by log odds [N,G,G]."""
    size = probability.shape[-2:]
    other = F.interpolate(log_odds[:, None], size, mode="bilinear").sigmoid()
    return probability + (1 - probability) * other


def _those(seen: Described, chosen: Tensor) -> Described:
    return Described(seen.responses[chosen], seen.miniature[chosen])


def _upper_spread(values: Tensor) -> Tensor:
    """How far the 90 % quantile of values [N] lies above their median."""
    return values.quantile(0.9) - values.median()
