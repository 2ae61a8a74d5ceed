"""The pictures of a review: an original as JPEG, outlines of regions as paths, and the mean of good images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import cv2
import numpy as np

from diffad_ray.images import for_display
from diffad_ray.inference.regions import mask_from_runs
from diffad_ray.reports.mean_image import mean_image
from diffad_ray.reports.originals import Size, read_original

LONGEST = {"small": 160, "view": 1600, "full": 6000}
"Longest side in pixels of a picture, by its use: a thumbnail, the image to judge, and the same one enlarged."
MEAN_SIDE = 1000
JPEG_QUALITY = 90
MOST_OUTLINES = 200
"Regions beyond it are not outlined; those with the highest peaks come first."


def jpeg(picture: np.ndarray) -> bytes:
    """Return a picture [H,W,3] uint8 as a JPEG file."""
    blue_first = np.ascontiguousarray(picture[..., ::-1])
    encoded, data = cv2.imencode(".jpg", blue_first, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    assert encoded, "8-bit colour pictures of these sizes can be written"
    return data.tobytes()


def original_jpeg(uri: str, size: Size, longest: int) -> bytes:
    """Return a scored image as JPEG, with no side above `longest`.

    Raises:
        UserError: its file is gone, can't be read, or is another.
    """
    return jpeg(for_display(read_original(uri, size), longest))


def mean_jpeg(uris: Iterable[str], size: Size) -> bytes | None:
    """Return the mean of images of one size as JPEG; None if too few of them can be read."""
    mean = mean_image(uris, size, MEAN_SIDE).pixels
    return None if mean is None else jpeg(mean)


def outlines(regions: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the outlines of rows of `regions` as SVG paths, in pixels of the original image.

    Returns:
        For each region its `path`, its `box` (x, y, width, height) and its `peak`.
    """
    return [
        {
            "path": _path(region),
            "box": [region[side] for side in ("x", "y", "width", "height")],
            "peak": float(f"{region['peak']:.4g}"),
        }
        for region in regions[:MOST_OUTLINES]
    ]


def _path(region: dict[str, Any]) -> str:
    # A table of older code may lack the runs; the box is known then.
    width, height = region["width"], region["height"]
    runs = region["mask_runs"]
    mask = np.ones((height, width), bool) if runs is None else mask_from_runs(runs, width, height)
    # An empty frame, and then a shift by half a pixel: the line runs around the pixels, not through them.
    framed = np.pad(mask.astype(np.uint8), 1)
    found, _ = cv2.findContours(framed, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    lines = []
    for outline in found:
        points = outline[:, 0] + [region["x"] - 0.5, region["y"] - 0.5]
        lines.append("M" + "L".join(f"{x:g} {y:g}" for x, y in points) + "Z")
    return "".join(lines)
