"""The verdict on one image: what its score means, and which of its pixels are anomalous.

Whoever judges an image calls `verdict`: scoring, pictures, pages, and what serves a detector. So the same image has the
same verdict, by whichever door it came in.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from diffad_ray.bundles.calibration import Calibration
from diffad_ray.inference.regions import anomaly_mask, find_regions

MAP_TYPE = np.float16
"In which anomaly maps travel between processes; a verdict rounds every map to it."


class Verdict(NamedTuple):
    """What a detector and its calibration say of an image.

    Attributes:
        score: log odds of an anomaly, see `DetectorSettings`.
        tail_probability: share of normal images that score at least as high, in (0, 1]; None without a calibration.
        threshold: the score from which an image is anomalous.
        regions: rows of the regions table without their image, the highest peak first; none of a normal image.
        mask: [H,W] bool, the anomalous pixels of the original; None where no anomaly map was given.
    """

    score: float
    tail_probability: float | None
    threshold: float
    regions: list[dict[str, Any]]
    mask: np.ndarray | None

    @property
    def is_anomalous(self) -> bool:
        return self.score >= self.threshold

    @property
    def anomalous_fraction(self) -> float:
        """Share of the pixels that are anomalous."""
        return 0.0 if self.mask is None else float(self.mask.mean())


def verdict(
    score: float,
    anomaly_map: np.ndarray | None,
    size: tuple[int, int],
    calibration: Calibration | None,
    threshold: float,
) -> Verdict:
    """Judge an image by its score and anomaly map.

    Args:
        anomaly_map: [h,w], of any size; None where no mask and no regions are wanted.
        size: width and height of the original in pixels.
        calibration: of the detector.
        threshold: the score from which an image is anomalous; a pixel is anomalous from the same value on.

    Example:
        >>> calibration = Calibration.from_scores(np.linspace(-6, -3, 200))
        >>> spot = np.full((8, 8), -6.0)
        >>> spot[2, 3] = 4.0
        >>> found = verdict(4.0, spot, (8, 8), calibration, calibration.threshold)
        >>> found.is_anomalous, len(found.regions)
        (True, 1)
    """
    tail = None if calibration is None else float(calibration.tail_probability(np.array([score]))[0])
    if anomaly_map is None:
        return Verdict(score, tail, threshold, [], None)
    if score < threshold:
        return Verdict(score, tail, threshold, [], np.zeros(size[::-1], dtype=bool))
    full_map, mask = anomaly_mask(anomaly_map.astype(MAP_TYPE), *size, threshold)
    return Verdict(score, tail, threshold, find_regions(full_map, mask), mask)
