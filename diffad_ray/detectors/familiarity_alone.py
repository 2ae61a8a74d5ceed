"""Familiarity as a detector: it needs no reconstruction and no large network, and trains in seconds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from diffad_ray.detectors.base import Fitted, Part, TrainingBatch
from diffad_ray.detectors.judged import USUAL_LOG_ODDS, Examination, JudgedDetector, JudgedSettings
from diffad_ray.errors import UserError
from diffad_ray.familiarity.features import SIDE
from diffad_ray.familiarity.learning import FEWEST_TO_FIT, learn_familiarity
from diffad_ray.tensors import NormalSquares


@dataclass(frozen=True, kw_only=True)
class FamiliarityAloneSettings(JudgedSettings):
    """Settings of the kind `familiarity`.

    Attributes:
        familiarity: log odds between the 0.9 quantile and the median of normal images, in [1, 4].
    """

    familiarity: float = 2.0
    part_names = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.familiarity:
            raise ValueError("familiarity 0 leaves nothing that could judge: take a number in [1, 4]")

    def measured_on(self, images: Tensor) -> Self:
        return self


class FamiliarityAlone(JudgedDetector):
    """Scores images by `Familiarity` alone: by residuals from statistics of normal images."""

    kind = "familiarity"
    in_log_odds = True
    largest_side = SIDE
    settings_class = FamiliarityAloneSettings
    settings: FamiliarityAloneSettings

    def parts(self, learning_rate: float | None) -> list[Part]:
        return []

    def training_losses(self, batch: TrainingBatch, generator: torch.Generator, turn: str) -> dict[str, Tensor]:
        raise AssertionError("no part of familiarity learns by training steps")

    def evidence(self, images: Tensor) -> Examination:
        scored, shown = self.familiarity.scored_and_shown(images, self.settings.familiarity)
        return Examination(self.joined(images, scored), None, self.joined(images, shown))

    def joined(self, own: Tensor, unfamiliar: Tensor) -> Tensor:
        """Return the log odds of familiarity [N,G,G] or [N,H,W] at the size of `own`, which says nothing else here."""
        return F.interpolate(unfamiliar[:, None], own.shape[-2:], mode="bilinear")

    def look(self, images: Tensor, found: Examination) -> Examination:
        return found

    def fit(self, normals: NormalSquares, tell: Callable[[str], None]) -> Fitted:
        def usual(images: Tensor) -> Tensor:
            return torch.full((len(images),), USUAL_LOG_ODDS, device=images.device)

        self.to(normals.device).eval()
        apart = learn_familiarity(self.familiarity, normals, usual, self.settings.anomalies, tell)
        if apart is None:
            raise UserError(
                f"of these normal images nothing can be learnt: a detector of the kind {self.kind} needs "
                f"{FEWEST_TO_FIT} of them that differ, and are not blank"
            )
        return Fitted(self.cross_fitted_scores(normals, apart, lambda images: images).tolist())
