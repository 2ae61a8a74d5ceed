"""Familiarity: how much an image as a whole looks like the normal ones, to the network that looks for anomalies.

A segmenter learns from pseudo-anomalies which features tell an anomaly, and then judges pixel by pixel, also where it
meets what no pseudo-anomaly has shown it. A Gaussian of its features over normal images says what they usually are,
with nothing artificial in it (as CutPaste does with a classifier's, Li et al. 2021). Here it shifts the odds of an
image's anomaly: the same mark counts more on an image that is unlike the normal ones in other ways too.

Letters in shapes: N images, F features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

SHRINKAGE = 0.03
"Share of the identity in the correlations of the features: there are often fewer images than features."
LEAST_SPREAD = 1e-3
"Standard deviation that a feature has at least, as a share of that of all features."
FOLDS = 5
FEWEST_IMAGES = 10
"Of fewer normal images nothing is learnt."
LEAST_SHIFT, MOST_SHIFT = -1.0, 8.0
"Bounds of a shift of the log odds. Below -1, pixels of an image would change their order."


def pooled(maps: Sequence[Tensor]) -> Tensor:
    """Mean, maximum and standard deviation over the pixels of feature maps [N,C,h,w]: [N, 3 x all C], float32."""
    found = []
    for features in maps:
        pixels = features.float().flatten(2)
        deviation, mean = torch.std_mean(pixels, dim=2)
        found += [mean, pixels.amax(dim=2), deviation]
    return torch.cat(found, dim=1)


class Familiarity(nn.Module):
    """A Gaussian of features over normal images, and what a distance from it says of an image's odds.

    Before `fit` it knows nothing: its statistics have no elements.

    Args:
        features: F.
    """

    mean: Tensor
    "[F]"
    whitening: Tensor
    "[F,F]: features less their mean, times this, are uncorrelated and of variance 1 over normal images"
    usual: Tensor
    "[1]: the usual log of the mean squared distance"
    slope: Tensor
    "[1]: log odds for each unit of the log distance"

    def __init__(self, features: int):
        super().__init__()
        self.shapes = {"mean": [features], "whitening": [features, features], "usual": [1], "slope": [1]}
        for name in self.shapes:
            self.register_buffer(name, torch.empty(0))

    @property
    def is_fitted(self) -> bool:
        return self.slope.numel() > 0

    def fit(self, features: Tensor, images: Tensor, evidence: Tensor) -> None:
        """Learn from normal images, seen once or in several variations.

        A Gaussian has its own data too near. So distances are taken from Gaussians of the other images, a fifth of the
        images at a time, and scaled so that they vary over normal images as much as the evidence does.

        Args:
            features: [N,F], see `pooled`.
            images: [N] int64, which image each row is of: variations and tiles of an image are no other images.
            evidence: [N] log odds of an anomaly that the pixels give.
        """
        numbers, place = images.unique(return_inverse=True)
        is_finite = features.isfinite().all() and evidence.isfinite().all()
        if len(numbers) < FEWEST_IMAGES or not is_finite:
            return
        features, evidence = features.double(), evidence.double()
        distances, fold = torch.empty_like(evidence), place % FOLDS
        for part in fold.unique():
            mean, whitening = _gaussian(features[fold != part])
            distances[fold == part] = _log_distance(features[fold == part], mean, whitening)
        slope = _upper_spread(evidence) / _upper_spread(distances).clamp(min=1e-6)
        found = {"usual": distances.median()[None], "slope": slope[None]}
        found["mean"], found["whitening"] = _gaussian(features)
        for name, value in found.items():
            setattr(self, name, value.float())

    def shift(self, features: Tensor, weight: float) -> Tensor:
        """How the log odds of images with such features [N,F] shift: [N], within bounds; 0 for a usual image."""
        distance = _log_distance(features, self.mean, self.whitening)
        return (weight * self.slope * (distance - self.usual)).clamp(LEAST_SHIFT, MOST_SHIFT)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        # Fitted or not is up to what is loaded; what was saved when there were no such statistics has none.
        for name, shape in self.shapes.items():
            given = state_dict.setdefault(prefix + name, torch.empty(0))
            if list(given.shape) in ([0], shape):
                setattr(self, name, torch.empty_like(given, device=getattr(self, name).device))
        super()._load_from_state_dict(state_dict, prefix, *others)


def _gaussian(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean [F] and whitening [F,F] of features [N,F] float64."""
    mean = features.mean(dim=0)
    spread = features.std(dim=0)
    # A feature that hardly varies over normal images may do so by chance: it must not drown all others.
    spread = spread.clamp(min=max(1e-6, LEAST_SPREAD * spread.square().mean().sqrt().item()))
    standardised = (features - mean) / spread
    correlation = standardised.T @ standardised / len(features)
    identity = torch.eye(len(mean), dtype=features.dtype, device=features.device)
    factor = torch.linalg.cholesky((1 - SHRINKAGE) * correlation + SHRINKAGE * identity)
    inverse = torch.linalg.solve_triangular(factor, identity, upper=False)
    return mean, inverse.T / spread[:, None]


def _log_distance(features: Tensor, mean: Tensor, whitening: Tensor) -> Tensor:
    """Log of the mean squared whitened feature: [N]."""
    return ((features - mean) @ whitening).square().mean(dim=1).clamp(min=1e-12).log()


def _upper_spread(values: Tensor) -> Tensor:
    """How far the 90 % quantile of values [N] lies above their median."""
    return values.quantile(0.9) - values.median()


def shifted(anomaly_map: Tensor, peak: Tensor, shift: Tensor) -> Tensor:
    """Anomaly probabilities [N,1,H,W] with the log odds of the pixels as high as `peak` [N] shifted by `shift` [N].

    Lower pixels are shifted in proportion to their probability: what is unusual of an image is its anomaly and not its
    background. The order of its pixels stays.
    """
    peak, shift = (values.view(-1, 1, 1, 1) for values in (peak, shift))
    odds = (shift * (anomaly_map / peak.clamp(min=1e-12)).clamp(max=1)).exp()
    # Rounding may lead beyond 1.
    return (anomaly_map * odds / (1 + anomaly_map * (odds - 1))).clamp(max=1)
