"""A picture of the worst images of a table: image, reconstruction, anomaly map and what was marked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from matplotlib.figure import Figure

from diffad_ray.detectors.bundle import load_bundle
from diffad_ray.detectors.engine import Engine, default_device
from diffad_ray.errors import UserError
from diffad_ray.images import for_display, resized
from diffad_ray.reports.originals import read_original
from diffad_ray.scoring.masks import picture_mask
from diffad_ray.table.reading import read_views

COLUMNS = ("image", "without its anomaly", "anomaly map", "marked")
SPARE = 20
"So many images may be left out before the picture gets shorter: a table may have outlived all its images."
LONGEST_SIDE = 512
"Pictures are shown at this size at most, in pixels."


@dataclass(frozen=True)
class WorstImage:
    """One line of the gallery; pictures are [H,W,3], the map [H,W] in the unit of the score."""

    uri: str
    score: float
    threshold: float
    image: np.ndarray
    reconstruction: np.ndarray
    anomaly_map: np.ndarray
    marked: np.ndarray


class Worst(NamedTuple):
    """The worst images that can be shown, and why worse ones can't, each named."""

    images: list[WorstImage]
    left_out: list[str]


def worst_images(table: str | Path, detector: str | Path, count: int) -> Worst:
    """The images that a detector found worst, detected again to show what it saw.

    An image that is gone, unreadable or another now gives its place to the next worst.

    Raises:
        UserError: no table, no detector, no image with a score of that detector, or none that can be shown.
    """
    bundle = load_bundle(str(detector))
    sql = (
        "SELECT image_uri, score, threshold, width, height FROM scores WHERE detector_fingerprint = ? "
        f"AND status = 'ok' ORDER BY score DESC LIMIT {count + SPARE}"
    )
    rows = read_views(str(table), lambda views: views.execute(sql, [bundle.fingerprint]).fetchall())
    if not rows:
        raise UserError(f"the table {table} has no scores of the detector {detector} ({bundle.fingerprint})")
    engine = Engine(bundle.detector, default_device())
    shown: list[tuple[str, float, float, np.ndarray]] = []
    left_out: list[str] = []

    def originals() -> Iterator[np.ndarray]:
        for uri, score, threshold, width, height in rows:
            try:
                image = read_original(uri, (width, height), bundle.detector.settings)
            except UserError as error:
                left_out.append(str(error))
                continue
            shown.append((uri, score, threshold, for_display(image, LONGEST_SIDE)))
            yield image

    worst = []
    # A detection comes after its original was taken, so there is a picture for it.
    detections = engine.detect_images(islice(originals(), count))
    for found, (uri, score, threshold, picture) in zip(detections, shown, strict=True):
        height, width = picture.shape[:2]
        assert found.reconstruction is not None
        restored = resized(found.reconstruction, width, height)
        full_map, mask = picture_mask(found.anomaly_map, width, height, threshold)
        marked = _outlined(picture, mask) if score >= threshold else picture
        worst.append(WorstImage(uri, score, threshold, picture, restored, full_map, marked))
    if not worst:
        raise UserError(f"none of the worst images of the table {table} can be shown: {'; '.join(left_out[:3])}")
    return Worst(worst, left_out)


def _outlined(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(image.copy(), outlines, -1, (255, 30, 30), max(1, max(image.shape) // 160))


def draw_gallery(groups: Mapping[str, list[WorstImage]], output: str | Path) -> None:
    """Write the picture as PNG: a block of four columns for each named group, a line an image.

    Raises:
        UserError: the file can't be written.
    """
    lines = max(len(images) for images in groups.values())
    figure = Figure(figsize=(7.2 * len(groups), 1.9 * lines + 0.8), layout="constrained", facecolor="white")
    for block, (name, images) in zip(figure.subfigures(1, len(groups), squeeze=False)[0], groups.items(), strict=True):
        block.suptitle(name, fontsize=13, fontweight="bold")
        for line, axes in enumerate(block.subplots(lines, len(COLUMNS), squeeze=False)):
            for axis in axes:
                axis.set_axis_off()
            if line >= len(images):
                continue
            worst = images[line]
            top = max(2 * worst.threshold, float(worst.anomaly_map.max()))
            axes[0].imshow(worst.image)
            axes[1].imshow(worst.reconstruction.clip(0, 1))
            axes[2].imshow(worst.anomaly_map, cmap="inferno", vmin=0, vmax=top)
            axes[3].imshow(worst.marked)
            title = f"{worst.uri.rsplit('/', 1)[-1]}  {worst.score:.3f}"
            axes[0].set_title(title, fontsize=8, color="firebrick" if worst.score >= worst.threshold else "black")
            if line == 0:
                for axis, column in zip(axes[1:], COLUMNS[1:], strict=True):
                    axis.set_title(column, fontsize=8)
    try:
        figure.savefig(str(output), format="png", dpi=100)
    except OSError as error:
        raise UserError(f"the picture can't be written: {error}") from error
