"""`overlay`: an image with what was found in it, drawn from the table alone: no detector and no mask file is needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import duckdb
import numpy as np

from diffad_ray import storage
from diffad_ray.errors import UserError
from diffad_ray.images import IMAGE_SUFFIXES, for_display
from diffad_ray.inference.regions import mask_from_runs
from diffad_ray.reports.drawing import FOUND
from diffad_ray.reports.originals import read_original
from diffad_ray.table.views import ask_views

LONGEST_SIDE = 2000
"Larger images are reduced to this, in pixels."
MOST_LABELS = 20
"Regions beyond it are drawn without their peak; the highest peaks come first."
OTHER_PICTURES = (*(IMAGE_SUFFIXES - {".png"}), ".pdf", ".svg")
BOX, INK, PAPER = (255, 214, 10), (255, 255, 255), (0, 0, 0)


def overlay(table: str | Path, image: str) -> np.ndarray:
    """The original image [H,W,3] uint8 with the outline, the box and the peak of each region; large ones are reduced.

    Args:
        image: its URI, the last part of its path, or its image_id. Of several rows, the last scored one is shown.

    Raises:
        UserError: no table; no such image, or several; it has no score; or its file is gone, unreadable or another.
    """
    return draw_regions(*original_and_regions(table, image))


def original_and_regions(table: str | Path, image: str) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """The original image [H,W,3] and its rows of the regions table, the highest peak first; see `overlay`."""
    row, regions = _find(str(table), image)
    if row["status"] != "ok":
        raise UserError(f"{row['image_uri']} has no score: {row['status']} ({row['error']})")
    return read_original(row["image_uri"], (row["width"], row["height"])), regions


def check_png(output: str) -> None:
    """Raise UserError if the name of a picture to come is another format's."""
    if output.lower().endswith(OTHER_PICTURES):
        raise UserError(f"{output}: pictures are written as PNG: give it a name that ends with .png")


def write_png(picture: np.ndarray, output: str) -> None:
    """Write a picture [H,W,3] to a file or object.

    Raises:
        OSError: it can't be written.
    """
    encoded, data = cv2.imencode(".png", picture[..., ::-1])
    if not encoded:
        raise ValueError(f"a picture of {picture.shape[1]} x {picture.shape[0]} pixels can't be written as PNG")
    storage.write(output, data.tobytes())


def draw_regions(pixels: np.ndarray, regions: list[dict[str, Any]]) -> np.ndarray:
    """Rows of the regions table drawn on their image [H,W,3]; a new one, uint8."""
    drawn = for_display(pixels, LONGEST_SIDE)
    scale = max(drawn.shape[:2]) / max(pixels.shape[:2])
    line = max(1, round(max(drawn.shape) / 500))
    for region in regions:
        mask = mask_from_runs(region["mask_runs"], region["width"], region["height"])
        corner = np.array([region["x"], region["y"]])
        outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        moved = [np.round((outline + corner + 0.5) * scale - 0.5).astype(np.int32) for outline in outlines]
        cv2.polylines(drawn, moved, True, FOUND, line)
        far = corner + np.array([region["width"], region["height"]])
        # Around the outline, not on it, but within the picture.
        low = np.maximum((corner * scale).astype(int) - 2 * line, 0)
        high = np.minimum(np.ceil(far * scale).astype(int) + 2 * line, [drawn.shape[1] - 1, drawn.shape[0] - 1])
        cv2.rectangle(drawn, low.tolist(), high.tolist(), BOX, line)
    for region in regions[:MOST_LABELS]:
        _label(drawn, f"{region['peak']:.3g}", region["x"] * scale, region["y"] * scale, line)
    return drawn


def _label(drawn: np.ndarray, text: str, x: float, y: float, line: int) -> None:
    """Text above a point, or within the picture as near to there as it fits."""
    font, size = cv2.FONT_HERSHEY_SIMPLEX, max(0.35, 0.35 * line)
    (width, height), _ = cv2.getTextSize(text, font, size, line)
    left = max(0, min(int(x), drawn.shape[1] - width))
    base = min(max(height + line, int(y) - 4 * line), drawn.shape[0] - line)
    cv2.putText(drawn, text, (left, base), font, size, PAPER, 3 * line, cv2.LINE_AA)
    cv2.putText(drawn, text, (left, base), font, size, INK, line, cv2.LINE_AA)


def _find(table: str, image: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The row of an image, and its regions, the highest peak first."""

    def look_up(connection: duckdb.DuckDBPyConnection) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        def rows(sql: str, *values: object) -> list[dict[str, Any]]:
            return connection.sql(sql, params=list(values)).to_arrow_table().to_pylist()

        columns = "image_id, image_uri, status, error, width, height, detector_fingerprint"
        found = rows(
            f"SELECT {columns}, image_uri = ?1 AS is_exact FROM scores WHERE image_uri = ?1 "
            "OR ends_with(image_uri, '/' || ?1) OR image_id = TRY_CAST(?1 AS BIGINT) ORDER BY scored_at DESC LIMIT 100",
            image,
        )
        found = [row for row in found if row["is_exact"]] or found
        if not found:
            return [], []
        key = (found[0]["image_id"], found[0]["detector_fingerprint"])
        mine = "FROM regions WHERE image_id = ? AND detector_fingerprint = ?"
        return found, rows(f"SELECT x, y, width, height, peak, mask_runs {mine} ORDER BY region", *key)

    found, regions = ask_views(table, look_up)
    if not found:
        raise UserError(f"the table {table} has no image {image}: give its image_uri, its file name, or its image_id")
    uris = sorted({row["image_uri"] for row in found})
    if len(uris) > 1:
        raise UserError(f"{len(uris)} images are called {image}, such as {uris[0]} and {uris[1]}: give the whole URI")
    return found[0], regions
