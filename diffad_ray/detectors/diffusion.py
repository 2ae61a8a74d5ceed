"""The common base of the detectors that noise an image, denoise it, and compare it with the result."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from diffad_ray.detectors.base import NETWORKS, Part
from diffad_ray.detectors.judged import Examination, JudgedDetector, JudgedSettings
from diffad_ray.diffusion.noise import Noise, draw_noise, fixed_noise
from diffad_ray.diffusion.reconstruction import iterative
from diffad_ray.diffusion.schedule import NoiseSchedule
from diffad_ray.networks.denoiser import Denoiser
from diffad_ray.networks.presets import NetworkSizes, check_image_size, network_sizes, scaled_size

LEARNING_RATE_TIMES_WIDTH = 0.016

MOST_SNR = 5.0
"Cap of the signal-to-noise weight of an image prediction's loss (Min-SNR)."

SCALED_VARIANCE = 0.25
"Variance of standardised images, which are divided by twice their standard deviation."


@dataclass(frozen=True, kw_only=True)
class DiffusionSettings(JudgedSettings):
    """Settings of all diffusion detectors.

    Attributes:
        preset: name of the network sizes (`tiny`, `small`, `base`, `paper`), used where `network` is None.
        network: sizes of the networks; filled from `preset` on construction.
        timesteps, beta_start, beta_end: the noise schedule.
        noise: `gaussian`, or `simplex`, which is spatially smooth.
        prediction: the denoiser's target. `noise` is the papers'. `residual` is the error of the best linear estimate
            of the noise, which is learnt in fewer steps (Karras et al. 2022). `image` is the image itself, which narrow
            networks can output though they can't pass all of the noise on.
        scaling: `standardised` inputs are (x - mean) / (2 std), so that noise does not hide products of low contrast;
            `unit` inputs are in [0, 1], as in DiffusionAD's released code.
        mean, std: [3] statistics of the normal images, in [0, 1]; used by `standardised`.
        noise_seed: seed of the fixed noise of scoring.
        scales: input sizes as shares of `image_size`, in (0, 1]. A training step draws one; scoring averages the maps
            of all. Small scales find large smooth defects. The reconstruction is that of the first scale.
        noise_draws: number of noise draws whose maps are averaged; each costs one full detection.
    """

    preset: str = "small"
    network: NetworkSizes | None = None
    timesteps: int = 1000
    beta_start: float = 1e-4
    beta_end: float = 0.02
    noise: Noise = "gaussian"
    prediction: Literal["noise", "residual", "image"] = "residual"
    scaling: Literal["standardised", "unit"] = "standardised"
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.25, 0.25, 0.25)
    scales: tuple[float, ...] = (1.0,)
    noise_seed: int = 0
    noise_draws: int = 1

    methods: ClassVar[tuple[str, ...]] = ()
    "Values of `reconstruction` for which the same trained weights can be used."
    sweepable: ClassVar[tuple[str, ...]] = ("noise_seed", "noise_draws", "top_share", "familiarity")
    "Settings that may change without a new training."

    def __post_init__(self) -> None:
        super().__post_init__()
        check_image_size(self.image_size)
        object.__setattr__(self, "scales", tuple(self.scales))
        if not self.scales or not all(0 < scale <= 1 for scale in self.scales):
            raise ValueError(f"scales {self.scales} must be numbers in (0, 1], one at least")
        NoiseSchedule(self.timesteps, self.beta_start, self.beta_end)  # raises ValueError if invalid
        if self.noise_draws < 1:
            raise ValueError(f"noise_draws {self.noise_draws} must be 1 or more")
        if self.noise not in ("gaussian", "simplex"):
            raise ValueError(f"noise {self.noise!r} is neither 'gaussian' nor 'simplex'")
        if self.prediction not in ("noise", "residual", "image"):
            raise ValueError(f"prediction {self.prediction!r} is none of 'noise', 'residual', 'image'")
        if self.scaling not in ("standardised", "unit"):
            raise ValueError(f"scaling {self.scaling!r} is neither 'standardised' nor 'unit'")
        # The sizes are saved with the detector, so that its weights stay readable if a preset changes later.
        # Settings loaded from a bundle contain nested ones as plain dictionaries.
        sizes: Any = self.network or network_sizes(self.preset, self.image_size)
        object.__setattr__(self, "network", NetworkSizes(**sizes) if isinstance(sizes, dict) else sizes)
        object.__setattr__(self, "mean", tuple(self.mean))
        object.__setattr__(self, "std", tuple(self.std))

    @property
    @abstractmethod
    def reconstruction_calls(self) -> int:
        """Calls of the denoiser in one reconstruction."""

    @property
    def network_calls(self) -> int:
        return self.reconstruction_calls * len(self.scales) * self.noise_draws

    @property
    def training_scales(self) -> tuple[float, ...]:
        return self.scales

    def measured_on(self, images: Tensor) -> Self:
        """Fill in each channel's mean and standard deviation over all pixels; the latter is at least 1/255."""
        if self.scaling == "unit":
            return self
        std, mean = torch.std_mean(images.double(), dim=(0, 2, 3))
        return replace(self, mean=tuple(mean.tolist()), std=tuple(std.clamp(min=1 / 255).tolist()))


