"""DiffusionAD: norm-guided one-step denoising diffusion and a segmentation network (arXiv 2303.08730)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, Self, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from diffad_ray.detectors.base import Detection, Detector, DetectorSettings
from diffad_ray.detectors.losses import focal_loss, mean_over_ranks
from diffad_ray.diffusion.noise import fixed_gaussian
from diffad_ray.diffusion.reconstruction import iterative, norm_guided, one_step
from diffad_ray.diffusion.schedule import NoiseSchedule
from diffad_ray.networks.denoiser import Denoiser
from diffad_ray.networks.presets import NetworkSizes, check_image_size, network_sizes, scaled_size
from diffad_ray.networks.segmenter import Segmenter
from diffad_ray.synthesis.pseudo_anomalies import AnomalySettings, pseudo_anomalies

PUBLISHED_TOP = 50 / 256**2
"Share of an image's pixels, the largest of its map, whose mean is its score: 50 pixels at 256 x 256."

LEARNING_RATE_TIMES_WIDTH = 0.016

SCALED_VARIANCE = 0.25
"Of standardised images, which are divided by twice their standard deviation."

Reconstruction = Literal["norm-guided", "one-step", "iterative", "autoencoder"]
RECONSTRUCTIONS: tuple[Reconstruction, ...] = get_args(Reconstruction)


@dataclass(frozen=True, kw_only=True)
class DiffusionADSettings(DetectorSettings):
    """Settings of DiffusionAD.

    Attributes:
        preset: name of the network sizes (`tiny`, `small`, `base`, `paper`), used where `network` is None.
        network: sizes of both networks; filled from `preset` on construction.
        timesteps, beta_start, beta_end: the noise schedule.
        t_small, t_big: noise steps of scoring.
        t_split: training draws t_small in [0, t_split) and t_big in [t_split, timesteps).
        reconstruction: `norm-guided` is the paper's method; `one-step` and `iterative` go from t_small alone, in one
            network call and in t_small + 1; `autoencoder` uses no noise. For the paper's ablation.
        guidance: w of the norm guidance.
        prediction: `noise` takes the denoiser's output for the noise, as the paper does; `residual` takes it for what
            the best linear estimate of the noise leaves, which is learnt in fewer steps (Karras et al. 2022).
        scaling: `standardised` gives the networks (x - mean) / (2 std) of the normal images, which keeps products of
            low contrast visible under the noise; `unit` gives them [0, 1], as the released code does.
        mean, std: [3] measured on the normal images, in [0, 1]; used by `standardised`.
        top_share: share of the map's pixels, the largest, whose mean is the score.
        noise_seed: seed of the fixed noise of scoring.
        noise_draws: number of noise draws whose maps are averaged, each at the price of a whole detection.
        focal_gamma: exponent of the focal loss; 0 is cross entropy. The paper's 4 leaves most probabilities near 1/2.
        anomalies: how pseudo-anomalies are made in training.
    """

    preset: str = "small"
    network: NetworkSizes | None = None
    timesteps: int = 1000
    beta_start: float = 1e-4
    beta_end: float = 0.02
    t_small: int = 200
    t_big: int = 400
    t_split: int = 300
    reconstruction: Reconstruction = "norm-guided"
    guidance: float = 1.0
    prediction: Literal["noise", "residual"] = "residual"
    scaling: Literal["standardised", "unit"] = "standardised"
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.25, 0.25, 0.25)
    top_share: float = PUBLISHED_TOP
    noise_seed: int = 0
    noise_draws: int = 1
    focal_gamma: float = 0.0
    anomalies: AnomalySettings = field(default_factory=AnomalySettings)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.t_small < self.t_big < self.timesteps:
            raise ValueError(f"t_small {self.t_small} < t_big {self.t_big} < timesteps {self.timesteps} must hold")
        if not 0 < self.t_split < self.timesteps:
            raise ValueError(f"t_split {self.t_split} must lie between 0 and timesteps {self.timesteps}")
        if self.focal_gamma < 0:
            raise ValueError(f"focal_gamma {self.focal_gamma} must be 0 or more")
        if not 0 < self.top_share <= 1:
            raise ValueError(f"top_share {self.top_share} must lie in (0, 1]")
        if self.noise_draws < 1:
            raise ValueError(f"noise_draws {self.noise_draws} must be 1 or more")
        check_image_size(self.image_size)
        if self.reconstruction not in RECONSTRUCTIONS:
            raise ValueError(f"reconstruction {self.reconstruction!r} is none of {', '.join(RECONSTRUCTIONS)}")
        if self.prediction not in ("noise", "residual"):
            raise ValueError(f"prediction {self.prediction!r} is neither 'noise' nor 'residual'")
        if self.scaling not in ("standardised", "unit"):
            raise ValueError(f"scaling {self.scaling!r} is neither 'standardised' nor 'unit'")
        # The sizes are kept with the detector, so that a later change of a preset can't make its weights unreadable.
        # A bundle gives nested settings as plain dictionaries.
        sizes: Any = self.network or network_sizes(self.preset, self.image_size)
        anomalies: Any = self.anomalies
        object.__setattr__(self, "network", NetworkSizes(**sizes) if isinstance(sizes, dict) else sizes)
        object.__setattr__(
            self, "anomalies", AnomalySettings(**anomalies) if isinstance(anomalies, dict) else anomalies
        )
        object.__setattr__(self, "mean", tuple(self.mean))
        object.__setattr__(self, "std", tuple(self.std))

    def measured_on(self, images: Tensor) -> Self:
        """Mean and standard deviation over all pixels, a channel; a constant channel keeps a std of one grey level."""
        if self.scaling == "unit":
            return self
        std, mean = torch.std_mean(images.double(), dim=(0, 2, 3))
        return replace(self, mean=tuple(mean.tolist()), std=tuple(std.clamp(min=1 / 255).tolist()))


class TrainingDraw(NamedTuple):
    """Samples of a training step, see `Samples`, with their noise steps [N] and noise [N,3,H,W]."""

    images: Tensor
    masks: Tensor
    is_normal: Tensor
    t_small: Tensor
    t_big: Tensor
    noise_small: Tensor
    noise_big: Tensor


class DiffusionAD(Detector):
    """Reconstructs an image without its anomaly and segments the difference."""

    kind = "diffusion-ad"
    settings_class = DiffusionADSettings
    settings: DiffusionADSettings
    offset: Tensor
    scale: Tensor

    def __init__(self, settings: DiffusionADSettings):
        super().__init__(settings)
        assert settings.network is not None
        self.schedule = NoiseSchedule(settings.timesteps, settings.beta_start, settings.beta_end)
        self.denoiser = Denoiser(settings.network, settings.image_size)
        self.segmenter = Segmenter(settings.network.segmenter_channels)
        unit = settings.scaling == "unit"
        offset = [0.0] * 3 if unit else settings.mean
        scale = [1.0] * 3 if unit else [2 * std for std in settings.std]
        self.register_buffer("offset", torch.tensor(offset)[:, None, None], persistent=False)
        self.register_buffer("scale", torch.tensor(scale)[:, None, None], persistent=False)
        self._fixed_noise: dict[tuple[int, int, int], tuple[Tensor, Tensor]] = {}

    def parameter_groups(self, learning_rate: float | None) -> list[dict[str, Any]]:
        """One rate for both networks; narrow ones bear a higher one (1.25e-4 at the published width of 128)."""
        assert self.settings.network is not None
        rate = learning_rate or LEARNING_RATE_TIMES_WIDTH / self.settings.network.channels
        return [
            {"params": list(self.denoiser.parameters()), "lr": rate},
            {"params": list(self.segmenter.parameters()), "lr": rate},
        ]

    def predict_noise(self, x_t: Tensor, t: Tensor) -> Tensor:
        """The denoiser's estimate, in float32 whatever precision it ran in: the arithmetic after it cancels much."""
        if self.settings.prediction == "noise":
            with self.autocast(x_t.device):
                return self.denoiser(x_t, t).float()
        estimate = self.schedule.linear_estimate(t, SCALED_VARIANCE)
        with self.autocast(x_t.device):
            residual = self.denoiser(x_t / estimate.deviation, t).float()
        return estimate.slope * x_t + estimate.error * residual

    def reconstruct(self, x0: Tensor, noise_small: Tensor, noise_big: Tensor) -> Tensor:
        """Scaled images [N,3,H,W] without their anomalies, by the method of the settings, in [-1, 1]."""
        settings = self.settings
        t = torch.full((len(x0),), settings.t_small, device=x0.device)
        if settings.reconstruction == "autoencoder":
            return self.autoencode(x0)
        if settings.reconstruction == "one-step":
            return one_step(self.schedule, self.predict_noise, x0, t, noise_small)
        if settings.reconstruction == "iterative":
            shape = x0.shape[-3:]

            def step_noise(step: int) -> Tensor:
                return fixed_gaussian(settings.noise_seed, step + 2, *shape).to(x0.device)

            return iterative(self.schedule, self.predict_noise, x0, settings.t_small, noise_small, step_noise)
        t_big = torch.full_like(t, settings.t_big)
        return norm_guided(
            self.schedule, self.predict_noise, x0, t, t_big, noise_small, noise_big, settings.guidance
        ).x0

    def autoencode(self, x0: Tensor) -> Tensor:
        """The denoiser as a plain autoencoder, given images [N,3,H,W] without noise; in [-1, 1]."""
        return self.predict_noise(x0, torch.zeros(len(x0), dtype=torch.long, device=x0.device)).clamp(-1, 1)

    def segment(self, x0: Tensor, reconstruction: Tensor) -> Tensor:
        """Anomaly logits [N,1,H,W] from scaled image and reconstruction, in float32."""
        with self.autocast(x0.device):
            return self.segmenter(torch.cat([x0, reconstruction], dim=1)).float()

    def image_score(self, anomaly_map: Tensor) -> Tensor:
        """Mean of the largest pixels of [N,H,W]: `top_share` of the area, so that sizes compare; [N]."""
        pixels = anomaly_map.flatten(1)
        count = max(1, round(self.settings.top_share * pixels.shape[1]))
        return pixels.topk(count, dim=1).values.mean(dim=1)

    def training_losses(
        self,
        normals: Tensor,
        textures: Tensor | None,
        generator: torch.Generator,
        foregrounds: Tensor | None = None,
    ) -> dict[str, Tensor]:
        return self.losses(self.draw(normals, textures, generator, foregrounds))

    def draw(
        self, normals: Tensor, textures: Tensor | None, generator: torch.Generator, foregrounds: Tensor | None = None
    ) -> TrainingDraw:
        """All that is random in a training step."""
        made = pseudo_anomalies(normals, textures, generator, self.settings.anomalies, foregrounds)
        n, device, split = len(normals), normals.device, self.settings.t_split
        return TrainingDraw(
            *made,
            t_small=torch.randint(0, split, (n,), generator=generator, device=device),
            t_big=torch.randint(split, self.settings.timesteps, (n,), generator=generator, device=device),
            noise_small=torch.randn(normals.shape, generator=generator, device=device),
            noise_big=torch.randn(normals.shape, generator=generator, device=device),
        )

    def losses(self, draw: TrainingDraw) -> dict[str, Tensor]:
        """Noise of both scales on normal samples, focal and smooth L1 on the mask (the paper's Eq. 12).

        An autoencoder has its squared error in place of the noise's.
        """
        x0 = (draw.images - self.offset) / self.scale
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
            error = (guided.eps_small - draw.noise_small).square() + (guided.eps_big - draw.noise_big).square()
        noise = mean_over_ranks(error.mean(dim=(1, 2, 3)), draw.is_normal)

        logits = self.segment(x0, reconstruction)
        focal = focal_loss(logits, draw.masks, self.settings.focal_gamma)
        smooth_l1 = F.smooth_l1_loss(logits.sigmoid(), draw.masks)
        return {"loss": noise + 5 * focal + smooth_l1, "noise": noise, "focal": focal, "smooth_l1": smooth_l1}

    def _noise(self, height: int, width: int, device: torch.device, member: int) -> tuple[Tensor, Tensor]:
        key = (height, width, member)
        if key not in self._fixed_noise or self._fixed_noise[key][0].device != device:
            seed = self.settings.noise_seed + member
            small, big = (fixed_gaussian(seed, draw, 3, height, width) for draw in (0, 1))
            self._fixed_noise[key] = small.to(device), big.to(device)
        return self._fixed_noise[key]

    @torch.inference_mode()
    def detect(self, images: Tensor) -> Detection:
        x0 = (images - self.offset) / self.scale
        height, width = images.shape[-2:]
        maps, reconstructions = [], []
        for scale in self.settings.scales:
            size = scaled_size(height, width, scale)
            seen = x0 if size == (height, width) else F.interpolate(x0, size, mode="area")
            for member in range(self.settings.noise_draws):
                x0_hat = self.reconstruct(seen, *self._noise(size[0], size[1], images.device, member))
                found = self.segment(seen, x0_hat).sigmoid()
                maps.append(F.interpolate(found, (height, width), mode="bilinear") if seen is not x0 else found)
                if scale == self.settings.scales[0]:
                    reconstructions.append(x0_hat)
        anomaly_map = torch.stack(maps).mean(dim=0).squeeze(1)
        reconstruction = torch.stack(reconstructions).mean(dim=0) * self.scale + self.offset
        if reconstruction.shape != images.shape:
            reconstruction = F.interpolate(reconstruction, (height, width), mode="bilinear")
        return Detection(self.image_score(anomaly_map), anomaly_map, reconstruction.clamp(0, 1))
