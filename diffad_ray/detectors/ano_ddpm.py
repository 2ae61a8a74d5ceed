"""AnoDDPM: partial diffusion with simplex noise, and the squared error (Wyatt et al., CVPR Workshops 2022)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from diffad_ray.detectors.base import TrainingBatch
from diffad_ray.detectors.difference import logarithm, smoothed, squared_error
from diffad_ray.detectors.diffusion import DiffusionDetector, DiffusionSettings
from diffad_ray.detectors.judged import Examination
from diffad_ray.diffusion.noise import Noise
from diffad_ray.diffusion.reconstruction import ddim

Reconstruction = Literal["iterative", "ddim", "one-step"]
RECONSTRUCTIONS: tuple[Reconstruction, ...] = get_args(Reconstruction)


@dataclass(frozen=True, kw_only=True)
class AnoDDPMSettings(DiffusionSettings):
    """Settings of AnoDDPM.

    Attributes:
        noise: `simplex`, as in the paper, or `gaussian` for comparison.
        t: noise step from which images are denoised, in [0, timesteps).
        reconstruction: `one-step`, `ddim` of `ddim_calls` steps, or the paper's `iterative`, which takes all t + 1
            reverse steps. Each step is one network call.
        ddim_calls: network calls of `ddim`.
        smoothing: sigma of the blur of the squared error, as a share of the side.
    """

    noise: Noise = "simplex"
    t: int = 250
    reconstruction: Reconstruction = "one-step"
    ddim_calls: int = 10
    smoothing: float = 1 / 64

    methods = RECONSTRUCTIONS
    sweepable = (*DiffusionSettings.sweepable, "t", "ddim_calls", "smoothing")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.t < self.timesteps:
            raise ValueError(f"t {self.t} must lie in [0, timesteps {self.timesteps})")
        if self.reconstruction not in RECONSTRUCTIONS:
            raise ValueError(f"reconstruction {self.reconstruction!r} is none of {', '.join(RECONSTRUCTIONS)}")
        if self.ddim_calls < 1:
            raise ValueError(f"ddim_calls {self.ddim_calls} must be 1 or more")
        if not 0 <= self.smoothing <= 0.25:
            raise ValueError(f"smoothing {self.smoothing} must lie in [0, 0.25]")

    @property
    def reconstruction_calls(self) -> int:
        return {"iterative": self.t + 1, "ddim": self.ddim_calls, "one-step": 1}[self.reconstruction]


class AnoDDPM(DiffusionDetector):
    """Noises an image to step t, denoises it, and scores the log squared error of the reconstruction."""

    kind = "anoddpm"
    settings_class = AnoDDPMSettings
    settings: AnoDDPMSettings

    def training_losses(self, batch: TrainingBatch, generator: torch.Generator, turn: str) -> dict[str, Tensor]:
        return {"loss": self.noise_loss(batch.normals, generator)}

    def reconstruct(self, x0: Tensor, member: int = 0) -> Tensor:
        """Reconstruct scaled images [N,3,H,W] without their anomalies, in [-1, 1]."""
        settings = self.settings
        if settings.reconstruction == "iterative":
            return self.iterate(x0, settings.t, member)
        calls = settings.ddim_calls if settings.reconstruction == "ddim" else 1
        return ddim(self.schedule, self.predict_noise, x0, settings.t, self.noise(x0, member, 0), calls)

    def examine(self, x0: Tensor, member: int) -> Examination:
        reconstruction = self.reconstruct(x0, member)
        error = smoothed(squared_error(x0, reconstruction), self.settings.smoothing)
        return Examination(logarithm(error), reconstruction)
