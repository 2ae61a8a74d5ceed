"""The end of a training: in which precision the detector scores, and what its scores mean."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable

import numpy as np
import torch

from diffad_ray.detectors.acceleration import fastest_mode
from diffad_ray.detectors.base import Detector, Mode, Precision
from diffad_ray.detectors.calibration import Calibration
from diffad_ray.detectors.engine import Engine
from diffad_ray.errors import UserError

TRIAL_IMAGES = 8
WORTHWHILE_GAIN = 1.2
"bfloat16 must score this many times faster than float32 to be chosen: it costs a little exactness."
REPORT_EVERY = 20
"Images scored between two reports."


def settle_precision(detector: Detector, wanted: str, device: torch.device) -> None:
    """Set the precision in which the detector computes and will score, by a short trial where `wanted` is `auto`."""
    precision: Precision = "bfloat16" if wanted == "bfloat16" else "float32"
    if wanted == "auto":
        precision = _fast_precision(detector.to(device), device)
    detector.settings = dataclasses.replace(detector.settings, precision=precision)
    # The trial ended in some other mode, and what is familiar must be learnt in this one.
    detector.run_in(Mode(False, precision))


def calibrated(
    detector: Detector,
    images: Iterable[np.ndarray],
    false_alarm_rate: float,
    device: torch.device,
    on_scored: Callable[[int], None] = lambda count: None,
) -> Calibration:
    """What a trained detector's scores mean, by those of normal images [H,W,3] of any sizes that it has not seen.

    Args:
        on_scored: called now and then with the number of images scored so far.

    Raises:
        UserError: there are too few, or a score is no number.
    """
    found = Engine(detector, device).detect_images(images, with_reconstruction=False)
    try:
        scores = []
        for image in found:
            scores.append(image.score)
            if len(scores) % REPORT_EVERY == 0:
                on_scored(len(scores))
        if unknown := np.isnan(scores).sum():
            raise UserError(
                f"the detector has no score for {unknown} of {len(scores)} good images (NaN): its training went wrong. "
                "Train again with --fresh and another training.seed or a lower training.learning_rate"
            )
        return Calibration.from_scores(np.array(scores), false_alarm_rate, detector.highest_score)
    except ValueError as error:
        raise UserError(
            f"the detector can't be calibrated: {error}. Raise training.held_back, or calibrate on more images"
        ) from error


def _fast_precision(detector: Detector, device: torch.device) -> Precision:
    side = detector.settings.image_size
    trial = torch.zeros((TRIAL_IMAGES, 3, side, side), device=device)

    def run(mode: Mode) -> None:
        detector.run_in(mode).detect(mode.laid_out(trial))

    seconds = fastest_mode(run, ("float32", "bfloat16"), device).seconds
    best = {p: min(s for mode, s in seconds.items() if mode.precision == p) for p in ("float32", "bfloat16")}
    return "bfloat16" if best["float32"] > WORTHWHILE_GAIN * best["bfloat16"] else "float32"
