"""The images of an evaluation that are worth a look, with what the detector made of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from diffad_ray import storage
from diffad_ray.bundles.bundle import load_bundle
from diffad_ray.errors import UserError
from diffad_ray.evaluation.figures import ScoredImage
from diffad_ray.evaluation.masks import read_mask
from diffad_ray.evaluation.result import Evaluation
from diffad_ray.images import ImageError, check_side, for_display, resized
from diffad_ray.inference.engine import Engine, default_device
from diffad_ray.inference.verdict import verdict
from diffad_ray.labels.datasets import GOOD
from diffad_ray.reports.drawing import TRUTH, at_picture_size, heat, marked_by, outlined
from diffad_ray.reports.originals import Size, max_pixels, read_original, sizes_in
from diffad_ray.reports.overlay import draw_regions, original_and_regions

SHOWN = 6
"Images of a group."
LONGEST_SIDE = 256


@dataclass(frozen=True)
class Example:
    """An image with pictures [H,W,3] uint8 by their titles; none, and a reason, where it can't be shown."""

    image: ScoredImage
    pictures: dict[str, np.ndarray]
    problem: str = ""


def chosen(evaluation: Evaluation) -> dict[str, list[ScoredImage]]:
    """Up to `SHOWN` images for each group: the clearest finds, the worst false alarms, and the most missed.

    Clear or bad is what its tail probability says, for scores of several detectors do not compare.
    """

    def rank(image: ScoredImage) -> tuple[float, float]:
        return image.tail_probability, -image.score

    ranked = sorted(evaluation.images, key=rank)
    called = [image for image in ranked if image.score >= image.threshold]
    missed = [image for image in reversed(ranked) if image.kind != GOOD and image.score < image.threshold]
    return {
        "Best found": [image for image in called if image.kind != GOOD][:SHOWN],
        "Worst false alarms": [image for image in called if image.kind == GOOD][:SHOWN],
        "Missed": missed[:SHOWN],
    }


def detected(images: list[ScoredImage], detector: str, table: str | None) -> list[Example]:
    """The images detected again: with their truth, without their anomaly if the detector tells, as a map, and
    with what is marked.

    Args:
        table: whose scores were evaluated, if any; it knows how large the images are.
    """
    if not images:
        return []
    sizes = {} if table is None else sizes_in(table, [image.uri for image in images])
    bundle = load_bundle(detector)
    engine = Engine(bundle.detector, default_device())
    problems: dict[str, str] = {}
    originals: dict[str, np.ndarray] = {}
    seen: dict[str, Size] = {}

    def readable() -> Iterator[np.ndarray]:
        for image in images:
            try:
                pixels = read_original(image.uri, sizes.get(image.uri), engine.detector.settings)
                check_side(pixels)
            except (ImageError, UserError) as error:
                problems[image.uri] = str(error)
                continue
            originals[image.uri] = for_display(pixels, LONGEST_SIDE)
            seen[image.uri] = (pixels.shape[1], pixels.shape[0])
            yield pixels

    found = list(engine.detect_images(readable()))
    detections = dict(zip(originals, found, strict=True))
    examples = []
    for image in images:
        if image.uri in problems:
            examples.append(Example(image, {}, problems[image.uri]))
            continue
        picture, detection = originals[image.uri], detections[image.uri]
        height, width = picture.shape[:2]
        pictures = _original(picture, image, sizes.get(image.uri))
        if detection.reconstruction is not None:
            restored = resized(detection.reconstruction, width, height).clip(0, 1)
            pictures["without its anomaly"] = (restored * 255).round().astype(np.uint8)
        judged = verdict(image.score, detection.anomaly_map, seen[image.uri], bundle.calibration, image.threshold)
        pictures["anomaly map"] = heat(at_picture_size(detection.anomaly_map, width, height), image.threshold)
        pictures["marked"] = marked_by(judged, picture)
        examples.append(Example(image, pictures))
    return examples


def marked_by_table(images: list[ScoredImage], table: str) -> list[Example]:
    """The images with the regions that a table has of them; no detector is needed."""
    examples = []
    for image in images:
        try:
            pixels, regions = original_and_regions(table, image.uri)
        except UserError as error:
            examples.append(Example(image, {}, str(error)))
            continue
        height, width = pixels.shape[:2]
        pictures = _original(for_display(pixels, LONGEST_SIDE), image, (width, height))
        pictures["marked"] = for_display(draw_regions(pixels, regions), LONGEST_SIDE)
        examples.append(Example(image, pictures))
    return examples


def _original(picture: np.ndarray, image: ScoredImage, size: Size | None) -> dict[str, np.ndarray]:
    """The picture of an image by its title, with the outline of its mask, which has the image's size.

    Where the mask can't be read, the title says so.
    """
    if image.mask_uri is None:
        return {"image": picture}
    try:
        mask = read_mask(storage.read(image.mask_uri), max_pixels(size)) >= 0.5
    except (ImageError, OSError):
        return {"image, its mask can't be read": picture}
    share = resized(mask.astype(np.float32), picture.shape[1], picture.shape[0])
    return {"image, truth outlined": outlined(picture, share >= 0.5, TRUTH)}
