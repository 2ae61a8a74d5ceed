"""Reconstructions of an image without its anomaly.

Shapes: N images, C channels, H x W pixels. A noise predictor maps (x_t [N,C,H,W], t [N] int64) to the noise in x_t.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from diffad_ray.diffusion.schedule import NoiseSchedule

NoisePredictor = Callable[[Tensor, Tensor], Tensor]


class NormGuided(NamedTuple):
    """A norm-guided reconstruction, and its intermediate results for losses and figures; all [N,C,H,W]."""

    x0: Tensor
    "the reconstruction, in [-1, 1]"
    x0_small: Tensor
    "one-step reconstruction from t_small, unclamped"
    x0_big: Tensor
    "one-step reconstruction from t_big, in [-1, 1]: the guide"
    eps_small: Tensor
    "estimated noise at t_small"
    eps_big: Tensor
    "estimated noise at t_big"


def one_step(schedule: NoiseSchedule, predict_noise: NoisePredictor, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """Noise x0 to step t [N] and denoise it in one network call (DiffusionAD Eq. 6); in [-1, 1]."""
    x_t = schedule.add_noise(x0, t, noise)
    return schedule.predict_x0(x_t, t, predict_noise(x_t, t)).clamp(-1, 1)


def norm_guided(
    schedule: NoiseSchedule,
    predict_noise: NoisePredictor,
    x0: Tensor,
    t_small: Tensor,
    t_big: Tensor,
    noise_small: Tensor,
    noise_big: Tensor,
    guidance: float,
) -> NormGuided:
    """Norm-guided one-step reconstruction (DiffusionAD, arXiv 2303.08730, section 3.3).

    The coarse, anomaly-free reconstruction from t_big guides the fine one from t_small. The network evaluates both
    scales as one batch of 2N. Before the last clamp the result equals the blend
    `(1 - L) x0_small + L x0_big` with `L = guidance * (1 - alphas_cumprod[t_small])`; L > 1 extrapolates.

    Args:
        x0: images [N,C,H,W].
        t_small, t_big: [N] int64 in [0, T), t_small < t_big.
        noise_small, noise_big: independent draws, [N,C,H,W] or broadcastable to this shape.
        guidance: w of the paper; 0 is the one-step reconstruction from t_small.
    """
    x_small = schedule.add_noise(x0, t_small, noise_small)
    x_big = schedule.add_noise(x0, t_big, noise_big)
    eps_small, eps_big = predict_noise(torch.cat([x_small, x_big]), torch.cat([t_small, t_big])).chunk(2)

    x0_big = schedule.predict_x0(x_big, t_big, eps_big).clamp(-1, 1)
    x_guide = schedule.add_noise(x0_big, t_small, eps_small)
    eps_guided = eps_small - schedule.noise(t_small) * guidance * (x_guide - x_small)
    return NormGuided(
        x0=schedule.predict_x0(x_small, t_small, eps_guided).clamp(-1, 1),
        x0_small=schedule.predict_x0(x_small, t_small, eps_small),
        x0_big=x0_big,
        eps_small=eps_small,
        eps_big=eps_big,
    )


def reverse_step(
    schedule: NoiseSchedule, predict_noise: NoisePredictor, x_t: Tensor, t: Tensor
) -> tuple[Tensor, Tensor]:
    """Return mean [N,C,H,W] and variance [N,1,1,1] of x_{t-1} given x_t (DDPM Algorithm 2, x0 clamped to [-1, 1])."""
    x0 = schedule.predict_x0(x_t, t, predict_noise(x_t, t)).clamp(-1, 1)
    return schedule.posterior(x0, x_t, t)


def iterative(
    schedule: NoiseSchedule,
    predict_noise: NoisePredictor,
    x0: Tensor,
    t: int,
    noise: Tensor,
    step_noise: Callable[[int], Tensor],
) -> Tensor:
    """Noise x0 to step t and take all t + 1 reverse steps (DDPM Algorithm 2), one network call each; in [-1, 1].

    Args:
        x0: images [N,C,H,W].
        noise: noise of the forward process to t, [N,C,H,W] or broadcastable to this shape.
        step_noise: maps a step s > 0 to the noise of the reverse step from s, of the same shape.
    """
    steps = torch.full((len(x0),), t, device=x0.device)
    x_t = schedule.add_noise(x0, steps, noise)
    for step in range(t, -1, -1):
        x_t, variance = reverse_step(schedule, predict_noise, x_t, torch.full_like(steps, step))
        if step > 0:
            x_t = x_t + variance.sqrt() * step_noise(step)
    return x_t.clamp(-1, 1)


def ddim(
    schedule: NoiseSchedule, predict_noise: NoisePredictor, x0: Tensor, t: int, noise: Tensor, calls: int
) -> Tensor:
    """Noise x0 to step t and denoise it in `calls` deterministic steps (DDIM, Song et al. 2021, Eq. 12, eta = 0).

    The steps, at most t + 1, are evenly spaced from t to x0. One call is the one-step reconstruction.
    Each estimate of x0 is clamped to [-1, 1].
    """
    steps = torch.linspace(t, -1, min(calls, t + 1) + 1, device=x0.device)[:-1].round().long()
    x_t = schedule.add_noise(x0, steps[:1].expand(len(x0)), noise)
    for now, after in zip(steps, [*steps[1:], None], strict=True):
        at = now.expand(len(x0))
        eps = predict_noise(x_t, at)
        x0 = schedule.predict_x0(x_t, at, eps).clamp(-1, 1)
        if after is not None:
            x_t = schedule.add_noise(x0, after.expand(len(x0)), eps)
    return x0
