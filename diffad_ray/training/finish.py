"""The end of a training: calibrates the scores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch

from diffad_ray.bundles.calibration import Calibration
from diffad_ray.detectors.base import Scorer
from diffad_ray.errors import UserError
from diffad_ray.inference.engine import Engine

REPORT_EVERY = 20
"Images scored between two reports."


def calibrated(
    detector: Scorer,
    images: Iterable[np.ndarray],
    false_alarm_rate: float,
    device: torch.device,
    on_scored: Callable[[int], None] = lambda count: None,
    cross_fitted: Sequence[float] = (),
) -> Calibration:
    """Calibrate a trained detector by the scores of normal images [H,W,3], of any sizes, that it was not trained on.

    Args:
        on_scored: receives the number of images scored so far, every `REPORT_EVERY` images.
        cross_fitted: scores of images that it was trained on, as `Trainable.fit` returns them.

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
        return Calibration.from_scores(np.array(scores), false_alarm_rate, cross_fitted)
    except ValueError as error:
        raise UserError(
            f"the detector can't be calibrated: {error}. Raise training.held_back, or calibrate on more images"
        ) from error