class DiffusionDetector(JudgedDetector):
    """A detector with a denoiser, which averages its evidence over scales and noise draws.

    "Scaled" images are the networks' inputs, see `DiffusionSettings.scaling`.
    """

    settings: DiffusionSettings
    offset: Tensor
    scale: Tensor

    def __init__(self, settings: DiffusionSettings):
        super().__init__(settings)
        assert settings.network is not None
        self.schedule = NoiseSchedule(settings.timesteps, settings.beta_start, settings.beta_end)
        self.denoiser = Denoiser(settings.network, settings.image_size)
        unit = settings.scaling == "unit"
        offset = [0.0] * 3 if unit else settings.mean
        scale = [1.0] * 3 if unit else [2 * std for std in settings.std]
        self.register_buffer("offset", torch.tensor(offset)[:, None, None], persistent=False)
        self.register_buffer("scale", torch.tensor(scale)[:, None, None], persistent=False)
        self._fixed_noise: dict[tuple[int, ...], Tensor] = {}

    def parts(self, learning_rate: float | None) -> list[Part]:
        """Return one part with all networks but familiarity, which `fit` trains."""
        learns = [p for name, p in self.named_parameters() if not name.startswith("familiarity.")]
        return [Part(NETWORKS, learns, learning_rate or self.suitable_rate)]

    @property
    def suitable_rate(self) -> float:
        """A learning rate inversely proportional to the denoiser's width: 1.25e-4 at the published width of 128."""
        assert self.settings.network is not None
        return LEARNING_RATE_TIMES_WIDTH / self.settings.network.channels

    @abstractmethod
    def examine(self, x0: Tensor, member: int) -> Examination:
        """Compute evidence and reconstruction of scaled images [N,3,H,W] with the noise of ensemble member `member`."""

    def scaled(self, images: Tensor) -> Tensor:
        """Scale images [N,3,H,W] in [0, 1] for the networks."""
        return (images - self.offset) / self.scale

    def predict_noise(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Return the estimated noise in x_t [N,3,H,W] at t [N], in float32, since later differences cancel digits."""
        if self.settings.prediction == "noise":
            with self.autocast(x_t.device):
                return self.denoiser(x_t, t).float()
        if self.settings.prediction == "image":
            with self.autocast(x_t.device):
                image = self.denoiser(x_t, t).float()
            return self.schedule.noise_between(x_t, t, image)
        estimate = self.schedule.linear_estimate(t, SCALED_VARIANCE)
        with self.autocast(x_t.device):
            residual = self.denoiser(x_t / estimate.deviation, t).float()
        return estimate.slope * x_t + estimate.error * residual

    def noise_loss(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Return the mean squared error of the estimated noise at uniformly drawn steps (DDPM Eq. 14)."""
        n, _, height, width = images.shape
        t = torch.randint(0, self.settings.timesteps, (n,), generator=generator, device=generator.device)
        noise = draw_noise(self.settings.noise, (n, 3, height, width), generator)
        x_t = self.schedule.add_noise(self.scaled(images), t, noise)
        return self.noise_error(self.predict_noise(x_t, t), noise, t).mean()

    def noise_error(self, estimate: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return the squared errors [N,3,H,W] of noise estimates at t [N].

        At small t, small errors of a predicted image become large errors of the noise. For `image`, the weight
        min(SNR, 5) / SNR limits those (Min-SNR, Hang et al. 2023).
        """
        error = (estimate - noise).square()
        if self.settings.prediction != "image":
            return error
        return error * (MOST_SNR / self.schedule.signal_to_noise(t)).clamp(max=1)

    def noise(self, like: Tensor, member: int, draw: int) -> Tensor:
        """Return the fixed noise [1,3,H,W] of scoring for `draw` of ensemble member `member`, sized as images `like`.

        Draws 0 and 1 are for the forward process. Later ones are for the hundreds of reverse steps, and are cached in
        half precision.
        """
        height, width = map(int, like.shape[-2:])
        key = (height, width, member, draw)
        if key not in self._fixed_noise or self._fixed_noise[key].device != like.device:
            seed = self.settings.noise_seed + member
            drawn = fixed_noise(self.settings.noise, seed, draw, 3, height, width).to(like.device)
            self._fixed_noise[key] = drawn.half() if draw > 1 else drawn
        return self._fixed_noise[key].to(like.dtype)

    def iterate(self, x0: Tensor, t: int, member: int) -> Tensor:
        """Reconstruct scaled images by all reverse steps from t, with a member's noise, see `iterative`."""
        return iterative(
            self.schedule,
            self.predict_noise,
            x0,
            t,
            self.noise(x0, member, 0),
            lambda step: self.noise(x0, member, step + 2),
        )

    def evidence(self, images: Tensor) -> Examination:
        """Average the evidence of images [N,3,H,W] in [0, 1] over all scales and noise draws.

        The reconstruction, in [0, 1], is that of the first scale, averaged over noise draws.
        """
        x0 = self.scaled(images)
        # A traced size is a tensor, which rounds to nothing.
        height, width = map(int, images.shape[-2:])
        maps, first = [], []
        for scale in self.settings.scales:
            size = scaled_size(height, width, scale)
            seen = x0 if size == (height, width) else F.interpolate(x0, size, mode="area")
            for member in range(self.settings.noise_draws):
                found = self.examine(seen, member)
                maps.append(_resized(found.anomaly_map, height, width))
                if scale == self.settings.scales[0] and found.reconstruction is not None:
                    first.append(found.reconstruction)
        reconstruction = torch.stack(first).mean(dim=0) * self.scale + self.offset
        return Examination(torch.stack(maps).mean(dim=0), _resized(reconstruction, height, width).clamp(0, 1))


def _resized(images: Tensor, height: int, width: int) -> Tensor:
    """Resize images [N,C,h,w] to [N,C,height,width]; return them unchanged if they have this size."""
    if images.shape[-2:] == (height, width):
        return images
    return F.interpolate(images, (height, width), mode="bilinear")
