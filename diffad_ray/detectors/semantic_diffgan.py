"""SemanticDiffGAN: a GAN learns the noise under which a frozen DDPM denoises a defect away (weakly supervised).

The method is that of the report by Chen, Tseng, Huang and Yang ("A Fusion of Diffusion and GAN"). First the denoiser
learns from normal images. Then it is frozen, and a noise generator and a critic learn in turns from normal and
defective images with image-level labels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from diffad_ray.detectors.base import Part, TrainingBatch
from diffad_ray.detectors.difference import absolute_error, logarithm, smoothed
from diffad_ray.detectors.diffusion import DiffusionDetector, DiffusionSettings
from diffad_ray.detectors.judged import Examination
from diffad_ray.diffusion.noise import draw_noise
from diffad_ray.diffusion.reconstruction import ddim
from diffad_ray.networks.critic import Critic, gradient_penalty
from diffad_ray.networks.denoiser import Denoiser

NOISE_LIMIT = 3.0
"The generator shifts each value of the drawn noise by less than this many standard deviations."
GAN_BETAS = (0.5, 0.9)
Reconstruction = Literal["learned-noise", "drawn-noise"]
RECONSTRUCTIONS: tuple[Reconstruction, ...] = get_args(Reconstruction)


@dataclass(frozen=True, kw_only=True)
class SemanticDiffGANSettings(DiffusionSettings):
    """Settings of SemanticDiffGAN.

    Attributes:
        timesteps: T of the report.
        t: noise step from which images are denoised.
        calls: network calls of the reconstruction: 1 is one-step, more are DDIM steps. The generator's gradient passes
            through all of them.
        reconstruction: `learned-noise` is the report's method; `drawn-noise` omits the generator.
        denoiser_share: share of the training's steps in which the denoiser learns, before the GAN.
        critic_steps: steps of the critic per step of the generator.
        gan_learning_rate: peak rate of generator and critic.
        penalty: weight of the critic's gradient penalty.
        adversarial, similarity, identity: weights of the generator's losses: the negative critic value of noised
            defective images, the squared difference of denoised defective and denoised normal images, and that of
            denoised and original normal images.
        smoothing: sigma of the blur of the absolute error, as a share of the side.
    """

    timesteps: int = 300
    t: int = 150
    calls: int = 1
    reconstruction: Reconstruction = "learned-noise"
    denoiser_share: float = 0.6
    critic_steps: int = 5
    gan_learning_rate: float = 5e-4
    penalty: float = 10.0
    adversarial: float = 0.1
    similarity: float = 1.0
    identity: float = 10.0
    smoothing: float = 1 / 64

    methods = RECONSTRUCTIONS
    part_names = ("denoiser", "critic", "generator")
    sweepable = (*DiffusionSettings.sweepable, "calls", "smoothing")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.view == "tiles":
            raise ValueError("view 'tiles' needs labels of tiles, and there are labels of whole images alone: leave it")
        if not 0 <= self.t < self.timesteps:
            raise ValueError(f"t {self.t} must lie in [0, timesteps {self.timesteps})")
        if self.reconstruction not in RECONSTRUCTIONS:
            raise ValueError(f"reconstruction {self.reconstruction!r} is none of {', '.join(RECONSTRUCTIONS)}")
        if not 0 < self.denoiser_share < 1:
            raise ValueError(f"denoiser_share {self.denoiser_share} must lie between 0 and 1")
        for name in ("calls", "critic_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} must be 1 or more")
        for name in ("penalty", "adversarial", "similarity", "identity"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} {getattr(self, name)} must be 0 or more")
        if not 0 < self.gan_learning_rate < math.inf:
            raise ValueError(f"gan_learning_rate {self.gan_learning_rate} must be above 0")
        if not 0 <= self.smoothing <= 0.25:
            raise ValueError(f"smoothing {self.smoothing} must lie in [0, 0.25]")

    @property
    def reconstruction_calls(self) -> int:
        return self.calls

    def turn(self, step: int, steps: int) -> str:
        first = round(self.denoiser_share * steps)
        if step < first:
            return "denoiser"
        return "generator" if (step - first) % (self.critic_steps + 1) == self.critic_steps else "critic"


class SemanticDiffGAN(DiffusionDetector):
    """Noises an image with learned noise, denoises it, and scores the log absolute error of the reconstruction."""

    kind = "semantic-diffgan"
    learns_from = frozenset({"defective"})
    settings_class = SemanticDiffGANSettings
    settings: SemanticDiffGANSettings

    def __init__(self, settings: SemanticDiffGANSettings):
        super().__init__(settings)
        assert settings.network is not None
        self.generator = Denoiser(settings.network, settings.image_size, in_channels=6)
        self.critic = Critic(settings.network.channels)

    def parts(self, learning_rate: float | None) -> list[Part]:
        share, rate = self.settings.denoiser_share, self.settings.gan_learning_rate
        gan = (rate, (share, 1.0), GAN_BETAS, "detector.gan_learning_rate")
        return [
            Part("denoiser", list(self.denoiser.parameters()), learning_rate or self.suitable_rate, (0.0, share)),
            Part("critic", list(self.critic.parameters()), *gan),
            Part("generator", list(self.generator.parameters()), *gan),
        ]

    def learned_noise(self, x0: Tensor, drawn: Tensor) -> Tensor:
        """Return noise [N,3,H,W] for scaled images x0: `drawn` [N,3,H,W] plus the generator's bounded shift."""
        t = torch.full((len(x0),), self.settings.t, device=x0.device)
        with self.autocast(x0.device):
            moved = self.generator(torch.cat([x0, drawn], dim=1), t).float()
        return drawn + NOISE_LIMIT * torch.tanh(moved / NOISE_LIMIT)

    def noised(self, x0: Tensor, noise: Tensor) -> Tensor:
        """Return scaled images noised to step t of the settings."""
        return self.schedule.add_noise(x0, torch.full((len(x0),), self.settings.t, device=x0.device), noise)

    def denoised(self, x0: Tensor, noise: Tensor) -> Tensor:
        """Noise and denoise scaled images x0, in [-1, 1]; differentiable in x0 and `noise`."""
        return ddim(self.schedule, self.predict_noise, x0, self.settings.t, noise, self.settings.calls)

    def training_losses(self, batch: TrainingBatch, generator: torch.Generator, turn: str) -> dict[str, Tensor]:
        if turn == "denoiser":
            return {"loss": self.noise_loss(batch.normals, generator)}
        assert batch.defective is not None
        normal, defective = self.scaled(batch.normals), self.scaled(batch.defective)
        n, _, height, width = normal.shape
        z_normal, z_defective = (draw_noise(self.settings.noise, (n, 3, height, width), generator) for _ in range(2))
        if turn == "critic":
            return self._critic_losses(normal, defective, z_normal, z_defective, generator)
        return self._generator_losses(normal, defective, z_normal, z_defective)

    def _critic_losses(
        self, normal: Tensor, defective: Tensor, z_normal: Tensor, z_defective: Tensor, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Return the report's Eq. 9: critic values of noised defective less noised normal images, plus the penalty."""
        real = self.noised(normal, z_normal)
        with torch.no_grad():
            made = self.noised(defective, self.learned_noise(defective, z_defective))
        gap = self.critic(made).mean() - self.critic(real).mean()
        penalty = gradient_penalty(self.critic, real, made, generator)
        return {"loss": gap + self.settings.penalty * penalty, "distance": -gap, "penalty": penalty}

    def _generator_losses(
        self, normal: Tensor, defective: Tensor, z_normal: Tensor, z_defective: Tensor
    ) -> dict[str, Tensor]:
        settings = self.settings
        n = len(normal)
        images = torch.cat([defective, normal])
        noise = self.learned_noise(images, torch.cat([z_defective, z_normal]))
        adversarial = -self.critic(self.noised(defective, noise[:n])).mean()
        from_defective, from_normal = self.denoised(images, noise).chunk(2)
        similarity = (from_defective - from_normal.detach()).square().mean()
        identity = (from_normal - normal.clamp(-1, 1)).square().mean()
        loss = settings.adversarial * adversarial + settings.similarity * similarity + settings.identity * identity
        return {"loss": loss, "adversarial": adversarial, "similarity": similarity, "identity": identity}

    def examine(self, x0: Tensor, member: int) -> Examination:
        noise = self.noise(x0, member, 0).expand_as(x0)
        if self.settings.reconstruction == "learned-noise":
            noise = self.learned_noise(x0, noise)
        reconstruction = self.denoised(x0, noise)
        error = smoothed(absolute_error(x0, reconstruction), self.settings.smoothing)
        return Examination(logarithm(error), reconstruction)
