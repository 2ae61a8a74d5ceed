"""`evaluate`: scores labelled images with a detector and computes figures."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from diffad_ray import storage
from diffad_ray.bundles.bundle import Bundle, load_bundle
from diffad_ray.detectors.base import DetectorSettings
from diffad_ray.errors import UserError, first_reasons
from diffad_ray.evaluation.figures import ScoredImage
from diffad_ray.evaluation.masks import at_size, truth_mask
from diffad_ray.evaluation.pixels import PixelCounts
from diffad_ray.evaluation.result import Evaluation, Subject, conclude
from diffad_ray.images import ImageError, check_side, decode_image
from diffad_ray.inference.engine import Engine, default_device
from diffad_ray.inference.views import decoding_of, grid_of
from diffad_ray.labels.datasets import Dataset, LabelledImage
from diffad_ray.labels.reading import read_dataset
from diffad_ray.progress import ProgressBar
from diffad_ray.read_ahead import read_ahead

READERS = 8


def evaluate(
    detector: str | Path, dataset: str | Path, *, threshold: float | None = None, show_progress: bool = False
) -> Evaluation:
    """Score labelled test images, and compare scores and maps with labels and masks.

    Args:
        detector: folder or URI of a bundle.
        dataset: folder or URI of one or several products in a layout that `read_dataset` knows; or a table of labels.
        threshold: replaces the calibrated threshold.
        show_progress: whether to show a progress bar.

    Raises:
        UserError: the dataset is invalid or has no readable image, or the threshold is not finite.

    Example:
        >>> found = evaluate("detectors/screws", "data/screws")  # doctest: +SKIP
        >>> found.figures["overall"].image_auroc  # doctest: +SKIP
    """
    check_threshold(threshold)
    found = read_dataset(dataset)
    bundle = load_bundle(str(detector))
    with ProgressBar("evaluating", len(found.images), show_progress) as bar:
        engine = Engine(bundle.detector, default_device())
        return evaluate_bundle(bundle, engine, storage.normalised(detector), found, threshold, bar.update)


def evaluate_bundle(
    bundle: Bundle,
    engine: Engine,
    detector: str,
    found: Dataset,
    threshold: float | None = None,
    on_image: Callable[[int], None] = lambda _: None,
) -> Evaluation:
    """Evaluate a bundle, whose detector is loaded in `engine`, on the images of a dataset.

    Args:
        detector: location of the bundle, for the result.
        threshold: replaces the calibrated threshold.
        on_image: receives the number of images done so far.
    """
    threshold = bundle.calibration.threshold if threshold is None else threshold
    labelled = _LabelledPixels(bundle.detector.settings)
    in_flight: deque[tuple[LabelledImage, np.ndarray | None]] = deque()

    def readable() -> Iterator[np.ndarray]:
        loaded = read_ahead(labelled.load, found.images, READERS)
        for done, (image, pair) in enumerate(zip(found.images, loaded, strict=True)):
            on_image(done)
            if pair is not None:
                pixels, mask = pair
                in_flight.append((image, mask))
                yield pixels

    scored: list[ScoredImage] = []
    counts: dict[tuple[str, str], PixelCounts] = {}
    for detection in engine.detect_images(readable(), with_reconstruction=False):
        image, mask = in_flight.popleft()
        tail = float(bundle.calibration.tail_probability(np.array([detection.score]))[0])
        scored.append(
            ScoredImage(image.uri, image.product, image.kind, detection.score, threshold, tail, image.mask_uri)
        )
        if mask is not None:
            counts.setdefault((image.product, image.kind), PixelCounts()).add(detection.anomaly_map, mask)
    on_image(len(found.images))
    if not scored:
        raise UserError(
            f"none of the {len(found.images)} test images can be used: {first_reasons(labelled.unreadable)}"
        )
    settings = bundle.detector.settings
    return conclude(
        Subject(
            detector,
            bundle.fingerprint,
            found.location,
            found.layout,
            image_size=settings.image_size,
            view=settings.view,
        ),
        scored,
        {**counts, **dict.fromkeys(labelled.without_mask)},
        labelled.unreadable,
        [*found.notes, *labelled.notes(), *supervision(bundle, [image.uri for image in found.images])],
    )


class _LabelledPixels:
    """Loads labelled images and their masks at the size of the maps; safe to call from several threads.

    Attributes:
        unreadable: reasons by URI of the images that can't be used.
        without_mask: by product and kind, the reasons by URI of the images that have no usable mask.
    """

    def __init__(self, settings: DetectorSettings):
        self.settings = settings
        self.unreadable: dict[str, str] = {}
        self.without_mask: dict[tuple[str, str], dict[str, str]] = {}

    def load(self, image: LabelledImage) -> tuple[np.ndarray, np.ndarray | None] | None:
        """Return pixels [H,W,3] and mask [h,w], bool, or None in the place of what can't be used."""
        try:
            decoding = decoding_of(self.settings)
            found = decode_image(storage.read(image.uri), white=decoding.white, least_side=decoding.least_side)
            pixels = found.pixels
            check_side(pixels)
        except (ImageError, OSError) as error:
            self.unreadable[image.uri] = str(error)
            return None
        try:
            mask = truth_mask(image, found.height, found.width)
        except ImageError as error:
            # The image still has a score and a label; only its pixel figures are undefined.
            self.without_mask.setdefault((image.product, image.kind), {})[image.uri] = str(error)
            return pixels, None
        return pixels, at_size(mask, *grid_of(pixels.shape[0], pixels.shape[1], self.settings).map_size)

    def notes(self) -> list[str]:
        return [
            f"{product}, {kind}: neither the kind nor overall has figures of pixels; images without a usable mask: "
            f"{len(reasons)}, {first_reasons(dict(sorted(reasons.items())))}"
            for (product, kind), reasons in sorted(self.without_mask.items())
        ]


def supervision(bundle: Bundle, tested: Sequence[str]) -> list[str]:
    """Return notes on a detector trained with defective images, and on those that are among the tested URIs."""
    learnt = set(bundle.facts.get("data", {}).get("defective", ()))
    if not learnt:
        return []
    notes = [f"weakly supervised: the detector has learnt from {len(learnt)} defective images"]
    if both := sum(uri in learnt for uri in tested):
        notes.append(f"{both} of the test images are among those: leave them out, for they flatter all figures")
    return notes


def check_threshold(threshold: float | None) -> None:
    """Raise UserError if a threshold is given and not finite."""
    if threshold is not None and not math.isfinite(threshold):
        raise UserError(f"the threshold must be a number, not {threshold}")
