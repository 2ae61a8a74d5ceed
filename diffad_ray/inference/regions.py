"""From an anomaly map to a mask and its regions, in pixels of the original image."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np


def anomaly_mask(anomaly_map: np.ndarray, width: int, height: int, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """The map [h,w] at the size of the original image [H,W], and where it reaches the threshold, bool [H,W].

    The mask of an image is never empty: interpolation may lower a peak below the threshold, its place stays marked.
    """
    full = cv2.resize(anomaly_map.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    return full, full >= min(threshold, float(full.max()))


def run_lengths(mask: np.ndarray) -> list[int]:
    """Lengths of the runs of a mask [H,W] read row by row, off and on in turn, beginning with off (maybe 0)."""
    flat = np.concatenate([[False], mask.ravel(), [not mask.ravel()[-1]]])
    ends = np.flatnonzero(flat[1:] != flat[:-1])
    return np.diff(ends, prepend=0).tolist()


def mask_from_runs(runs: list[int], width: int, height: int) -> np.ndarray:
    """The mask bool [H,W] of `run_lengths`."""
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width)


def find_regions(full_map: np.ndarray, mask: np.ndarray) -> list[dict[str, Any]]:
    """8-connected regions of a mask [H,W], largest peak first, as rows of the regions table without their image.

    Box (`x`, `y`, `width`, `height`), `area` and centroid are in pixels; `peak` and `mean` are of the map [H,W];
    `mask_runs` are the run lengths of the region within its box.
    """
    count, labels, stats, centroids = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    regions: list[dict[str, Any]] = []
    for label in range(1, count):
        x, y, width, height, area = (int(value) for value in stats[label])
        box = np.s_[y : y + height, x : x + width]
        inside = labels[box] == label
        values = full_map[box][inside]
        regions.append(
            {
                "x": x,
                "y": y,
                "width": width,
                "height": height,
                "area": area,
                "peak": float(values.max()),
                "mean": float(values.mean()),
                "centroid_x": float(centroids[label][0]),
                "centroid_y": float(centroids[label][1]),
                "mask_runs": run_lengths(inside),
            }
        )
    regions.sort(key=lambda region: -region["peak"])
    return regions


def mask_png(mask: np.ndarray) -> bytes:
    """An 8-bit PNG, 255 where anomalous, of a mask [H,W] whose sides are at most `images.limits.LONGEST_SIDE`."""
    encoded, data = cv2.imencode(".png", mask.astype(np.uint8) * 255, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    assert encoded, "decoding refuses longer images"
    return data.tobytes()
