"""AnoDDPM as a detector: its reconstructions, its map, and what it learns."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler
from tiny_detector import SIDE, random_images
from torch import Tensor, nn

from diffad_ray.detectors.ano_ddpm import AnoDDPM, AnoDDPMSettings
from diffad_ray.detectors.base import NETWORKS, TrainingBatch
from diffad_ray.detectors.difference import smoothed, squared_error
from diffad_ray.diffusion.noise import seeded_generator
from diffad_ray.diffusion.reconstruction import ddim, one_step
from diffad_ray.diffusion.schedule import NoiseSchedule
from diffad_ray.tensors import as_unit_tensor


def tiny(seed: int = 0, **settings: Any) -> AnoDDPM:
    torch.manual_seed(seed)
    detector = AnoDDPM(AnoDDPMSettings(**{"preset": "tiny", "image_size": SIDE, "t": 12, **settings}))
    for parameter in detector.parameters():
        if parameter.dim() > 1:
            nn.init.kaiming_normal_(parameter)
    return detector.eval()


@pytest.mark.parametrize(("reconstruction", "calls"), [("iterative", 13), ("ddim", 4), ("one-step", 1)])
def test_each_reconstruction_repeats_and_costs_its_calls(reconstruction: str, calls: int) -> None:
    detector, seen = tiny(reconstruction=reconstruction, ddim_calls=4), []
    detector.denoiser.register_forward_hook(lambda _, given, __: seen.append(len(given[0])))
    images = as_unit_tensor(random_images(2))
    found = detector.detect(images)
    assert seen == [2] * calls
    assert found.score.shape == (2,)
    assert found.anomaly_map.shape == (2, SIDE, SIDE)
    assert found.anomaly_map.isfinite().all()
    assert found.reconstruction.shape == images.shape
    again = tiny(seed=5, reconstruction=reconstruction, ddim_calls=4)
    again.load_state_dict(detector.state_dict())
    assert torch.equal(again.detect(images).anomaly_map, found.anomaly_map)


def test_a_defect_that_is_denoised_away_is_on_the_map(monkeypatch: pytest.MonkeyPatch) -> None:
    detector = tiny(mean=(0.5,) * 3, std=(0.25,) * 3)
    good = torch.full((1, 3, SIDE, SIDE), 0.5)
    image = good.clone()
    image[..., 8:14, 20:24] = 0.9
    # A denoiser that knows nothing but good images.
    monkeypatch.setattr(
        detector, "predict_noise", lambda x_t, t: (x_t - detector.schedule.signal(t) * 0) / detector.schedule.noise(t)
    )
    found = detector.detect(torch.cat([good, image]))
    assert found.score[1] > 10 * found.score[0]
    peak = divmod(int(found.anomaly_map[1].argmax()), SIDE)
    assert 8 <= peak[0] < 14
    assert 20 <= peak[1] < 24
    torch.testing.assert_close(found.reconstruction, good.expand(2, -1, -1, -1), atol=1e-4, rtol=0)


def test_pixels_beyond_the_range_of_reconstructions_are_no_errors() -> None:
    x0 = torch.tensor([-3.0, -1.0, 0.5, 2.0]).reshape(1, 1, 2, 2)
    assert squared_error(x0, x0.clamp(-1, 1)).abs().max() == 0


def test_smoothing_keeps_the_mean_and_lowers_the_peak() -> None:
    maps = torch.zeros(1, 1, 64, 64)
    maps[0, 0, 30, 30] = 1
    blurred = smoothed(maps, 1 / 32)
    assert float(blurred.sum()) == pytest.approx(1, abs=1e-5)
    assert float(blurred.max()) == pytest.approx(1 / (2 * torch.pi * 2**2), rel=0.02)
    assert torch.equal(smoothed(maps, 0.0), maps)


def test_ddim_is_that_of_diffusers() -> None:
    schedule = NoiseSchedule(1000, 1e-4, 0.02)
    x0 = torch.rand((2, 3, 8, 8), generator=seeded_generator("cpu", 0)) * 2 - 1
    noise = torch.randn((2, 3, 8, 8), generator=seeded_generator("cpu", 1))

    def predict(x_t: Tensor, t: Tensor) -> Tensor:
        return torch.tanh(x_t) * (0.5 + t[:, None, None, None] / 1000)

    oracle = DDIMScheduler(1000, 1e-4, 0.02, "linear", clip_sample=True, set_alpha_to_one=True)
    # Steps of 100 from 299 down; the oracle subtracts the same stride and ends with x0 itself.
    oracle.set_timesteps(10)
    x_t = schedule.add_noise(x0, torch.tensor([299, 299]), noise)
    for step in (299, 199, 99):
        x_t = oracle.step(predict(x_t, torch.tensor([step, step])), step, x_t).prev_sample
    torch.testing.assert_close(ddim(schedule, predict, x0, 299, noise, 3), x_t, atol=1e-5, rtol=1e-5)
    one = one_step(schedule, predict, x0, torch.tensor([200, 200]), noise)
    torch.testing.assert_close(ddim(schedule, predict, x0, 200, noise, 1), one)


def test_a_step_teaches_the_denoiser() -> None:
    detector = tiny().train()
    losses = detector(TrainingBatch(as_unit_tensor(random_images(4))), seeded_generator("cpu", 0), NETWORKS)
    assert losses.keys() == {"loss"}
    losses["loss"].backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in detector.denoiser.parameters())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"t": 1000}, "t 1000 must lie in"),
        ({"reconstruction": "norm-guided"}, "none of iterative, ddim, one-step"),
        ({"ddim_calls": 0}, "ddim_calls"),
        ({"smoothing": 0.3}, "smoothing"),
        ({"noise": "perlin"}, "noise 'perlin' is neither"),
    ],
)
def test_impossible_settings_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AnoDDPMSettings(**wrong)
