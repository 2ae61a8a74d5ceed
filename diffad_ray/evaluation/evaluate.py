"""`evaluate`: a detector on labelled images."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from diffad_ray import storage
from diffad_ray.detectors.bundle import load_bundle
from diffad_ray.detectors.engine import Engine, default_device
from diffad_ray.errors import UserError
from diffad_ray.evaluation.datasets import GOOD, LabelledImage, read_mvtec
from diffad_ray.evaluation.metrics import at_threshold, auroc, average_precision
from diffad_ray.images import ImageError, decode_image, network_input, resized, same_depth
from diffad_ray.progress import ProgressBar

READERS = 8
OVERALL = "overall"


@dataclass(frozen=True)
class Figures:
    """Figures of one kind of defect against all good images, or of all kinds together; None where undefined."""

    images: int
    "images of the kind; the good ones not counted"
    image_auroc: float | None
    image_ap: float | None
    pixel_auroc: float | None
    pixel_ap: float | None
    precision: float | None
    recall: float | None
    false_alarm_rate: float | None


@dataclass(frozen=True)
class Evaluation:
    """What a detector does on a labelled dataset.

    Attributes:
        detector, fingerprint, dataset: which on which.
        image_size: side of the maps in pixels, at which pixel figures are taken; masks are resized to it by area means
            and binarised at 0.5.
        threshold: the score from which an image is called anomalous; from the detector's calibration unless given.
        good: number of good images.
        figures: by kind of defect, and `overall`.
        unreadable: reason by image that could not be used.
        scores: (location, kind, score) of each image, worst first.
    """

    detector: str
    fingerprint: str
    dataset: str
    image_size: int
    threshold: float
    good: int
    figures: dict[str, Figures]
    unreadable: dict[str, str]
    scores: list[tuple[str, str, float]] = field(repr=False)


def evaluate(
    detector: str | Path, dataset: str | Path, *, threshold: float | None = None, show_progress: bool = False
) -> Evaluation:
    """Score the test images of a product in MVTec layout and compare with their labels and masks.

    Args:
        detector: folder or URI of a bundle.
        dataset: folder or URI with `test` and `ground_truth`.
        threshold: replaces the calibrated one.

    Raises:
        UserError: the dataset is not as it must be, or has no readable image.
    """
    dataset = storage.normalised(dataset)
    images = read_mvtec(dataset)
    bundle = load_bundle(str(detector))
    side = bundle.detector.settings.image_size
    engine = Engine(bundle.detector, default_device())
    threshold = bundle.calibration.threshold if threshold is None else threshold

    unreadable: dict[str, str] = {}

    def load(image: LabelledImage) -> tuple[np.ndarray, np.ndarray | None] | None:
        try:
            pixels = network_input(decode_image(storage.read(image.uri)).pixels, side)
            return pixels, _mask(image, side)
        except (ImageError, OSError) as error:
            unreadable[image.uri] = str(error)
            return None

    used: list[LabelledImage] = []
    scores: list[np.ndarray] = []
    maps: list[np.ndarray] = []
    masks: list[np.ndarray | None] = []
    with ThreadPoolExecutor(READERS) as pool, ProgressBar("evaluating", len(images), show_progress) as bar:
        for start in range(0, len(images), engine.batch_size):
            batch = images[start : start + engine.batch_size]
            loaded = [(image, found) for image, found in zip(batch, pool.map(load, batch), strict=True) if found]
            for detection in engine.detect(same_depth([pixels for _, (pixels, _) in loaded])) if loaded else ():
                scores.append(detection.score)
                maps.append(detection.anomaly_map)
            used += [image for image, _ in loaded]
            masks += [mask for _, (_, mask) in loaded]
            bar.update(start + len(batch))
    if not used:
        reasons = "; ".join(f"{uri}: {reason}" for uri, reason in list(unreadable.items())[:3])
        raise UserError(f"none of the {len(images)} test images can be used: {reasons}")

    all_scores, all_maps = np.concatenate(scores), np.concatenate(maps)
    kinds = np.array([image.kind for image in used])
    figures = {}
    for kind in [OVERALL, *sorted(set(kinds) - {GOOD})]:
        chosen = np.ones(len(kinds), bool) if kind == OVERALL else (kinds == GOOD) | (kinds == kind)
        labels = kinds[chosen] != GOOD
        figures[kind] = _figures(
            all_scores[chosen], labels, all_maps[chosen], [masks[i] for i in np.flatnonzero(chosen)], threshold
        )
    order = np.argsort(-all_scores, kind="stable")
    return Evaluation(
        detector=storage.normalised(detector),
        fingerprint=bundle.fingerprint,
        dataset=dataset,
        image_size=side,
        threshold=threshold,
        good=int((kinds == GOOD).sum()),
        figures=figures,
        unreadable=unreadable,
        scores=[(used[i].uri, used[i].kind, float(all_scores[i])) for i in order],
    )


def _mask(image: LabelledImage, side: int) -> np.ndarray | None:
    """Ground truth bool [S,S]; None where a defective image has no mask."""
    if not image.is_anomalous:
        return np.zeros((side, side), dtype=bool)
    if image.mask_uri is None:
        return None
    pixels = decode_image(storage.read(image.mask_uri)).pixels[..., 0]
    # As numbers, not as int() of a blurred mask, which would erode it.
    share = resized(pixels.astype(np.float32) / np.iinfo(pixels.dtype).max, side, side)
    return share >= 0.5


def _figures(
    scores: np.ndarray, labels: np.ndarray, maps: np.ndarray, masks: list[np.ndarray | None], threshold: float
) -> Figures:
    """Figures of images [N] with maps [N,S,S]; pixel figures only where every defective image has a mask."""
    judged = at_threshold(scores, labels, threshold)
    known = [mask for mask in masks if mask is not None]
    complete = len(known) == len(masks)
    pixel_scores = maps.ravel() if complete else np.zeros(0)
    pixel_labels = np.stack(known).ravel() if complete else np.zeros(0, dtype=bool)
    return Figures(
        images=int(labels.sum()),
        image_auroc=auroc(scores, labels),
        image_ap=average_precision(scores, labels),
        pixel_auroc=auroc(pixel_scores, pixel_labels),
        pixel_ap=average_precision(pixel_scores, pixel_labels),
        precision=judged.precision,
        recall=judged.recall,
        false_alarm_rate=judged.false_alarm_rate,
    )
