"""The end of a training: settles the precision of scoring, and calibrates the scores."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch

from diffad_ray.bundles.calibration import Calibration
from diffad_ray.detectors.base import DTYPES, Mode, Precision, Scorer
from diffad_ray.errors import UserError
from diffad_ray.inference.acceleration import fastest_mode
from diffad_ray.inference.engine import Engine

TRIAL_IMAGES = 8
WORTHWHILE_GAIN = 1.2
"bfloat16 is chosen only if it scores this many times faster than float32, because it rounds more coarsely."
REPORT_EVERY = 20
"Images scored between two reports."


def settle_mode(detector: Scorer, wanted: str, device: torch.device) -> None:
    """Set the precision and memory format in which the detector computes and will score, by a short trial.

    Args:
        wanted: precision; `auto` chooses bfloat16 if the trial finds it `WORTHWHILE_GAIN` times faster.
    """
    precisions: list[Precision] = ["float32", "bfloat16"] if wanted == "auto" else []
    if wanted in DTYPES:
        precisions.append(wanted)
    mode = Mode(channels_last=False, precision="float32")
    if detector.settings.part_names:
        mode = _fast_mode(detector.to(device).eval(), precisions, device)
    detector.settings = dataclasses.replace(
        detector.settings, precision=mode.precision, channels_last=mode.channels_last
    )
    # The trial may have ended in another mode, and `fit` must measure in this one.
    detector.run_in(mode)


def calibrated(
    detector: Scorer,
    images: Iterable[np.ndarray],
    false_alarm_rate: float,
    device: torch.device,
    on_scored: Callable[[int], None] = lambda count: None,
) -> Calibration:
    """Calibrate a trained detector by the scores of normal images [H,W,3], of any sizes, that it was not trained on.

    Args:
        on_scored: receives the number of images scored so far, every `REPORT_EVERY` images.

    Raises:
        UserError: there are too few images, or a score is not a number.
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
        return Calibration.from_scores(np.array(scores), false_alarm_rate)
    except ValueError as error:
        raise UserError(
            f"the detector can't be calibrated: {error}. Raise training.held_back, or calibrate on more images"
        ) from error


def _fast_mode(detector: Scorer, precisions: Sequence[Precision], device: torch.device) -> Mode:
    side = detector.settings.image_size
    trial = torch.zeros((TRIAL_IMAGES, 3, side, side), device=device)

    def run(mode: Mode) -> None:
        detector.run_in(mode).detect(mode.laid_out(trial))

    seconds = fastest_mode(run, precisions, device).seconds
    best = {p: min((m for m in seconds if m.precision == p), key=seconds.__getitem__) for p in precisions}
    if len(best) == 1:
        (only,) = best.values()
        return only
    exact, quick = best["float32"], best["bfloat16"]
    return quick if seconds[exact] > WORTHWHILE_GAIN * seconds[quick] else exact
