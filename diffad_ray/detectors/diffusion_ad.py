"""DiffusionAD: norm-guided one-step denoising diffusion and a segmentation network (arXiv 2303.08730)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from diffad_ray.detectors.base import TrainingBatch
from diffad_ray.detectors.diffusion import DiffusionDetector, DiffusionSettings
from diffad_ray.detectors.judged import Examination
from diffad_ray.diffusion.noise import draw_noise
from diffad_ray.diffusion.reconstruction import norm_guided, one_step
from diffad_ray.networks.losses import focal_loss, mean_over_ranks
from diffad_ray.networks.segmenter import Segmenter
from diffad_ray.synthesis.pseudo_anomalies import pseudo_anomalies

Reconstruction = Literal["norm-guided", "one-step", "iterative", "autoencoder"]
RECONSTRUCTIONS: tuple[Reconstruction, ...] = get_args(Reconstruction)


@dataclass(frozen=True, kw_only=True)
class DiffusionADSettings(DiffusionSettings):
    """Settings of DiffusionAD.

    Attributes:
        t_small, t_big: noise steps of scoring.
        t_split: training draws t_small in [0, t_split) and t_big in [t_split, timesteps).
        reconstruction: `norm-guided` is the paper's method. The others are for the paper's ablation: `one-step` and
            `iterative` start from t_small with 1 and t_small + 1 network calls; `autoencoder` uses no noise.
        guidance: w of the norm guidance.
        focal_gamma: exponent of the focal loss; 0 is cross entropy. The paper's 4 leaves most probabilities near 1/2.
        score_unit: `log odds`, or `probability`, as published and for imported checkpoints. Probabilities saturate, so
            that they do not rank images of which the segmenter is certain; they exclude familiarity.
    """

    t_small: int = 200
    t_big: int = 400
    t_split: int = 300
    reconstruction: Reconstruction = "norm-guided"
    guidance: float = 1.0
    focal_gamma: float = 0.0
    familiarity: float = 2.0
    score_unit: Literal["log odds", "probability"] = "log odds"

    methods = ("iterative", "one-step", "norm-guided")
    sweepable = (*DiffusionSettings.sweepable, "t_small", "t_big", "guidance")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.t_small < self.t_big < self.timesteps:
            raise ValueError(f"t_small {self.t_small} < t_big {self.t_big} < timesteps {self.timesteps} must hold")
        if not 0 < self.t_split < self.timesteps:
            raise ValueError(f"t_split {self.t_split} must lie between 0 and timesteps {self.timesteps}")
        if self.focal_gamma < 0:
            raise ValueError(f"focal_gamma {self.focal_gamma} must be 0 or more")
        if self.reconstruction not in RECONSTRUCTIONS:
            raise ValueError(f"reconstruction {self.reconstruction!r} is none of {', '.join(RECONSTRUCTIONS)}")
        if self.score_unit not in ("log odds", "probability"):
            raise ValueError(f"score_unit {self.score_unit!r} is neither 'log odds' nor 'probability'")
        if self.score_unit == "probability" and self.familiarity:
            raise ValueError("familiarity judges in log odds: set it to 0 where score_unit is 'probability'")

    @property
    def makes_pseudo_anomalies(self) -> bool:
        return True

    @property
    def reconstruction_calls(self) -> int:
        # Norm guidance evaluates both steps in one call.
        return self.t_small + 1 if self.reconstruction == "iterative" else 1


class TrainingDraw(NamedTuple):
    """The samples of a training step (see `Samples`), their noise steps [N] and noise [N,3,H,W]."""

    images: Tensor
    masks: Tensor
    is_normal: Tensor
    t_small: Tensor
    t_big: Tensor
    noise_small: Tensor
    noise_big: Tensor


class DiffusionAD(DiffusionDetector):
    """Reconstructs an image without its anomaly, and segments the pair of both images."""

    kind = "diffusion-ad"
    in_log_odds = True
    settings_class = DiffusionADSettings
    settings: DiffusionADSettings

    def __init__(self, settings: DiffusionADSettings):
        super().__init__(settings)
        assert settings.network is not None
        self.segmenter = Segmenter(settings.network.segmenter_channels)

    def reconstruct(self, x0: Tensor, member: int = 0) -> Tensor:
        """Reconstruct scaled images [N,3,H,W] by the method in the settings, in [-1, 1]."""
        settings = self.settings
        if settings.reconstruction == "autoencoder":
            return self.autoencode(x0)
        if settings.reconstruction == "iterative":
            return self.iterate(x0, settings.t_small, member)
        noise_small = self.noise(x0, member, 0)
        t = torch.full((len(x0),), settings.t_small, device=x0.device)
        if settings.reconstruction == "one-step":
            return one_step(self.schedule, self.predict_noise, x0, t, noise_small)
        t_big, noise_big = torch.full_like(t, settings.t_big), self.noise(x0, member, 1)
        return norm_guided(
            self.schedule, self.predict_noise, x0, t, t_big, noise_small, noise_big, settings.guidance
        ).x0

    def autoencode(self, x0: Tensor) -> Tensor:
        """Apply the denoiser as an autoencoder, without noise, to scaled images [N,3,H,W]; returns [-1, 1]."""
        with self.autocast(x0.device):
            return self.denoiser(x0, torch.zeros(len(x0), dtype=torch.long, device=x0.device)).float().clamp(-1, 1)

    def segment(self, x0: Tensor, reconstruction: Tensor) -> Tensor:
        """Return anomaly logits [N,1,H,W] of scaled images and their reconstructions, in float32."""
        with self.autocast(x0.device):
            return self.segmenter(torch.cat([x0, reconstruction], dim=1)).float()

    def examine(self, x0: Tensor, member: int) -> Examination:
        reconstruction = self.reconstruct(x0, member)
        logits = self.segment(x0, reconstruction)
        return Examination(logits.sigmoid() if self.settings.score_unit == "probability" else logits, reconstruction)

    def training_losses(self, batch: TrainingBatch, generator: torch.Generator, turn: str) -> dict[str, Tensor]:
        return self.losses(self.draw(batch, generator))

    def draw(self, batch: TrainingBatch, generator: torch.Generator) -> TrainingDraw:
        """Draw everything random in a training step."""
        settings, (n, _, height, width) = self.settings, batch.normals.shape
        made = pseudo_anomalies(batch.normals, batch.textures, generator, settings.anomalies, batch.foregrounds)
        device, split = generator.device, settings.t_split
        return TrainingDraw(
            *made,
            t_small=torch.randint(0, split, (n,), generator=generator, device=device),
            t_big=torch.randint(split, settings.timesteps, (n,), generator=generator, device=device),
            noise_small=draw_noise(settings.noise, (n, 3, height, width), generator),
            noise_big=draw_noise(settings.noise, (n, 3, height, width), generator),
        )

    def losses(self, draw: TrainingDraw) -> dict[str, Tensor]:
        """Return the losses of the paper's Eq. 12: noise errors of normal samples, focal and smooth L1 of the masks.

        For an autoencoder, the squared error of the reconstruction replaces the noise errors.
        """
        x0 = self.scaled(draw.images)
        if self.settings.reconstruction == "autoencoder":
            reconstruction = self.autoencode(x0)
            error = (reconstruction - x0).square()
        else:
            guided = norm_guided(
                self.schedule,
                self.predict_noise,
                x0,
                draw.t_small,
                draw.t_big,
                draw.noise_small,
                draw.noise_big,
                self.settings.guidance if self.settings.reconstruction == "norm-guided" else 0.0,
            )
            reconstruction = guided.x0
            error = self.noise_error(guided.eps_small, draw.noise_small, draw.t_small)
            error = error + self.noise_error(guided.eps_big, draw.noise_big, draw.t_big)
        noise = mean_over_ranks(error.mean(dim=(1, 2, 3)), draw.is_normal)

        logits = self.segment(x0, reconstruction)
        focal = focal_loss(logits, draw.masks, self.settings.focal_gamma)
        smooth_l1 = F.smooth_l1_loss(logits.sigmoid(), draw.masks)
        return {"loss": noise + 5 * focal + smooth_l1, "noise": noise, "focal": focal, "smooth_l1": smooth_l1}
