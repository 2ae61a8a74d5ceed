"""The end of a training: scoring precision, calibration on held-back normals, and the bundle."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffad_ray.detectors.acceleration import fastest_mode
from diffad_ray.detectors.base import Detector, Mode, Precision
from diffad_ray.detectors.bundle import Bundle, save_bundle
from diffad_ray.detectors.calibration import Calibration
from diffad_ray.detectors.diffusion_ad import DiffusionAD
from diffad_ray.detectors.engine import Engine
from diffad_ray.errors import UserError
from diffad_ray.training.familiarise import OnStep, familiarise
from diffad_ray.training.loop import TrainingSettings

TRIAL_IMAGES = 8
WORTHWHILE_GAIN = 1.2
"bfloat16 must score this many times faster than float32 to be chosen: it costs a little exactness."


def scoring_precision(detector: Detector, wanted: str, device: torch.device) -> Precision:
    """The precision in which the detector will score, found by a short trial where `wanted` is `auto`."""
    if wanted != "auto":
        return "bfloat16" if wanted == "bfloat16" else "float32"
    detector = detector.to(device)
    side = detector.settings.image_size
    trial = torch.zeros((TRIAL_IMAGES, 3, side, side), device=device)

    def run(mode: Mode) -> None:
        detector.run_in(mode).detect(mode.laid_out(trial))

    seconds = fastest_mode(run, ("float32", "bfloat16"), device).seconds
    best = {p: min(s for mode, s in seconds.items() if mode.precision == p) for p in ("float32", "bfloat16")}
    return "bfloat16" if best["float32"] > WORTHWHILE_GAIN * best["bfloat16"] else "float32"


def finish_detector(
    detector: Detector,
    learnt: tuple[np.ndarray, np.ndarray],
    textures: Tensor | None,
    held_back: Iterable[np.ndarray],
    settings: TrainingSettings,
    facts: dict[str, Any],
    device: torch.device,
    location: str,
    on_step: OnStep,
) -> Bundle:
    """Teach a trained detector what is familiar, calibrate it, and write its bundle.

    Args:
        learnt: squares [N,S,S,C] of normal images, and the numbers [N] of these images; see `familiarise`.
        textures: that lend pseudo-anomalies their appearance.
        held_back: normal images [H,W,3] of any sizes.
        on_step: see `familiarise`.
    """
    precision = scoring_precision(detector, settings.precision, device)
    detector.settings = dataclasses.replace(detector.settings, precision=precision)
    engine = Engine(detector, device)
    if isinstance(detector, DiffusionAD):
        familiarise(detector, *learnt, textures, settings.steps, settings.seed, device, on_step)
    scores = np.array([found.score for found in engine.detect_images(held_back, with_reconstruction=False)])
    try:
        calibration = Calibration.from_scores(scores, settings.false_alarm_rate, detector.highest_score)
    except ValueError as error:
        raise UserError(
            f"the detector can't be calibrated: {error}. Raise training.held_back, or calibrate on more images"
        ) from error
    return save_bundle(Bundle(detector, calibration, facts), location)
