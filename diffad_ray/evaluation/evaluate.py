"""`evaluate`: a detector on labelled images."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from diffad_ray import storage
from diffad_ray.detectors.bundle import Bundle, load_bundle
from diffad_ray.detectors.engine import Engine, default_device
from diffad_ray.detectors.views import grid_of
from diffad_ray.errors import UserError, first_reasons
from diffad_ray.evaluation.figures import ScoredImage
from diffad_ray.evaluation.pixels import PixelCounts
from diffad_ray.evaluation.result import Evaluation, conclude
from diffad_ray.images import ImageError, check_side, decode_image, resized
from diffad_ray.labels.datasets import Dataset, LabelledImage
from diffad_ray.labels.reading import read_dataset
from diffad_ray.progress import ProgressBar
from diffad_ray.read_ahead import read_ahead

READERS = 8


def evaluate(
    detector: str | Path, dataset: str | Path, *, threshold: float | None = None, show_progress: bool = False
) -> Evaluation:
    """Score labelled test images and compare with their labels and masks.

    Args:
        detector: folder or URI of a bundle.
        dataset: folder or URI of a product, or of several, in a layout that `read_dataset` knows; or a table of labels.
        threshold: replaces the calibrated one.

    Raises:
        UserError: the dataset is not as it must be, has no readable image, or a mask of another size than its image.
    """
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
    """`evaluate` of a bundle whose detector is in `engine`, called `detector`, on images that were found; `on_image`
    counts them."""
    images, settings = found.images, bundle.detector.settings
    threshold = bundle.calibration.threshold if threshold is None else threshold
    unreadable: dict[str, str] = {}

    def load(image: LabelledImage) -> tuple[np.ndarray, np.ndarray | None] | None:
        try:
            pixels = decode_image(storage.read(image.uri)).pixels
            check_side(pixels)
            mask = _mask(image, *pixels.shape[:2])
        except (ImageError, OSError) as error:
            unreadable[image.uri] = str(error)
            return None
        # As numbers, not as int() of a blurred mask, which would erode it.
        height, width = grid_of(pixels.shape[0], pixels.shape[1], settings).map_size
        return pixels, None if mask is None else resized(mask, width, height) >= 0.5

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
    without_mask: dict[tuple[str, str], int] = {}
    vanished = 0
    for detection in engine.detect_images(readable(), with_reconstruction=False):
        image, mask = in_flight.popleft()
        tail = float(bundle.calibration.tail_probability(np.array([detection.score]))[0])
        scored.append(
            ScoredImage(image.uri, image.product, image.kind, detection.score, threshold, tail, image.mask_uri)
        )
        key = (image.product, image.kind)
        if mask is None:
            without_mask[key] = without_mask.get(key, 0) + 1
        else:
            counts.setdefault(key, PixelCounts()).add(detection.anomaly_map, mask)
            vanished += image.is_anomalous and not mask.any()
    on_image(len(images))
    if not scored:
        raise UserError(f"none of the {len(images)} test images can be used: {first_reasons(unreadable)}")
    notes = [
        f"{product}, {kind}: {number} defective images have no mask, so that the kind has no pixel figures"
        for (product, kind), number in without_mask.items()
    ]
    if vanished:
        notes.append(f"{vanished} masks of defective images hold no defect, or none that is left at the maps' size")
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
    """What a reader must know of a detector that has learnt from defective images, and of tested ones among them."""
    learnt = set(bundle.facts.get("data", {}).get("defective", ()))
    if not learnt:
        return []
    notes = [f"weakly supervised: the detector has learnt from {len(learnt)} defective images"]
    if both := sum(uri in learnt for uri in tested):
        notes.append(f"{both} of the test images are among those: leave them out, for they flatter all figures")
    return notes


def _mask(image: LabelledImage, height: int, width: int) -> np.ndarray | None:
    """Ground truth [H,W] float32 of an image of height x width, 1 where it is defective; None where it has no mask."""
    if not image.is_anomalous:
        return np.zeros((height, width), np.float32)
    if image.mask_uri is None:
        return None
    try:
        pixels = decode_image(storage.read(image.mask_uri)).pixels.max(axis=2)
    except (ImageError, OSError) as error:
        raise ImageError("unreadable", f"its mask {image.mask_uri} can't be read: {error}") from error
    if pixels.shape != (height, width):
        raise UserError(
            f"the mask {image.mask_uri} has {pixels.shape[1]} x {pixels.shape[0]} pixels, "
            f"its image {image.uri} has {width} x {height}: they must be alike"
        )
    share = pixels.astype(np.float32) / np.iinfo(pixels.dtype).max
    # Masks such as VisA's hold numbers of classes, from 1 up, instead of white.
    return share if share.max() >= 0.5 else (pixels > 0).astype(np.float32)
