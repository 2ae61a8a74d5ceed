"""The images of an evaluation that are worth a look, with what the detector made of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from diffad_ray import storage
from diffad_ray.detectors.bundle import load_bundle
from diffad_ray.detectors.engine import Engine, default_device
from diffad_ray.errors import UserError
from diffad_ray.evaluation.figures import ScoredImage
from diffad_ray.evaluation.result import Evaluation
from diffad_ray.images import ImageError, check_side, decode_image, for_display, resized
from diffad_ray.labels.datasets import GOOD
from diffad_ray.reports.originals import Size, max_pixels, read_original, sizes_in
from diffad_ray.reports.overlay import draw_regions, original_and_regions
from diffad_ray.scoring.masks import picture_mask

SHOWN = 6
"Images of a group."
LONGEST_SIDE = 256
TRUTH, FOUND = (40, 200, 80), (255, 45, 45)


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
    """The images detected again: with their truth, without their anomaly, as a map, and with what is marked.

    Args:
        table: whose scores were evaluated, if any; it knows how large the images are.
    """
    sizes = {} if table is None else sizes_in(table, [image.uri for image in images])
    engine = Engine(load_bundle(detector).detector, default_device())
    problems: dict[str, str] = {}
    originals: dict[str, np.ndarray] = {}

    def readable() -> Iterator[np.ndarray]:
        for image in images:
            try:
                pixels = read_original(image.uri, sizes.get(image.uri), engine.detector.settings)
                check_side(pixels)
            except (ImageError, UserError) as error:
                problems[image.uri] = str(error)
                continue
            originals[image.uri] = for_display(pixels, LONGEST_SIDE)
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
        assert detection.reconstruction is not None
        restored = (resized(detection.reconstruction, width, height).clip(0, 1) * 255).round().astype(np.uint8)
        full_map, mask = picture_mask(detection.anomaly_map, width, height, image.threshold)
        top = max(2 * image.threshold, float(full_map.max()), 1e-12)
        heat = cv2.applyColorMap((full_map.clip(0, top) / top * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)
        marked = _outlined(picture, mask, FOUND) if image.score >= image.threshold else picture
        pictures = {
            "image, truth outlined" if image.mask_uri else "image": _with_truth(picture, image, sizes.get(image.uri)),
            "without its anomaly": restored,
            "anomaly map": heat[..., ::-1],
            "marked": marked,
        }
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
        original = _with_truth(for_display(pixels, LONGEST_SIDE), image, (width, height))
        marked = for_display(draw_regions(pixels, regions), LONGEST_SIDE)
        title = "image, truth outlined" if image.mask_uri else "image"
        examples.append(Example(image, {title: original, "marked": marked}))
    return examples


def _with_truth(picture: np.ndarray, image: ScoredImage, size: Size | None) -> np.ndarray:
    """A picture with the outline of its mask, which has the size of the image; as it is where that can't be read."""
    if image.mask_uri is None:
        return picture
    try:
        mask = decode_image(storage.read(image.mask_uri), max_pixels(size)).pixels.max(axis=2) > 0
    except (ImageError, OSError):
        return picture
    share = resized(mask.astype(np.float32), picture.shape[1], picture.shape[0])
    return _outlined(picture, share >= 0.5, TRUTH)


def _outlined(picture: np.ndarray, mask: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(picture.copy(), outlines, -1, colour, max(1, max(picture.shape) // 160))
