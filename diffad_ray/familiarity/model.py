"""The familiarity module: statistics of normal images, the judge, and the conversion of both to log odds.

A pixel segmenter learns from pseudo-anomalies alone, and knows nothing about normal images that those do not change.
Familiarity adds a Gaussian per cell and coresets of normal features. The judge, trained on residuals of
pseudo-anomalies, decides which residuals are anomalies.

Letters in shapes: N images, R kinds of residuals, C feature channels, G cells a side, K principal components, D numbers
of a miniature, M coreset size.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from diffad_ray.familiarity.backbone import Backbone, FeatureSettings
from diffad_ray.familiarity.exemplars import IMAGES_AT_ONCE, MOST_PLACES, KnownPlaces
from diffad_ray.familiarity.features import GRID, MINIATURE, Described, described, gabor_filters
from diffad_ray.familiarity.fitted import FittedModule
from diffad_ray.familiarity.gaussians import PatchGaussian
from diffad_ray.familiarity.judge import squared_distance, untaught
from diffad_ray.familiarity.normality import RESIDUALS, Normality, residuals
from diffad_ray.familiarity.sharpening import along_edges

NEIGHBOURHOOD = 3
"Side in cells of the window over which odds and distances are averaged."
BACKGROUND, UNUSUAL, LEAST_BACKGROUND_SPREAD = 0.1, 2.0, 0.2
"""Quantile of an image's cells whose log odds are those of its background, as defects cover less than the rest; spreads
above the median of normal images from which a background is unusual; and the floor of that spread."""
TERMS = 2.0
"""The excess of a background is subtracted once for each term of the strangeness, the judge's and the distances': in an
unusual image, all cells are far from the normal ones, too."""
NO_LIMIT = 1e6
"More than any log odds; not infinite, because averages of weights would make it no number."
LEAST_DISTANCE_SPREAD, LEAST_STRANGENESS_SPREAD = 0.2, 0.5
"Floors of the spreads, 0.9 quantile less median, of normal images' log distance and strangeness."
LESS_AS_SHOWN = 1.0
"Penalty, in spreads, on the raw-feature distance, which varies more between lots."
HALVES, POSITIVE = ("effect", "shown", "left"), ("spread", "exposure_spread", "distance_spread", "slope")
"Names of the float16 statistics, and of those that must be positive."


class Familiarity(FittedModule):
    """Statistics of normal images, the judge of residuals from them, and the scale of their log odds.

    The statistics are empty tensors before `learn`. The detector's training does not train the judge.

    Args:
        image_size: S, the side of a square in pixels.
        features: what is seen of a square.
    """

    usual_distance: Tensor
    "[R-1]: median over normal images of the largest log distance to the nearest entry of each coreset"
    distance_spread: Tensor
    "[R-1]: 0.9 quantile less median of the same"
    usual_strangeness: Tensor
    "[1]: median over normal images of the largest strangeness of a cell"
    usual_evidence: Tensor
    "[1]: median of the detector's own log odds of normal images"
    slope: Tensor
    "[1]: log odds per unit of strangeness: 1 / (0.9 quantile less median) of normal images"
    background_limit: Tensor
    """[1]: log odds of an image's background above which the excess is subtracted from all cells. A new lot is somewhat
    unlike the old ones everywhere, and a defect stands out from its own image"""
    discount: Tensor
    "[1]: to subtract from the detector's own log odds, >= 0, because familiarity tells pseudo-anomalies better"

    def __init__(self, image_size: int, features: FeatureSettings | None = None):
        super().__init__()
        self.image_size, self.features = image_size, features or FeatureSettings()
        self.channels = self.features.channels_at(image_size)
        count = self.channels
        # K and M depend on the number of training images.
        self.shapes: dict[str, list[int | str]] = {
            "miniature_mean": [3 * MINIATURE**2],
            "basis": [3 * MINIATURE**2, "K"],
            "mean": [count, GRID, GRID],
            "effect": ["K", count, GRID, GRID],
            "spread": [count],
            "whitening": [GRID**2, count, count],
            "exposure_mean": [2],
            "exposure_spread": [2],
            "common_mean": [count],
            "common_whitening": [count, count],
            "shown": ["M", count],
            "left": ["M", count],
            "usual_distance": [RESIDUALS - 1],
            "distance_spread": [RESIDUALS - 1],
            "usual_strangeness": [1],
            "usual_evidence": [1],
            "slope": [1],
        }
        self.fitted = tuple(self.shapes)
        for name in self.fitted:
            self.register_buffer(name, torch.empty(0))
        self.register_buffer("background_limit", torch.full((1,), NO_LIMIT))
        self.register_buffer("discount", torch.zeros(1))
        self.gabor: Tensor
        # The filters are saved with the statistics, which fit no other filters.
        self.register_buffer("gabor", gabor_filters())
        self.backbone = Backbone(self.features) if self.features.has_backbone else None
        self.judge = untaught(RESIDUALS, count, 0).requires_grad_(False)

    @property
    def is_fitted(self) -> bool:
        return self.slope.numel() > 0

    @property
    def normality(self) -> Normality:
        """The statistics of all normal images."""
        gaussian = PatchGaussian(*(getattr(self, name) for name in PatchGaussian._fields))
        return Normality(gaussian, KnownPlaces(*(getattr(self, name) for name in KnownPlaces._fields)))

    @torch.no_grad()
    def learn_features(self, squares: Iterable[Tensor]) -> None:
        """Load the network whose features are seen, if there is one, and fit their projection.

        Args:
            squares: batches [N,3,S,S] in [0,1] of normal squares.

        Raises:
            UserError: see `Backbone.load`.
        """
        if self.backbone is not None:
            self.backbone.load(self.image_size)
            self.backbone.fit((images, described(images, None).exposure) for images in squares)

    def describe(self, images: Tensor) -> Described:
        """Compute the features of images [N,3,S,S] in [0,1]."""
        seen = described(images, self.gabor if self.features.has_gabor else None)
        if self.backbone is None:
            return seen
        learnt = self.backbone(images.float(), seen.exposure)
        return seen._replace(
            responses=torch.cat([seen.responses, learnt], dim=1) if self.features.has_gabor else learnt
        )

    def opinions(self, residuals: Tensor) -> Tensor:
        """Return [N,R,G,G] from residuals [N,R,C,G,G], smoothed.

        Channel 0 is the judge's log odds, less `TERMS` times the excess of the image's background over
        `background_limit`. The others are log distances to the nearest entry of each coreset.
        """
        return self.both_opinions(residuals)[0]

    def both_opinions(self, residuals: Tensor) -> tuple[Tensor, Tensor]:
        """Return `opinions` [N,R,G,G], and the same of each cell alone, without smoothing."""
        alone = torch.cat([self.judge(residuals)[:, None], squared_distance(residuals[:, 1:])], dim=1)
        smoothed = smooth(alone)
        excess = TERMS * (background(smoothed[:, :1]) - self.background_limit).clamp(min=0)[:, None, None, None]
        first, second = (torch.cat([o[:, :1] - excess, o[:, 1:].log()], dim=1) for o in (smoothed, alone))
        return first, second

    @torch.no_grad()
    def learn_background(self, seen: Tensor) -> None:
        """Fit `background_limit` to the `compressed` residuals [N,...] of normal squares of lots that statistics lack.

        It lies `UNUSUAL` spreads, 0.9 quantile less median, above the median of their backgrounds.
        """
        parts = [background(smooth(self.judge.judged(part.float())[:, None])) for part in seen.split(IMAGES_AT_ONCE)]
        found = torch.cat(parts)
        spread = (found.quantile(0.9) - found.median()).clamp(min=LEAST_BACKGROUND_SPREAD)
        self.background_limit = (found.median() + UNUSUAL * spread)[None]

    def learn(self, normal: Normality, opinions: Tensor, evidence: Tensor) -> None:
        """Store the statistics of normal images, and fit the scale of the log odds to `opinions` and `evidence`.

        Args:
            normal: statistics of all normal images.
            opinions: [N,R,G,G] of normal squares, out-of-fold, since in-fold distances are too small. The judge was
                trained on all folds; with few images, new ones are therefore somewhat stranger than these.
            evidence: [N] the detector's own log odds of an anomaly in the same squares.
        """
        farthest = opinions[:, 1:].flatten(2).amax(dim=2)
        self.usual_distance = farthest.median(dim=0).values
        self.distance_spread = (farthest.quantile(0.9, dim=0) - self.usual_distance).clamp(min=LEAST_DISTANCE_SPREAD)
        strangeness = self.strangeness(opinions).flatten(1).amax(dim=1)
        self.usual_strangeness, self.usual_evidence = strangeness.median()[None], evidence.median().float()[None]
        # The floor prevents an infinite slope where all normal images are equal.
        self.slope = 1 / (strangeness.quantile(0.9) - self.usual_strangeness).clamp(min=LEAST_STRANGENESS_SPREAD)
        for part in normal:
            for name, value in part._asdict().items():
                setattr(self, name, value)

    def strangeness(self, opinions: Tensor) -> Tensor:
        """Return the strangeness [N,G,G] of each cell from `opinions` [N,R,G,G].

        Strangeness is the judge's log odds plus the log-sum-exp of both coreset distances, each in spreads of normal
        images. The distances find defects unlike all pseudo-anomalies; which of them does depends on the product.
        """
        usual, spread = (values[:, None, None] for values in (self.usual_distance, self.distance_spread))
        shown, left = ((opinions[:, 1:] - usual) / spread).unbind(dim=1)
        return opinions[:, 0] + torch.logaddexp(shown - LESS_AS_SHOWN, left)

    def log_odds(self, images: Tensor, weight: float) -> Tensor:
        """Return log odds [N,G,G] of an anomaly in each cell of images [N,3,S,S] in [0,1]; see `as_log_odds`."""
        return self.as_log_odds(self.opinions(residuals(self.normality, self.describe(images))), weight)

    def scored_and_shown(self, images: Tensor, weight: float) -> tuple[Tensor, Tensor]:
        """Return `log_odds` [N,G,G], by which images are scored, and those of pixels [N,S,S], which show regions.

        Smoothing makes scores steady, and regions wide. So the log odds of pixels are of each cell alone, smoothed by
        `along_edges`.
        """
        smoothed, alone = self.both_opinions(residuals(self.normality, self.describe(images)))
        return self.as_log_odds(smoothed, weight), along_edges(self.as_log_odds(alone, weight), images)

    def as_log_odds(self, opinions: Tensor, weight: float) -> Tensor:
        """Return log odds [N,G,G] of an anomaly in each cell from `opinions` [N,R,G,G].

        The maximum over a normal image or tile has the median `usual_evidence`, and its 0.9 quantile lies at most
        `weight` above.
        """
        beyond = self.strangeness(opinions) - self.usual_strangeness
        return self.usual_evidence + weight * self.slope * beyond

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        # Imported detectors and those older than familiarity have no such tensors; an unfitted module replaces them.
        if not any(name.startswith(prefix) for name in state_dict):
            unfitted = Familiarity(self.image_size, self.features).state_dict()
            state_dict |= {prefix + name: tensor for name, tensor in unfitted.items()}
        super()._load_from_state_dict(state_dict, prefix, *others)

    def damage(self, given: dict[str, Tensor]) -> str | None:
        if all(list(tensor.shape) == [0] for tensor in given.values()):
            return None
        lengths: dict[int | str, int] = {}
        for name, tensor in given.items():
            expected = torch.float16 if name in HALVES else torch.float32
            if tensor.dtype != expected:
                return f"{name} holds {tensor.dtype}, not {expected}"
            fits = len(tensor.shape) == len(self.shapes[name]) and all(
                length == (lengths.setdefault(letter, length) if isinstance(letter, str) else letter)
                for letter, length in zip(self.shapes[name], tensor.shape, strict=True)
            )
            if not fits or not 0 < lengths.get("M", 1) <= MOST_PLACES:
                return f"{name} has shape {list(tensor.shape)}"
            if not tensor.isfinite().all() or (name in POSITIVE and (tensor <= 0).any()):
                return f"{name} holds numbers that can't be"
        return None


def either(own: Tensor, log_odds: Tensor) -> Tensor:
    """Return log odds [N,1,H,W] that `own` [N,1,H,W] or `log_odds` [N,G,G], resized to H x W, finds a pixel anomalous.

    The probability is 1 - (1 - p)(1 - q); its odds are odds(p) + odds(q) + odds(p) odds(q).
    """
    other = F.interpolate(log_odds[:, None], own.shape[-2:], mode="bilinear")
    return torch.logaddexp(torch.logaddexp(own, other), own + other)


def background(judged: Tensor) -> Tensor:
    """Return the log odds [N] of the background of squares, from those of their cells [N,1,G,G]."""
    # By topk, because ONNX has no quantiles.
    return judged.flatten(1).topk(round(BACKGROUND * GRID**2), dim=1, largest=False).values[:, -1]


def smooth(places: Tensor) -> Tensor:
    """Mean-pool [N,R,G,G] over windows of `NEIGHBOURHOOD` cells a side, with stride 1."""
    return F.avg_pool2d(F.pad(places, (NEIGHBOURHOOD // 2,) * 4, mode="replicate"), NEIGHBOURHOOD, stride=1)
