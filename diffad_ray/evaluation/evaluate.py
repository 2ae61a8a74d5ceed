"""`evaluate`: a detector on labelled images."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from diffad_ray import storage
from diffad_ray.detectors.bundle import load_bundle
from diffad_ray.detectors.engine import Engine, default_device
from diffad_ray.detectors.views import check_side, grid_of
from diffad_ray.errors import UserError
from diffad_ray.evaluation.datasets import GOOD, LabelledImage, read_mvtec
from diffad_ray.evaluation.metrics import at_threshold, auroc, average_precision
from diffad_ray.evaluation.pixels import PixelCounts
from diffad_ray.images import ImageError, decode_image, resized
from diffad_ray.progress import ProgressBar
from diffad_ray.read_ahead import read_ahead

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
        image_size, view: of the detector. Pixel figures are taken at the size of the maps: image_size x image_size in
            the view `whole`, that of the (shrunk) image, up to 4 megapixels, in the view `tiles`. Masks are resized to
            it by area means and binarised at 0.5.
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
    view: str
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
    settings = bundle.detector.settings
    engine = Engine(bundle.detector, default_device())
    threshold = bundle.calibration.threshold if threshold is None else threshold

    unreadable: dict[str, str] = {}

    def load(image: LabelledImage) -> tuple[np.ndarray, np.ndarray | None] | None:
        try:
            pixels = decode_image(storage.read(image.uri)).pixels
            check_side(pixels)
            return pixels, _mask(image, *grid_of(pixels.shape[0], pixels.shape[1], settings).map_size)
        except (ImageError, OSError) as error:
            unreadable[image.uri] = str(error)
            return None

    in_flight: deque[tuple[LabelledImage, np.ndarray | None]] = deque()

    def readable(bar: ProgressBar) -> Iterator[np.ndarray]:
        for done, (image, loaded) in enumerate(zip(images, read_ahead(load, images, READERS), strict=True)):
            bar.update(done)
            if loaded is not None:
                pixels, mask = loaded
                in_flight.append((image, mask))
                yield pixels

    used: list[LabelledImage] = []
    scores: list[float] = []
    pixels_by_kind: dict[str, PixelCounts] = {}
    without_mask: set[str] = set()
    with ProgressBar("evaluating", len(images), show_progress) as bar:
        for found in engine.detect_images(readable(bar), with_reconstruction=False):
            image, mask = in_flight.popleft()
            used.append(image)
            scores.append(found.score)
            if mask is None:
                without_mask.add(image.kind)
            else:
                pixels_by_kind.setdefault(image.kind, PixelCounts()).add(found.anomaly_map, mask)
        bar.update(len(images))
    if not used:
        reasons = "; ".join(f"{uri}: {reason}" for uri, reason in list(unreadable.items())[:3])
        raise UserError(f"none of the {len(images)} test images can be used: {reasons}")

    all_scores, kinds = np.array(scores), np.array([image.kind for image in used])
    figures = {}
    for kind in [OVERALL, *sorted(set(kinds) - {GOOD})]:
        chosen_kinds = set(kinds) if kind == OVERALL else {GOOD, kind}
        chosen = np.isin(kinds, list(chosen_kinds))
        counts = None
        if not chosen_kinds & without_mask:
            counts = PixelCounts.sum(pixels_by_kind[k] for k in chosen_kinds & pixels_by_kind.keys())
        figures[kind] = _figures(all_scores[chosen], kinds[chosen] != GOOD, counts, threshold)
    order = np.argsort(-all_scores, kind="stable")
    return Evaluation(
        detector=storage.normalised(detector),
        fingerprint=bundle.fingerprint,
        dataset=dataset,
        image_size=settings.image_size,
        view=settings.view,
        threshold=threshold,
        good=int((kinds == GOOD).sum()),
        figures=figures,
        unreadable=unreadable,
        scores=[(used[i].uri, used[i].kind, float(all_scores[i])) for i in order],
    )


def _mask(image: LabelledImage, height: int, width: int) -> np.ndarray | None:
    """Ground truth bool [H,W]; None where a defective image has no mask."""
    if not image.is_anomalous:
        return np.zeros((height, width), dtype=bool)
    if image.mask_uri is None:
        return None
    pixels = decode_image(storage.read(image.mask_uri)).pixels[..., 0]
    # As numbers, not as int() of a blurred mask, which would erode it.
    share = resized(pixels.astype(np.float32) / np.iinfo(pixels.dtype).max, width, height)
    return share >= 0.5


def _figures(scores: np.ndarray, labels: np.ndarray, pixels: PixelCounts | None, threshold: float) -> Figures:
    """Figures of images [N]; pixel figures only where every defective image has a mask."""
    judged = at_threshold(scores, labels, threshold)
    return Figures(
        images=int(labels.sum()),
        image_auroc=auroc(scores, labels),
        image_ap=average_precision(scores, labels),
        pixel_auroc=pixels.auroc() if pixels else None,
        pixel_ap=pixels.average_precision() if pixels else None,
        precision=judged.precision,
        recall=judged.recall,
        false_alarm_rate=judged.false_alarm_rate,
    )
