"""The demonstration archive: images of two products with known truth, and files that are broken."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from diffad_ray.demo.surfaces import DEFECTS, PRODUCTS, Sample, defective, normal

DEFECT_SHARE = 0.15
NORMALS_TO_TRAIN = 320
IMAGE_SIZE = 160


@dataclass(frozen=True)
class DemoArchive:
    """Where the demonstration's images are, and what is true of them.

    Attributes:
        root: folder of everything.
        truth: defect (`good` or its kind) by path of the archive's image.
        broken: paths of the files that can't be read.
    """

    root: Path
    truth: dict[str, str]
    broken: list[str]

    def normals(self, product: str) -> Path:
        """Images of good parts to train on; none of them is in the archive."""
        return self.root / "normals" / product

    def archive(self, product: str) -> Path:
        """The nightly images of a product."""
        return self.root / "archive" / product

    def masks(self, product: str) -> Path:
        """True masks of the archive's defects."""
        return self.root / "truth" / product


def make_archive(root: Path, images: int, seed: int) -> DemoArchive:
    """Generate normals to train on and an archive of about `images` images, both products alike."""
    demo = DemoArchive(root, {}, [])
    jobs = []
    for number, product in enumerate(PRODUCTS):
        rng = np.random.default_rng([seed, number])
        for k in range(NORMALS_TO_TRAIN):
            jobs.append((demo.normals(product) / f"{k:04d}.png", product, "good", rng.spawn(1)[0]))
        share = images // len(PRODUCTS)
        kinds = [DEFECTS[product][k % len(DEFECTS[product])] for k in range(round(DEFECT_SHARE * share))]
        defects = np.array([*kinds, *["good"] * (share - len(kinds))])
        for k, defect in enumerate(rng.permutation(defects)):
            path = demo.archive(product) / f"part-{k:04d}.png"
            demo.truth[str(path)] = str(defect)
            jobs.append((path, product, str(defect), rng.spawn(1)[0]))
    with ThreadPoolExecutor() as pool:
        for path, sample in pool.map(lambda job: (job[0], _draw(*job[1:])), jobs):
            _write(path, sample.image[..., ::-1])
            if sample.defect != "good":
                product = path.parent.name
                _write(demo.masks(product) / f"{path.stem}_mask.png", sample.mask.astype(np.uint8) * 255)
    for product in PRODUCTS:
        demo.broken.extend(_break_some(demo.archive(product)))
    (root / "truth.json").write_text(json.dumps(demo.truth, indent=1))
    return demo


def _draw(product: str, defect: str, rng: np.random.Generator) -> Sample:
    return normal(product, rng, IMAGE_SIZE) if defect == "good" else defective(product, defect, rng, IMAGE_SIZE)


def _write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), pixels):
        raise OSError(f"{path} can't be written")


def _break_some(folder: Path) -> list[str]:
    """What real archives hold besides images: an empty file, a cut one, a web page under an image's name."""
    whole = next(folder.glob("*.png")).read_bytes()
    broken = {
        "empty.png": b"",
        "cut-off.png": whole[: len(whole) // 2],
        "error-page.jpg": b"<!DOCTYPE html><title>503 Service Unavailable</title>",
    }
    for name, data in broken.items():
        (folder / name).write_bytes(data)
    return [str(folder / name) for name in broken]
