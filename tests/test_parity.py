"""Our numbers against those that the released DiffusionAD code computed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from diffad_ray.detectors.diffusion_ad import DiffusionAD, DiffusionADSettings
from diffad_ray.diffusion.reconstruction import norm_guided, reverse_step
from diffad_ray.networks.presets import NetworkSizes, published_multipliers
from diffad_ray.training.released import from_released

PARITY = Path(__file__).parents[2] / "shared" / "parity"
pytestmark = pytest.mark.skipif(not PARITY.is_dir(), reason="the numbers of the released code are not at hand")


@pytest.fixture(scope="module")
def expected() -> dict[str, Tensor]:
    return load_file(PARITY / "tensors.safetensors")


@pytest.fixture(scope="module")
def detector() -> DiffusionAD:
    config = json.loads((PARITY / "config.json").read_text())
    sizes = NetworkSizes(
        channels=config["base_channels"],
        channel_multipliers=published_multipliers(config["img_size"]),
        residual_blocks=config["num_res_blocks"],
        attention_sizes=config["attention_resolutions"],
        heads=config["num_heads"],
        segmenter_channels=config["segmenter_base_channels"],
    )
    settings = DiffusionADSettings(
        image_size=config["img_size"],
        network=sizes,
        timesteps=config["T"],
        t_small=config["t_small"],
        t_big=config["t_big"],
        guidance=config["guidance_w"],
        scaling="unit",
        prediction="noise",
        top_share=config["top_k"] / config["img_size"] ** 2,
    )
    detector = DiffusionAD(settings)
    weights = load_file(PARITY / "weights.safetensors")
    parts = ({name.removeprefix(p): w for name, w in weights.items() if name.startswith(p)} for p in ("unet.", "seg."))
    detector.load_state_dict(from_released(*parts))
    return detector.eval()


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours.float(), theirs.float(), atol=1e-4, rtol=0)


@torch.inference_mode()
def test_every_tensor_of_the_released_code(
    detector: DiffusionAD, expected: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    e = dict(expected)
    schedule, settings, image = detector.schedule, detector.settings, e.pop("image")
    noise_small, noise_big = e.pop("noise_small"), e.pop("noise_big")
    t_small = torch.full((len(image),), settings.t_small)
    t_big = torch.full_like(t_small, settings.t_big)

    close(schedule.alphas_cumprod, e.pop("alphas_cumprod"))
    x_t_small = schedule.add_noise(image, t_small, noise_small)
    close(x_t_small, e.pop("x_t_small"))
    close(schedule.add_noise(image, t_big, noise_big), e.pop("x_t_big"))

    steps = t_small, t_big, noise_small, noise_big
    guided = norm_guided(schedule, detector.predict_noise, image, *steps, settings.guidance)
    monkeypatch.setattr(detector, "noise", lambda like, member, draw: (noise_small, noise_big)[draw])
    close(detector.reconstruct(image), guided.x0)
    close(guided.eps_small, e.pop("eps_small"))
    close(guided.x0_small.clamp(-1, 1), e.pop("x0_small"))
    close(guided.x0_big, e.pop("x0_big"))
    close(schedule.add_noise(guided.x0_big, t_small, guided.eps_small), e.pop("x_t_guide"))
    close(guided.x0, e.pop("x0_guided"))

    mask = detector.segment(image, guided.x0).sigmoid()
    close(mask, e.pop("mask"))
    close(detector.image_score(mask[:, 0]), e.pop("image_score"))

    mean, variance = reverse_step(schedule, detector.predict_noise, x_t_small, t_small)
    close(mean, e.pop("p_mean"))
    close(variance.expand_as(mean), e.pop("p_variance").expand_as(mean))
    assert not e, f"the released code computed more than this test holds: {list(e)}"
