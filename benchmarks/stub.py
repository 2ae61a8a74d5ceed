"""A detector that costs next to nothing, so that benchmarks measure the pipeline around it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from diffad_ray.bundles.bundle import Bundle, save_bundle
from diffad_ray.bundles.calibration import Calibration
from diffad_ray.cluster import connect
from diffad_ray.detectors.base import Detection, DetectorSettings, Scorer
from diffad_ray.detectors.kinds import KINDS
from diffad_ray.scoring import stages
from diffad_ray.scoring.detect import DetectShard


@dataclass(frozen=True, kw_only=True)
class StubSettings(DetectorSettings):
    """Nothing but what every detector has."""

    def measured_on(self, images: Tensor) -> Self:
        return self


class Stub(Scorer):
    """The score is the mean of the red channel's first row."""

    kind = "stub"
    settings_class = StubSettings

    def __init__(self, settings: StubSettings):
        super().__init__(settings)
        self.weight = torch.nn.Parameter(torch.ones(1))

    @torch.inference_mode()
    def detect(self, images: Tensor) -> Detection:
        return Detection(images[:, 0, 0].mean(dim=1), images[:, 0], images)


def register() -> None:
    """Make the stub known to this process."""
    KINDS[Stub.kind] = f"{Stub.__module__}:Stub"


class DetectWithStub(DetectShard):
    """Stage 2 on actors that know the stub. No other worker has to import it, and torch with it."""

    def __init__(self, *arguments: Any):
        register()
        super().__init__(*arguments)


def connect_with_stub() -> None:
    """Start a local Ray cluster, and let the actors of scoring know the stub."""
    register()
    here = str(Path(__file__).parent)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))
    stages.DetectShard = DetectWithStub  # type: ignore[misc]
    connect()


def make_stub(location: str, image_size: int, defect_share: float = 0.01) -> None:
    """A bundle whose threshold lets about `defect_share` of uniform scores in [0, 1] pass as anomalous."""
    register()
    scores = np.linspace(0, 1, 1000)
    calibration = Calibration.from_scores(scores, defect_share)
    save_bundle(Bundle(Stub(StubSettings(image_size=image_size)), calibration), location)
