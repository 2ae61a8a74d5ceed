"""Pseudo-anomalies a second: batched on the device, against one image at a time in NumPy and OpenCV.

    .venv/bin/python benchmarks/synthesis.py --image-size 256 --batch 16

Both follow the paper's recipe: Perlin blobs, textures and shuffled strips with 3 of 10 changes, half of the samples
anomalous. The two take turns, and each counts by its median.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable

import cv2
import numpy as np
import torch

from diffad_ray.diffusion.noise import seeded_generator
from diffad_ray.inference.engine import default_device
from diffad_ray.synthesis.pseudo_anomalies import AnomalySettings, pseudo_anomalies

PAPER = AnomalySettings(
    strokes=0, spots=0, patches=0, textures=1, strips=1, moved=0, shades=0, recoloured=0, edge=(0, 0), contrast=0
)


def perlin_mask(side: int, rng: np.random.Generator) -> np.ndarray:
    """A blob mask [S,S] of one image."""
    while True:
        cells = 2 ** rng.integers(0, 6, 2)
        y, x = np.meshgrid(*(np.linspace(0, cell, side, endpoint=False) for cell in cells), indexing="ij")
        angle = rng.uniform(0, 2 * math.pi, (cells[0] + 1, cells[1] + 1))
        row, column = y.astype(int), x.astype(int)
        dy, dx = y - row, x - column

        def corner(i: int, j: int, angle=angle, row=row, column=column, dy=dy, dx=dx) -> np.ndarray:
            phi = angle[row + i, column + j]
            return np.cos(phi) * (dx - j) + np.sin(phi) * (dy - i)

        fade_y, fade_x = (d**3 * (d * (d * 6 - 15) + 10) for d in (dy, dx))
        top = corner(0, 0) * (1 - fade_x) + corner(0, 1) * fade_x
        bottom = corner(1, 0) * (1 - fade_x) + corner(1, 1) * fade_x
        noise = math.sqrt(2) * (top * (1 - fade_y) + bottom * fade_y)
        turn = cv2.getRotationMatrix2D((side / 2, side / 2), rng.uniform(-90, 90), 1)
        mask = cv2.warpAffine(noise, turn, (side, side)) > 0.5
        if mask.any():
            return mask


def changed(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Three of the ten changes of one image [S,S,3] uint8."""
    side = len(image)
    levels = np.arange(256)

    def look_up(table: np.ndarray) -> np.ndarray:
        return cv2.LUT(image, table.clip(0, 255).astype(np.uint8))

    def turned() -> np.ndarray:
        turn = cv2.getRotationMatrix2D((side / 2, side / 2), rng.uniform(-45, 45), 1)
        return cv2.warpAffine(image, turn, (side, side), borderMode=cv2.BORDER_REFLECT)

    def hue() -> np.ndarray:
        hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV).astype(np.int16)
        hsv[..., 0] = (hsv[..., 0] + rng.integers(-90, 90)) % 180
        hsv[..., 1] = (hsv[..., 1] * rng.uniform(0.5, 1.5)).clip(0, 255)
        return cv2.cvtColor(hsv.astype(np.uint8), cv2.COLOR_HSV2RGB)

    changes: list[Callable[[], np.ndarray]] = [
        lambda: look_up(255 * (levels / 255) ** rng.uniform(0.5, 2.0)),
        lambda: look_up(levels * rng.uniform(0.8, 1.2) + rng.uniform(-30, 30)),
        lambda: cv2.addWeighted(image, 1 + (s := rng.uniform(-1, 3)), cv2.blur(image, (3, 3)), -s, 0),
        hue,
        lambda: look_up(np.where(levels < rng.integers(32, 128), levels, 255 - levels)),
        lambda: look_up(levels & ~(2 ** rng.integers(4, 8) - 1)),
        lambda: 255 - image,
        lambda: cv2.normalize(image, None, 0, 255, cv2.NORM_MINMAX),
        lambda: np.dstack([cv2.equalizeHist(np.ascontiguousarray(image[..., c])) for c in range(3)]),
        turned,
    ]
    for number in rng.choice(len(changes), 3, replace=False):
        image = changes[number]()
    return image


def one_by_one(images: np.ndarray, textures: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Samples [N,3,S,S] float32 and masks of images [N,S,S,3] uint8, each made by itself."""
    samples, masks = [], []
    for image in images:
        side = len(image)
        mask = np.zeros((side, side), bool)
        sample = image.astype(np.float32)
        if rng.random() < 0.5:
            mask = perlin_mask(side, rng)
            if rng.random() < 0.5:
                appearance = cv2.resize(textures[rng.integers(len(textures))], (side, side))
            else:
                columns = rng.permutation(np.split(image, 8, axis=1))
                rows = rng.permutation(np.split(np.concatenate(columns, axis=1), 8))
                appearance = np.concatenate(rows)
            appearance = changed(np.ascontiguousarray(appearance), rng)
            weight = rng.uniform(0.2, 0.8) * mask[..., None]
            sample = (1 - weight) * sample + weight * appearance
        samples.append(np.ascontiguousarray(sample.transpose(2, 0, 1), np.float32) / 255)
        masks.append(mask)
    return np.stack(samples), np.stack(masks)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image-size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    side, device = options.image_size, default_device()
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (options.batch, side, side, 3), dtype=np.uint8)
    textures = rng.integers(0, 256, (32, side, side, 3), dtype=np.uint8)
    on_device, lent = (
        torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2).float() / 255 for pixels in (images, textures)
    )
    generator = seeded_generator(device, 0)

    def batched(settings: AnomalySettings) -> None:
        pseudo_anomalies(on_device, lent, generator, settings)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    ways: dict[str, Callable[[], object]] = {
        "one by one, NumPy and OpenCV": lambda: one_by_one(images, textures, rng),
        "batched, the same recipe": lambda: batched(PAPER),
        "batched, the default recipe": lambda: batched(AnomalySettings()),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(options.rounds + 1):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            if number:
                seconds[name].append(time.perf_counter() - started)
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"
    print(f"{options.batch} images of {side} x {side} px; OpenCV {cv2.getNumThreads()} threads, torch on {where}\n")
    first = statistics.median(next(iter(seconds.values())))
    print("| way | images/s | ratio |\n|---|---|---|")
    for name, times in seconds.items():
        median = statistics.median(times)
        print(f"| {name} | {options.batch / median:.0f} | {first / median:.1f} |")


if __name__ == "__main__":
    main()
