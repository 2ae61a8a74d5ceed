"""The forward process: coefficients of signal and noise at time step t.

Shapes: N images, C channels, H x W pixels, T time steps.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn


class LinearEstimate(NamedTuple):
    """The linear estimate `slope` x_t of the noise in x_t; all [N,1,1,1]."""

    slope: Tensor
    error: Tensor
    "root mean square of the estimate's error"
    deviation: Tensor
    "standard deviation of x_t"


class NoiseSchedule(nn.Module):
    """Linear beta schedule of DDPM (Ho et al. 2020), with the lookups for the reconstructions.

    The module has no parameters; its tables move with `.to(device)` and are not in `state_dict`.

    Args:
        timesteps: T, at least 2.
        beta_start, beta_end: noise variance added at the first and the last step, each in (0, 1).
    """

    alphas_cumprod: Tensor
    sqrt_alphas_cumprod: Tensor
    sqrt_one_minus_alphas_cumprod: Tensor
    betas: Tensor

    def __init__(self, timesteps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02):
        super().__init__()
        if timesteps < 2 or not 0 < beta_start <= beta_end < 1:
            raise ValueError(
                "a noise schedule needs timesteps >= 2 and 0 < beta_start <= beta_end < 1, "
                f"got {timesteps}, {beta_start}, {beta_end}"
            )
        betas = torch.linspace(beta_start, beta_end, timesteps, dtype=torch.float64)
        alphas_cumprod = torch.cumprod(1.0 - betas, dim=0)
        self.timesteps = timesteps
        # The products are computed in float64 and applied in float32.
        for name, table in {
            "betas": betas,
            "alphas_cumprod": alphas_cumprod,
            "sqrt_alphas_cumprod": alphas_cumprod.sqrt(),
            "sqrt_one_minus_alphas_cumprod": (1.0 - alphas_cumprod).sqrt(),
        }.items():
            self.register_buffer(name, table.float(), persistent=False)

    def signal(self, t: Tensor) -> Tensor:
        """Return sqrt(alphas_cumprod[t]) as [N,1,1,1], for t [N] int64 in [0, T)."""
        return self.sqrt_alphas_cumprod[t][:, None, None, None]

    def noise(self, t: Tensor) -> Tensor:
        """Return sqrt(1 - alphas_cumprod[t]) as [N,1,1,1], for t [N] int64 in [0, T)."""
        return self.sqrt_one_minus_alphas_cumprod[t][:, None, None, None]

    def add_noise(self, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Diffuse x0 [N,C,H,W] to step t [N] (DDPM Eq. 4): sqrt(a) x0 + sqrt(1-a) noise."""
        return self.signal(t) * x0 + self.noise(t) * noise

    def predict_x0(self, x_t: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """Invert `add_noise` for an estimate eps of the noise: (x_t - sqrt(1-a) eps) / sqrt(a), unclamped."""
        return (x_t - self.noise(t) * eps) / self.signal(t)

    def noise_between(self, x_t: Tensor, t: Tensor, x0: Tensor) -> Tensor:
        """Return the noise between x0 and x_t at t [N]: (x_t - sqrt(a) x0) / sqrt(1-a); inverts `predict_x0`."""
        return (x_t - self.signal(t) * x0) / self.noise(t)

    def signal_to_noise(self, t: Tensor) -> Tensor:
        """Return the signal-to-noise ratio a / (1-a) at t [N], as [N,1,1,1]."""
        return (self.signal(t) / self.noise(t)).square()

    def linear_estimate(self, t: Tensor, variance: float) -> LinearEstimate:
        """Return the best linear estimate of the noise in x_t at t [N], for pixels of mean 0 and this variance."""
        signal, noise = self.signal(t).square() * variance, self.noise(t)
        total = signal + noise.square()
        return LinearEstimate(slope=noise / total, error=(signal / total).sqrt(), deviation=total.sqrt())

    def posterior(self, x0: Tensor, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean [N,C,H,W] and variance [N,1,1,1] of x_{t-1} given x_t and x0 (DDPM Eq. 7).

        The variance is DDPM's fixed large one, beta_t; at t = 0, whose step adds no noise, the small one of step 1.
        """
        beta = self.betas[t]
        previous = torch.where(t > 0, self.alphas_cumprod[t - 1], torch.ones_like(beta))
        # The squared table is used because 1 - alphas_cumprod keeps only three digits in float32 at the first steps.
        one_minus = self.sqrt_one_minus_alphas_cumprod.square()
        one_minus_previous = torch.where(t > 0, one_minus[t - 1], torch.zeros_like(beta))
        weight_x0 = beta * previous.sqrt() / one_minus[t]
        weight_xt = one_minus_previous * (1 - beta).sqrt() / one_minus[t]
        mean = weight_x0[:, None, None, None] * x0 + weight_xt[:, None, None, None] * x_t
        first = self.betas[1] * one_minus[0] / one_minus[1]
        return mean, torch.where(t > 0, beta, first)[:, None, None, None]
