"""Eight days of a small plant with three planted stories, for the demonstration of the report.

Two cameras look at brushed metal. The report compares the last four days with the four before. In these, the camera
`side` goes dim, the tool under the camera `top` leaves a mark from the third day on, and the bad lot C arrives.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from diffad_ray.demo.surfaces import defective, normal

PRODUCT = "brushed_metal"
TEMPLATE = "{date}/{camera}/{lot}-{part}.png"
FIRST, DAYS, SHOWN = date(2026, 1, 5), 8, 4
"The first day, the number of days, and those at the end that the report is about."
A_DAY = 14
"Images of a camera and day."
DIM_SINCE, LOT_SINCE, MARK_SINCE = 5, 5, 6
"Numbers of the days on which the stories begin; the third of the last four days is number 6."
LIGHT, DEFECTS, BAD_DEFECTS = 0.75, 0.04, 0.6
"Share of the light that is left, and shares of defective parts: usually, and in the bad lot."
MARK = (0.30, 0.62)
"Place of the mark in the image, in [0, 1]."


class _Job(NamedTuple):
    """An image to make."""

    path: Path
    day: int
    camera: str
    is_defective: bool
    rng: np.random.Generator


def make_days(root: Path, size: int, seed: int) -> int:
    """Write the images below `root`, as `TEMPLATE` says, and return how many there are."""
    rng = np.random.default_rng([seed, 77])
    jobs: list[_Job] = []
    for day in range(DAYS):
        for camera in ("top", "side"):
            for number in range(A_DAY):
                lot = "AB"[number % 2] if day < LOT_SINCE else "AC"[number % 2]
                is_defective = bool(rng.random() < (BAD_DEFECTS if lot == "C" else DEFECTS))
                folder = root / str(FIRST + timedelta(days=day)) / camera
                folder.mkdir(parents=True, exist_ok=True)
                job = _Job(folder / f"{lot}-{len(jobs):04d}.png", day, camera, is_defective, rng.spawn(1)[0])
                jobs.append(job)
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda job: _write(job, size), jobs))
    return len(jobs)


def _write(job: _Job, size: int) -> None:
    kind = ("stain", "dent")[int(job.rng.integers(2))]
    sample = defective(PRODUCT, kind, job.rng, size) if job.is_defective else normal(PRODUCT, job.rng, size)
    picture = sample.image.astype(np.float32)
    if job.camera == "top" and job.day >= MARK_SINCE:
        picture = _marked(picture)
    if job.camera == "side" and job.day >= DIM_SINCE:
        picture *= LIGHT
    if not cv2.imwrite(str(job.path), np.rint(picture).clip(0, 255).astype(np.uint8)[..., ::-1]):
        raise OSError(f"{job.path} can't be written")


def _marked(picture: np.ndarray) -> np.ndarray:
    """A picture [H,W,3] with the mark of a tool: a short dark groove, at the same place of each image."""
    side = picture.shape[0]
    x, y = round(MARK[0] * side), round(MARK[1] * side)
    reach = round(0.045 * side)
    groove = np.zeros(picture.shape[:2], np.float32)
    cv2.line(groove, (x - reach, y - reach // 2), (x + reach, y + reach // 2), 1.0, max(2, side // 40), cv2.LINE_AA)
    depth = cv2.GaussianBlur(groove, (0, 0), side / 200)
    return picture * (1 - 0.65 * depth[..., None])
