"""`evaluate`: scores labelled images with a detector and computes figures."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from diffad_ray import storage
from diffad_ray.bundles.bundle import Bundle, load_bundle
from diffad_ray.errors import UserError, first_reasons
from diffad_ray.evaluation.figures import ScoredImage
from diffad_ray.evaluation.masks import read_mask
from diffad_ray.evaluation.pixels import PixelCounts
from diffad_ray.evaluation.result import Evaluation, conclude
from diffad_ray.images import ImageError, check_side, decode_image, resized
from diffad_ray.inference.engine import Engine, default_device
from diffad_ray.inference.views import grid_of
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
    images, settings = found.images, bundle.detector.settings
    threshold = bundle.calibration.threshold if threshold is None else threshold
    unreadable: dict[str, str] = {}
    without_mask: dict[tuple[str, str], dict[str, str]] = {}

    def load(image: LabelledImage) -> tuple[np.ndarray, np.ndarray | None] | None:
        try:
            pixels = decode_image(storage.read(image.uri), white=settings.white).pixels
            check_side(pixels)
        except (ImageError, OSError) as error:
            unreadable[image.uri] = str(error)
            return None
        mask = None
        try:
            mask = _mask(image, *pixels.shape[:2])
        except ImageError as error:
            # The image still has a score and a label; only its pixel figures are undefined.
            without_mask.setdefault((image.product, image.kind), {})[image.uri] = str(error)
        height, width = grid_of(pixels.shape[0], pixels.shape[1], settings).map_size
        return pixels, None if mask is None else _at_size(mask, height, width)

    in_flight: deque[tuple[LabelledImage, np.ndarray | None]] = deque()

    def readable() -> Iterator[np.ndarray]:
        for done, (image, loaded) in enumerate(zip(images, read_ahead(load, images, READERS), strict=True)):
            on_image(done)
            if loaded is not None:
                pixels, mask = loaded
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
    on_image(len(images))
    if not scored:
        raise UserError(f"none of the {len(images)} test images can be used: {first_reasons(unreadable)}")
    notes = [
        f"{product}, {kind}: neither the kind nor overall has figures of pixels; images without a usable mask: "
        f"{len(reasons)}, {first_reasons(dict(sorted(reasons.items())))}"
        for (product, kind), reasons in sorted(without_mask.items())
    ]
    return conclude(
        scored,
        {**counts, **dict.fromkeys(without_mask)},
        detector=detector,
        fingerprint=bundle.fingerprint,
        dataset=found.location,
        layout=found.layout,
        image_size=settings.image_size,
        view=settings.view,
        unreadable=unreadable,
        notes=[*found.notes, *notes, *supervision(bundle, [image.uri for image in images])],
    )


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


def _mask(image: LabelledImage, height: int, width: int) -> np.ndarray:
    """Return the ground truth [H,W] float32 of an image of height x width; pixels >= 0.5 are defective.

    Raises:
        ImageError: a defective image has no usable mask.
    """
    if not image.is_anomalous:
        return np.zeros((height, width), np.float32)
    if image.mask_uri is None:
        raise ImageError("unreadable", "no mask is there")
    try:
        mask = read_mask(storage.read(image.mask_uri))
    except (ImageError, OSError) as error:
        raise ImageError("unreadable", f"its mask {image.mask_uri} can't be read: {error}") from error
    if mask.shape != (height, width):
        size = f"{mask.shape[1]} x {mask.shape[0]} pixels, the image {width} x {height}"
        raise ImageError("unreadable", f"its mask {image.mask_uri} has {size}: they must be alike")
    if not mask.any():
        raise ImageError("unreadable", f"its mask {image.mask_uri} is empty, though the label says {image.kind}")
    return mask


def _at_size(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize a mask [H,W] in [0,1] to a map's height x width, bool, and keep every region, however thin or small."""
    # The mask is resized as floats and then thresholded; rounding down would erode it.
    found = resized(mask, width, height) >= 0.5
    y, x = (mask >= 0.5).nonzero()
    cells = y * height // mask.shape[0] * width + x * width // mask.shape[1]
    if found.flat[cells].all():
        # All defective pixels are kept, as in masks of good images, which have none.
        return found
    count, region_of = cv2.connectedComponents((mask >= 0.5).astype(np.uint8), connectivity=8)
    regions, is_lost = region_of[y, x].astype(np.int64), np.ones(count, bool)
    is_lost[regions[found.flat[cells]]] = False
    mine = is_lost[regions]
    # Count the pixels of each lost region in each pixel of the map; the map pixels with the highest counts are set.
    keys, sizes = np.unique(regions[mine] * found.size + cells[mine], return_counts=True)
    regions, cells = np.divmod(keys, found.size)
    most = np.zeros(count)
    np.maximum.at(most, regions, sizes)
    found.flat[cells[sizes >= most[regions] / 2]] = True
    return found
