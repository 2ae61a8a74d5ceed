"""The end of a training: in which precision the detector scores, and what its scores mean."""

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
"bfloat16 must score this many times faster than float32 to be chosen: it costs a little exactness."
REPORT_EVERY = 20
"Images scored between two reports."


def settle_mode(detector: Scorer, wanted: str, device: torch.device) -> None:
    """Set the precision and memory format in which the detector computes and will score, by a short trial.

    Args:
        wanted: precision; `auto` takes bfloat16 where it is worth it.
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
    # The trial ended in some other mode, and what `fit` measures must be measured in this one.
    detector.run_in(mode)


def calibrated(
    detector: Scorer,
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
