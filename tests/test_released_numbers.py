"""Our numbers against those that the released DiffusionAD code computed, at its published settings and a small size.

Weights, images and noise follow a rule that both sides computed by themselves, so the file of its numbers is small:
every fourth pixel of what it computed on a CPU in float32 at 64 px.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from diffad_ray.detectors.diffusion_ad import DiffusionAD, DiffusionADSettings
from diffad_ray.diffusion.reconstruction import norm_guided
from diffad_ray.networks.presets import NetworkSizes, published_multipliers
from diffad_ray.training.released import DENOISER, from_released, is_released, released_name

NUMBERS = Path(__file__).parent / "data" / "released_numbers"
CONFIG = json.loads((NUMBERS / "config.json").read_text())
EVERY = 4


def uniform(name: str, count: int) -> np.ndarray:
    """Numbers in [-1, 1) that a name stands for: splitmix64, seeded by the FNV-1a hash of the name."""
    seed = 0xCBF29CE484222325
    for byte in name.encode():
        seed = (seed ^ byte) * 0x100000001B3 % 2**64
    with np.errstate(over="ignore"):
        z = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(seed)
        z = (z ^ z >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ z >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return ((z >> np.uint64(40)).astype(np.float64) / 2**23 - 1).astype(np.float32)


def normal(name: str, shape: tuple[int, ...]) -> Tensor:
    """Noise by the Box-Muller transform of two such rows."""
    a, b = (uniform(f"{name}/{k}", math.prod(shape)).astype(np.float64) for k in (1, 2))
    drawn = np.sqrt(np.maximum(0, -2 * np.log((a + 1 + 2**-23) / 2))) * np.cos(np.pi * b)
    return torch.from_numpy(drawn.astype(np.float32)).view(shape)


def weight(name: str, like: Tensor) -> Tensor:
    """A parameter of the released networks by its name there."""
    if not like.is_floating_point():
        return like
    u = torch.from_numpy(uniform(name, like.numel())).view(like.shape)
    if name.endswith("running_var"):
        return 1 + 0.5 * u
    if name.endswith(("running_mean", "bias")):
        return 0.1 * u
    return 1 + 0.1 * u if like.dim() == 1 else u * math.sqrt(3 / like[0].numel())


@pytest.fixture(scope="module")
def detector() -> DiffusionAD:
    sizes = NetworkSizes(
        channels=CONFIG["base_channels"],
        channel_multipliers=published_multipliers(CONFIG["img_size"]),
        residual_blocks=CONFIG["num_res_blocks"],
        attention_sizes=tuple(CONFIG["attention_resolutions"]),
        heads=CONFIG["num_heads"],
        segmenter_channels=CONFIG["segmenter_base_channels"],
    )
    settings = DiffusionADSettings(
        image_size=CONFIG["img_size"],
        network=sizes,
        timesteps=CONFIG["T"],
        t_small=CONFIG["t_small"],
        t_big=CONFIG["t_big"],
        guidance=CONFIG["guidance_w"],
        scaling="unit",
        prediction="noise",
        score_unit="probability",
        familiarity=0.0,
        top_share=CONFIG["top_k"] / CONFIG["img_size"] ** 2,
    )
    detector = DiffusionAD(settings)
    parts: dict[str, dict[str, Tensor]] = {"unet.": {}, "seg.": {}}
    for ours, tensor in detector.state_dict().items():
        if is_released(ours):
            entry, theirs = released_name(ours)
            prefix = "unet." if entry == DENOISER else "seg."
            parts[prefix][theirs] = weight(prefix + theirs, tensor)
    detector.load_state_dict(from_released(*parts.values()))
    return detector.eval()


@torch.inference_mode()
def test_numbers_of_the_released_code(detector: DiffusionAD) -> None:
    expected = load_file(NUMBERS / "released.safetensors")
    side, schedule, settings = CONFIG["img_size"], detector.schedule, detector.settings
    shape = (2, 3, side, side)
    images = torch.from_numpy(0.5 * uniform("image", math.prod(shape)) + 0.5).view(shape)
    noise_small, noise_big = normal("noise_small", shape), normal("noise_big", shape)
    t_small, t_big = (torch.full((2,), t) for t in (settings.t_small, settings.t_big))
    guided = norm_guided(
        schedule, detector.predict_noise, images, t_small, t_big, noise_small, noise_big, settings.guidance
    )
    mask = detector.segment(images, guided.x0).sigmoid()
    found = {
        "x_t_small": schedule.add_noise(images, t_small, noise_small),
        "x_t_big": schedule.add_noise(images, t_big, noise_big),
        "eps_small": guided.eps_small,
        "x0_small": guided.x0_small.clamp(-1, 1),
        "x0_big": guided.x0_big,
        "x_t_guide": schedule.add_noise(guided.x0_big, t_small, guided.eps_small),
        "x0_guided": guided.x0,
        "mask": mask,
        "image_score": detector.image_score(mask),
    }
    assert found.keys() == expected.keys()
    for name, numbers in found.items():
        ours = numbers[..., ::EVERY, ::EVERY] if numbers.dim() == 4 else numbers
        torch.testing.assert_close(ours.float(), expected[name].float().view_as(ours), atol=1e-4, rtol=0, msg=name)
