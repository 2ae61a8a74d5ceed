"""A tiny detector with random weights, and images for it, for tests that need no training."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from diffad_ray.detectors.diffusion_ad import DiffusionAD, DiffusionADSettings
from diffad_ray.settings import read_settings

SIDE = 32
SCORING_BATCH = 2
"Squares at a time of the detectors that `tiny_training` makes."


def tiny_detector(seed: int = 0, **settings: Any) -> DiffusionAD:
    """A detector for 32 px in eval mode. No layer starts at zero, so that every part of the networks has its say."""
    torch.manual_seed(seed)
    detector = DiffusionAD(DiffusionADSettings(**{"preset": "tiny", "image_size": SIDE, **settings}))
    for parameter in networks_of(detector):
        if parameter.dim() > 1:
            nn.init.kaiming_normal_(parameter)
    return detector.eval()


def tiny_training(*overrides: str, steps: int = 2) -> dict[str, dict[str, Any]]:
    """Settings of a training that takes seconds. A trial of bfloat16 would take long on CPUs without units for it."""
    sizes = {
        "detector": {"preset": "tiny", "image_size": SIDE},
        "training": {
            "steps": steps,
            "batch_size": 4,
            "precision": "float32",
            "scoring_runtime": "torch",
            "scoring_batch": SCORING_BATCH,
        },
    }
    return read_settings(overrides=overrides, options=sizes)


def networks_of(detector: DiffusionAD) -> list[nn.Parameter]:
    """The parameters that a training step teaches."""
    return [parameter for part in detector.parts(None) for parameter in part.parameters]


def random_images(count: int, seed: int = 0) -> np.ndarray:
    """Images [N,32,32,3] uint8."""
    return np.random.default_rng(seed).integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)
