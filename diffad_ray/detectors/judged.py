"""The common base of detectors that score in log odds: their own evidence, combined with optional familiarity."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from diffad_ray.detectors.base import Detection, DetectorSettings, Fitted, Trainable
from diffad_ray.diffusion.noise import seeded_generator
from diffad_ray.errors import UserError
from diffad_ray.familiarity.backbone import FeatureSettings
from diffad_ray.familiarity.learning import CrossFitted, learn_familiarity, squares_of
from diffad_ray.familiarity.model import Familiarity, either
from diffad_ray.synthesis.foreground import with_foregrounds
from diffad_ray.synthesis.pseudo_anomalies import AnomalySettings, pseudo_anomalies
from diffad_ray.tensors import NormalSquares, as_unit_tensor

PUBLISHED_TOP = 50 / 256**2
"An image's score is the mean of this share of its map's pixels, the largest: 50 pixels at 256 x 256."
USUAL_LOG_ODDS = -4.0
"Log odds assigned to the median evidence of normal images; thresholds are calibrated afterwards."
LEAST_SPREAD = 0.05
"Floor of the spread of normal images' evidence, in the unit of the evidence; that of a kind should vary by more."
BATCH, MOST_SQUARES = 16, 1500
MOST_CROSS_FITTED = 400
"Normal images whose cross-fitted scores are computed."
COMPARED_SQUARES, MOST_DISCOUNT = 96, 4.0
"Normal squares that get pseudo-anomalies to compare own evidence with familiarity; largest discount."


@dataclass(frozen=True, kw_only=True)
class JudgedSettings(DetectorSettings):
    """Settings of all detectors that score in log odds.

    Attributes:
        top_share: the score is the mean of this share of the map's pixels, the largest; in (0, 1].
        familiarity: weight of the log odds of `Familiarity`, in [1, 4]; 0 excludes familiarity from training and score.
        features: what familiarity sees of an image.
        anomalies: how pseudo-anomalies are made in training.
    """

    top_share: float = PUBLISHED_TOP
    familiarity: float = 0.0
    features: FeatureSettings = field(default_factory=FeatureSettings)
    anomalies: AnomalySettings = field(default_factory=AnomalySettings)

    @property
    def makes_pseudo_anomalies(self) -> bool:
        return self.familiarity > 0

    @property
    def needs_onnxruntime(self) -> bool:
        return self.features.path is not None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.top_share <= 1:
            raise ValueError(f"top_share {self.top_share} must lie in (0, 1]")
        if self.familiarity != 0 and not 1 <= self.familiarity <= 4:
            # A smaller weight gives all cells nearly `usual_evidence`, the usual log odds of an image's largest ones.
            raise ValueError(f"familiarity {self.familiarity} must be 0, which leaves it out, or lie in [1, 4]")
        for name, settings_class in (("features", FeatureSettings), ("anomalies", AnomalySettings)):
            if isinstance(given := getattr(self, name), dict):
                object.__setattr__(self, name, settings_class(**given))


class Examination(NamedTuple):
    """Anomaly maps and reconstructions of N images."""

    anomaly_map: Tensor
    "[N,1,H,W]"
    reconstruction: Tensor | None
    "[N,3,H,W], or None for a kind that reconstructs nothing"
    sharpened: Tensor | None = None
    "[N,1,H,W]: anomaly maps in which regions are found; None where those that give the scores show them, too"

    @property
    def shown(self) -> Tensor:
        """The anomaly maps [N,1,H,W] in which regions are found."""
        return self.anomaly_map if self.sharpened is None else self.sharpened


class JudgedDetector(Trainable):
    """A detector that scores in log odds: a pixel is anomalous if its own evidence or familiarity finds it so."""

    settings: JudgedSettings
    in_log_odds: ClassVar[bool] = False
    "Whether a kind's own evidence is in log odds; other evidence is standardised by that of normal images."
    usual: Tensor
    "[1]: median evidence of normal images"
    spread: Tensor
    "[1]: 0.9 quantile less median of the evidence of normal images"

    def __init__(self, settings: JudgedSettings):
        super().__init__(settings)
        self.familiarity = Familiarity(settings.image_size, settings.features)
        self.register_buffer("usual", torch.zeros(1), persistent=not self.in_log_odds)
        self.register_buffer("spread", torch.ones(1), persistent=not self.in_log_odds)

    @abstractmethod
    def evidence(self, images: Tensor) -> Examination:
        """Compute the kind's own evidence of images [N,3,H,W] in [0, 1], in its own unit.

        Unless `in_log_odds`, normal images should differ by more than `LEAST_SPREAD`: errors are given as logarithms.
        """

    def own_log_odds(self, found: Examination) -> Examination:
        """Return evidence as log odds of an anomaly."""
        if self.in_log_odds:
            return found
        return found._replace(anomaly_map=USUAL_LOG_ODDS + (found.anomaly_map - self.usual) / self.spread)

    def look(self, images: Tensor, found: Examination) -> Examination:
        """Return the log odds of an anomaly at each pixel, from images [N,3,H,W] in [0, 1] and their evidence."""
        found = self.own_log_odds(found)
        if not (self.settings.familiarity and self.familiarity.is_fitted):
            return found
        own = found.anomaly_map
        scored, shown = self.familiarity.scored_and_shown(images, self.settings.familiarity)
        return found._replace(anomaly_map=self.joined(own, scored), sharpened=self.joined(own, shown))

    def joined(self, own: Tensor, unfamiliar: Tensor) -> Tensor:
        """Return the log odds [N,1,H,W] of an anomaly from the kind's own, and familiarity's [N,G,G] or [N,H,W]."""
        return either(own - self.familiarity.discount, unfamiliar)

    def image_score(self, anomaly_map: Tensor) -> Tensor:
        """Return the mean [N] of the largest `top_share` of the pixels of [N,1,H,W], comparable between sizes."""
        pixels = anomaly_map.flatten(1)
        # A traced size is a tensor, which rounds to nothing.
        count = max(1, round(self.settings.top_share * int(pixels.shape[1])))
        return pixels.topk(count, dim=1).values.mean(dim=1)

    @torch.inference_mode()
    def detect(self, images: Tensor) -> Detection:
        return self.judged(images, self.evidence(images))

    @torch.inference_mode()
    def judged(self, images: Tensor, found: Examination) -> Detection:
        """Return the detection of images [N,3,H,W] in [0, 1] from their evidence, whoever computed it."""
        found = self.look(images, found)
        score, shown = self.scored(found)
        return Detection(score, shown.squeeze(1), found.reconstruction)

    def scored(self, found: Examination) -> tuple[Tensor, Tensor]:
        """Return the scores [N] of images, and the maps [N,1,H,W] in which their regions are found.

        A sharpened map whose largest value is below the score is raised to it as a whole: in an image that reaches the
        threshold, there are pixels that reach it.
        """
        score = self.image_score(found.anomaly_map)
        below = score - found.shown.flatten(1).amax(dim=1)
        return score, found.shown + below.clamp(min=0)[:, None, None, None]

    def require_network(self) -> None:
        if self.familiarity.backbone is not None:
            if not self.settings.familiarity:
                raise UserError(
                    "the network of detector.features is for familiarity, which is 0: set detector.familiarity to a "
                    "number in [1, 4], or detector.features.source to gabor"
                )
            # A copy, so that the training does not carry the network along.
            copy.deepcopy(self.familiarity.backbone).load(self.settings.image_size)

    def fit(self, normals: NormalSquares, tell: Callable[[str], None]) -> Fitted:
        self.to(normals.device).eval()
        if not self.in_log_odds:
            self._fit_evidence(normals, tell)
        if not self.settings.familiarity:
            return Fitted()

        def own(images: Tensor) -> Tensor:
            return self.own_log_odds(self.evidence(self.mode.laid_out(images))).anomaly_map

        def peaks(images: Tensor) -> Tensor:
            return self.image_score(own(images))

        apart = learn_familiarity(self.familiarity, normals, peaks, self.settings.anomalies, tell)
        if apart is None:
            return Fitted()
        tells = self._fit_discount(normals, own)
        return Fitted(self.cross_fitted_scores(normals, apart, own).tolist(), tells)

    @torch.no_grad()
    def cross_fitted_scores(
        self, normals: NormalSquares, apart: CrossFitted, own: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """Return the scores [K] of normal images by familiarity that had not seen them; K is 0 for images in tiles.

        The networks have seen them, so their own evidence may be lower than that of new images. Those who use the
        scores compare them with held-back images.

        Args:
            own: maps squares [N,3,S,S] in [0,1] to the kind's own log odds [N,1,S,S].
        """
        if len(np.unique(normals.sources)) < len(normals.sources):
            return torch.empty(0)
        scores = [torch.empty(0, device=normals.device)]
        for rows in torch.arange(len(apart.numbers))[:MOST_CROSS_FITTED].split(BATCH):
            images = as_unit_tensor(normals.pixels[apart.numbers[rows.numpy()], ..., :3]).to(normals.device)
            opinions = apart.opinions[rows.to(normals.device)]
            unfamiliar = self.familiarity.as_log_odds(opinions, self.settings.familiarity)
            scores.append(self.image_score(self.joined(own(images), unfamiliar)))
        return torch.cat(scores)

    @torch.no_grad()
    def _fit_evidence(self, normals: NormalSquares, tell: Callable[[str], None]) -> None:
        """Fit `usual` and `spread` to the scores of normal images: the median, and 0.9 quantile less median."""
        scores = [
            self.image_score(self.evidence(self.mode.laid_out(images[:, :3])).anomaly_map)
            for images in squares_of(normals, MOST_SQUARES, BATCH)
        ]
        found = torch.cat(scores).float()
        found = found[found.isfinite()]
        if len(found):
            self.usual = found.median()[None]
            self.spread = (found.quantile(0.9) - self.usual).clamp(min=LEAST_SPREAD)
        tell(f"evidence of {len(found)} good images measured")

    @torch.no_grad()
    def _fit_discount(self, normals: NormalSquares, own: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Fit the discount: by how much familiarity has better odds of telling a pseudo-anomaly from a normal square.

        Evidence that tells little would add to familiarity the differences between normal images alone. The opposite
        can't be shown: a segmenter is taught by such anomalies, and familiarity is there for all others.

        Returns the image AUROC of own evidence, of familiarity and of both, with the discount, on these squares.

        Args:
            own: maps squares [N,3,S,S] in [0,1] to the kind's own log odds [N,1,S,S].
        """
        always = replace(self.settings.anomalies, share=1.0)
        generator = seeded_generator(normals.device, normals.seed, COMPARED_SQUARES)
        good: list[tuple[Tensor, Tensor]] = []
        defective: list[tuple[Tensor, Tensor]] = []
        for squares in squares_of(normals, COMPARED_SQUARES, BATCH):
            images, foregrounds = with_foregrounds(squares)
            samples = pseudo_anomalies(images, normals.textures, generator, always, foregrounds=foregrounds)
            for found, shown in ((good, images), (defective, samples.images[~samples.is_normal])):
                found.append((own(shown), self.familiarity.log_odds(shown, self.settings.familiarity)))

        def told(part: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
            of_good, of_defective = (
                torch.cat([self.image_score(part(*pair)) for pair in found])[:, None] for found in (good, defective)
            )
            return log_odds_to_tell(of_good, of_defective)

        networks, familiar = told(lambda evidence, _: evidence), told(lambda _, places: places[:, None])
        self.familiarity.discount = (familiar - networks).clamp(0, MOST_DISCOUNT)
        tells = {"networks": networks, "familiarity": familiar, "whole": told(self.joined)}
        return {name: log_odds.sigmoid().item() for name, log_odds in tells.items()}


def log_odds_to_tell(good: Tensor, defective: Tensor) -> Tensor:
    """Return the log odds [K] that a defective image scores higher than a good one, by K scores [N,K] and [M,K] each.

    One pair is added to either side, so that the log odds of a perfect score are finite.

    Example:
        >>> log_odds_to_tell(torch.tensor([[0.0], [1.0]]), torch.tensor([[2.0], [3.0]])).exp().tolist()
        [5.0]
    """
    higher = (defective[:, None] > good).double() + (defective[:, None] == good).double() / 2
    right = higher.sum(dim=(0, 1))
    return ((right + 1) / (len(good) * len(defective) - right + 1)).log().float()
