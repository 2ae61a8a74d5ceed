"""What all kinds have in common that judge in log odds: their own evidence, and familiarity beside it where wanted."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from diffad_ray.detectors.base import Detection, DetectorSettings, Trainable
from diffad_ray.familiarity.learning import learn_familiarity, squares_of
from diffad_ray.familiarity.model import Familiarity, either
from diffad_ray.synthesis.pseudo_anomalies import AnomalySettings
from diffad_ray.tensors import NormalSquares

PUBLISHED_TOP = 50 / 256**2
"Share of an image's pixels, the largest of its map, whose mean is its score: 50 pixels at 256 x 256."
USUAL_LOG_ODDS = -4.0
"Of a normal image by evidence that is no log odds by itself; thresholds are calibrated on top of it."
LEAST_SPREAD = 0.05
"Of the evidence of normal images, in its own unit, at least."
BATCH, MOST_SQUARES = 16, 1500


@dataclass(frozen=True, kw_only=True)
class JudgedSettings(DetectorSettings):
    """Settings of all kinds that judge in log odds.

    Attributes:
        top_share: share of the map's pixels, the largest, whose mean is the score.
        familiarity: weight in [1, 4] of how unfamiliar a place of the image looks, see `Familiarity`; with 0 the kind's
            own evidence judges alone, and a training does not learn it.
        anomalies: how pseudo-anomalies are made in training.
    """

    top_share: float = PUBLISHED_TOP
    familiarity: float = 0.0
    anomalies: AnomalySettings = field(default_factory=AnomalySettings)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.top_share <= 1:
            raise ValueError(f"top_share {self.top_share} must lie in (0, 1]")
        if self.familiarity != 0 and not 1 <= self.familiarity <= 4:
            # Smaller weights would give each place of the image what its most suspicious ones usually get.
            raise ValueError(f"familiarity {self.familiarity} must be 0, which leaves it out, or lie in [1, 4]")
        anomalies: Any = self.anomalies
        object.__setattr__(
            self, "anomalies", AnomalySettings(**anomalies) if isinstance(anomalies, dict) else anomalies
        )


class Examination(NamedTuple):
    """What N images show."""

    anomaly_map: Tensor
    "[N,1,H,W]"
    reconstruction: Tensor | None
    "[N,3,H,W], or None where a kind imagines nothing"


class JudgedDetector(Trainable):
    """A detector that scores by log odds: a pixel is anomalous where its own evidence or familiarity says so."""

    settings: JudgedSettings
    in_log_odds: ClassVar[bool] = False
    "Whether a kind's own evidence is log odds already; other evidence is compared with that of normal images."
    usual: Tensor
    "[1]: the usual evidence of a normal image"
    spread: Tensor
    "[1]: how far that of one normal image in ten lies above the usual one"

    def __init__(self, settings: JudgedSettings):
        super().__init__(settings)
        self.familiarity = Familiarity(settings.image_size)
        self.register_buffer("usual", torch.zeros(1), persistent=not self.in_log_odds)
        self.register_buffer("spread", torch.ones(1), persistent=not self.in_log_odds)

    @abstractmethod
    def evidence(self, images: Tensor) -> Examination:
        """What the kind itself finds in images [N,3,H,W] in [0, 1], in its own unit."""

    def own_log_odds(self, images: Tensor) -> Examination:
        """`evidence` as log odds of an anomaly."""
        found = self.evidence(images)
        if self.in_log_odds:
            return found
        return found._replace(anomaly_map=USUAL_LOG_ODDS + (found.anomaly_map - self.usual) / self.spread)

    def look(self, images: Tensor) -> Examination:
        """Log odds of an anomaly at each pixel of images [N,3,H,W] in [0, 1], and their reconstructions."""
        found = self.own_log_odds(images)
        if not (self.settings.familiarity and self.familiarity.is_fitted):
            return found
        unfamiliar = self.familiarity.log_odds(images, self.settings.familiarity)
        return found._replace(anomaly_map=either(found.anomaly_map, unfamiliar))

    def image_score(self, anomaly_map: Tensor) -> Tensor:
        """Mean of the largest pixels of [N,1,H,W]: `top_share` of the area, so that sizes compare; [N]."""
        pixels = anomaly_map.flatten(1)
        count = max(1, round(self.settings.top_share * pixels.shape[1]))
        return pixels.topk(count, dim=1).values.mean(dim=1)

    @torch.inference_mode()
    def detect(self, images: Tensor) -> Detection:
        found = self.look(images)
        return Detection(self.image_score(found.anomaly_map), found.anomaly_map.squeeze(1), found.reconstruction)

    def fit(self, normals: NormalSquares, tell: Callable[[str], None]) -> None:
        self.to(normals.device).eval()
        if not self.in_log_odds:
            self._fit_evidence(normals, tell)
        if self.settings.familiarity:

            def peaks(images: Tensor) -> Tensor:
                return self.image_score(self.own_log_odds(self.mode.laid_out(images)).anomaly_map)

            learn_familiarity(self.familiarity, normals, peaks, self.settings.anomalies, tell)

    @torch.no_grad()
    def _fit_evidence(self, normals: NormalSquares, tell: Callable[[str], None]) -> None:
        """Measure the evidence of normal images: the median of their scores, and how far one in ten lies above it."""
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
