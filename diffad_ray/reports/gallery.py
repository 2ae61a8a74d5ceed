"""A picture of the worst images of a table: image, reconstruction, anomaly map and what was marked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from diffad_ray.bundles.bundle import load_bundle
from diffad_ray.errors import UserError
from diffad_ray.images import for_display, resized
from diffad_ray.inference.engine import Engine, default_device
from diffad_ray.inference.verdict import verdict
from diffad_ray.reports.drawing import at_picture_size, heat, marked_by
from diffad_ray.reports.originals import read_original
from diffad_ray.table.views import ask_views

SPARE = 20
"So many images may be left out before the picture gets shorter: a table may have outlived all its images."
LONGEST_SIDE = 512
"Pictures are shown at this size at most, in pixels."


@dataclass(frozen=True)
class WorstImage:
    """One line of the gallery; pictures are [H,W,3], the map [H,W] in the unit of the score.

    Some kinds of detector make no reconstructions.
    """

    uri: str
    score: float
    threshold: float
    image: np.ndarray
    reconstruction: np.ndarray | None
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
    rows = ask_views(str(table), lambda views: views.execute(sql, [bundle.fingerprint]).fetchall())
    if not rows:
        raise UserError(f"the table {table} has no scores of the detector {detector} ({bundle.fingerprint})")
    engine = Engine(bundle.detector, default_device())
    shown: list[tuple[str, float, float, tuple[int, int], np.ndarray]] = []
    left_out: list[str] = []

    def originals() -> Iterator[np.ndarray]:
        for uri, score, threshold, width, height in rows:
            try:
                image = read_original(uri, (width, height), bundle.detector.settings)
            except UserError as error:
                left_out.append(str(error))
                continue
            shown.append((uri, score, threshold, (width, height), for_display(image, LONGEST_SIDE)))
            yield image

    worst = []
    # A detection comes after its original was taken, so there is a picture for it.
    detections = engine.detect_images(islice(originals(), count))
    for found, (uri, score, threshold, size, picture) in zip(detections, shown, strict=True):
        judged = verdict(score, found.anomaly_map, size, bundle.calibration, threshold)
        height, width = picture.shape[:2]
        restored = None if found.reconstruction is None else resized(found.reconstruction, width, height).clip(0, 1)
        marked = marked_by(judged, picture)
        full_map = at_picture_size(found.anomaly_map, width, height)
        worst.append(WorstImage(uri, score, threshold, picture, restored, full_map, marked))
    if not worst:
        raise UserError(f"none of the worst images of the table {table} can be shown: {'; '.join(left_out[:3])}")
    return Worst(worst, left_out)


def draw_gallery(groups: Mapping[str, list[WorstImage]], output: str | Path) -> None:
    """Write the picture as PNG: a block of columns for each named group of images of one detector, a line an image.

    Raises:
        UserError: the file can't be written.
    """
    shown = {name: [_pictures(one) for one in images] for name, images in groups.items()}
    columns = [len(pictures[0]) for pictures in shown.values()]
    lines = max(map(len, shown.values()))
    figure = Figure(figsize=(1.8 * sum(columns), 1.9 * lines + 0.8), layout="constrained", facecolor="white")
    blocks = figure.subfigures(1, len(groups), squeeze=False, width_ratios=columns)[0]
    for block, count, (name, images) in zip(blocks, columns, groups.items(), strict=True):
        block.suptitle(name, fontsize=13, fontweight="bold", parse_math=False)
        grid = block.subplots(lines, count, squeeze=False)
        for axes in grid.flat:
            axes.set_axis_off()
        for line, (worst, pictures) in enumerate(zip(images, shown[name], strict=True)):
            for axes, (title, picture) in zip(grid[line], pictures.items(), strict=True):
                axes.imshow(picture)
                if line == 0:
                    axes.set_title(title, fontsize=8)
            title = f"{worst.uri.rsplit('/', 1)[-1]}  {worst.score:.3f}"
            colour = "firebrick" if worst.score >= worst.threshold else "black"
            grid[line][0].set_title(title, fontsize=8, color=colour, parse_math=False)
    try:
        figure.savefig(str(output), format="png", dpi=100)
    except OSError as error:
        raise UserError(f"the picture can't be written: {error}") from error


def _pictures(worst: WorstImage) -> dict[str, np.ndarray]:
    """The pictures of a line, by the titles of their columns."""
    restored = {} if worst.reconstruction is None else {"without its anomaly": worst.reconstruction}
    coloured = heat(worst.anomaly_map, worst.threshold)
    return {"image": worst.image, **restored, "anomaly map": coloured, "marked": worst.marked}
