"""Made-up parts that lie in any direction and position, good and defective, in MVTec layout.

    python benchmarks/research/turned.py screw .scratch/screw
    python benchmarks/research/recipes.py prepare .scratch/screw .scratch/screw.npz --side 128 --textures textures
    python benchmarks/research/recipes.py train .scratch/screw.npz .scratch/screw-runs --steps 400 \\
        --precision float32 --threads 1 --only defaults --seeds 0
    python benchmarks/research/recipes.py report .scratch/screw.npz .scratch/screw-runs

220 good images to train, 50 to test, and 25 of each defect, 256 px, grey. A mask is where a defect changes the picture.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np

SIDE, CENTRE = 256, 128
DEFECTS = {"screw": ("bent", "thread", "scratch", "rust"), "ring": ("tooth", "hole", "scratch", "dent")}
TRAIN, GOOD, OF_EACH = 220, 50, 25
VISIBLE = 0.04
"Difference of grey levels in [0, 1] that belongs to a mask."

Rng = np.random.Generator


def path(rng: Rng, steps: int, x: float, y: float, angle: float) -> np.ndarray:
    """Points [steps + 1,2] of a scratch that wanders."""
    points = [(x, y)]
    for _ in range(steps):
        angle += rng.normal(0, 0.15)
        x, y = x + 2 * np.cos(angle), y + 2 * np.sin(angle)
        points.append((x, y))
    return np.array(points)


def scratched(picture: np.ndarray, points: np.ndarray, grey: float, width: int) -> np.ndarray:
    line = np.round(points * 16).astype(np.int32)
    return cv2.polylines(picture.copy(), [line], False, grey, width, cv2.LINE_AA, 4)


def light(rng: Rng, strength: float = 0.08) -> np.ndarray:
    """Light [S,S] that falls off towards one side."""
    y, x = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
    angle = rng.uniform(0, 2 * np.pi)
    return 1 + strength * rng.uniform(0.3, 1) * (x * np.cos(angle) + y * np.sin(angle))


def lying_screw(rng: Rng, defect: str | None) -> np.ndarray:
    picture, (y, x) = np.full((SIDE, SIDE), 0.8, np.float32), np.mgrid[0:SIDE, 0:SIDE].astype(np.float32)
    left, right, width, pitch = 60, 205, 13, 7.0
    phase = rng.uniform(0, pitch)
    is_thread = x > 95
    half = (width + 1.5 * np.sin(2 * np.pi * (x - phase) / pitch) * is_thread) * np.clip((right - x) / 14, 0, 1)
    axis = np.full_like(y, CENTRE)
    if defect == "bent":
        axis = axis + np.clip(x - 175, 0, None) ** 2 * 0.012 * rng.choice([-1, 1])
    if defect == "thread":
        start = rng.uniform(110, 170)
        half = np.where((x > start) & (x < start + rng.uniform(10, 18)), width - 2, half)
    round_ = np.cos(np.clip((y - axis) / width, -1.5, 1.5) * 1.4)
    turns = np.sin(2 * np.pi * (x + 0.25 * (y - axis) - phase) / pitch) * is_thread
    is_rod = (np.abs(y - axis) < half) & (x > left) & (x < right)
    is_head = (x > 36) & (x <= left + 1)
    is_head &= np.abs(y - CENTRE) < width + (left - x) * 0.8 * (x > 44) + 14 * (x <= 44)
    picture[is_rod] = (0.45 + 0.25 * round_ + 0.12 * turns)[is_rod]
    picture[is_head] = (0.55 + 0.2 * np.cos(np.clip((y - CENTRE) / 28, -1.5, 1.5) * 1.4))[is_head]
    if defect == "scratch":
        steps, start = int(rng.uniform(8, 16)), (rng.uniform(75, 160), CENTRE + rng.uniform(-7, 7))
        points = path(rng, steps, *start, rng.uniform(-0.6, 0.6))
        picture = scratched(picture, points, float(rng.choice([0.95, 0.12])), 2)
    if defect == "rust":
        distance = np.hypot(x - rng.uniform(80, 180), y - CENTRE - rng.uniform(-6, 6))
        grain = cv2.GaussianBlur(rng.standard_normal((SIDE, SIDE)).astype(np.float32), (0, 0), 3)
        spot = (distance + 2 * grain / grain.std() < rng.uniform(6, 10)).astype(np.float32)
        picture = picture * (1 - 0.45 * cv2.GaussianBlur(spot, (0, 0), 1))
    return picture


def screw(rng: Rng, defect: str | None) -> tuple[np.ndarray, np.ndarray]:
    """A screw, and the same without its defect: [S,S] each."""
    seed, angle, shift = rng.integers(1 << 31), rng.uniform(0, 360), (rng.uniform(-10, 10), rng.uniform(-10, 10))
    shade, noise = light(rng), rng.normal(0, 0.012, (SIDE, SIDE))
    turn = cv2.getRotationMatrix2D((CENTRE, CENTRE), angle, 1)
    turn[:, 2] += shift

    def shown(defect: str | None) -> np.ndarray:
        lying = lying_screw(np.random.default_rng(seed), defect)
        turned = cv2.warpAffine(lying, turn, (SIDE, SIDE), borderMode=cv2.BORDER_CONSTANT, borderValue=0.8)
        return np.clip(turned * shade + noise, 0, 1)

    return shown(defect), shown(None)


def ring(rng: Rng, defect: str | None) -> tuple[np.ndarray, np.ndarray]:
    """A toothed ring with five holes, and the same without its defect: [S,S] each."""
    seed, shade, noise = rng.integers(1 << 31), light(rng), rng.normal(0, 0.015, (SIDE, SIDE))
    turn, cx, cy = rng.uniform(0, 2 * np.pi), CENTRE + rng.uniform(-6, 6), CENTRE + rng.uniform(-6, 6)

    def shown(defect: str | None) -> np.ndarray:
        rng, (y, x) = np.random.default_rng(seed), np.mgrid[0:SIDE, 0:SIDE].astype(np.float32)
        radius, angle = np.hypot(x - cx, y - cy), np.arctan2(y - cy, x - cx) - turn
        rim = 92 + 5 * np.clip(3 * np.sin(angle * 18), -1, 1)
        if defect == "tooth":
            near = np.abs(np.angle(np.exp(1j * (angle - rng.uniform(0, 2 * np.pi))))) < 0.17
            rim = np.where(near, rim - 9, rim)
        is_metal = (radius < rim) & (radius > 34)
        metal = 0.55 + 0.1 * np.cos(2 * (angle + turn)) + 0.04 * np.sin(radius * 1.7 + rng.uniform(0, 6))
        # One of the holes is missing.
        for hole in range(1 if defect == "hole" else 0, 5):
            at = turn + hole * 2 * np.pi / 5
            is_metal &= np.hypot(x - cx - 62 * np.cos(at), y - cy - 62 * np.sin(at)) > 11
        picture = np.where(is_metal, metal, 0.12).astype(np.float32)
        if defect == "scratch":
            at, far, steps = rng.uniform(0, 2 * np.pi), rng.uniform(44, 80), int(rng.uniform(10, 22))
            points = path(rng, steps, cx + far * np.cos(at), cy + far * np.sin(at), rng.uniform(0, 6))
            picture = np.where(is_metal, scratched(picture, points, float(rng.choice([0.85, 0.3])), 1), picture)
        if defect == "dent":
            at, far = rng.uniform(0, 2 * np.pi), rng.uniform(48, 78)
            across, along = x - cx - far * np.cos(at), y - cy - far * np.sin(at)
            wave = 0.18 * np.exp(-(across**2 + along**2) / 2 / 5**2) * np.sin(across / 3)
            picture = picture + np.where(is_metal, wave, 0)
        return np.clip(picture * shade + noise, 0, 1)

    return shown(defect), shown(None)


def write(file: Path, picture: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(file), (picture * 255).round().astype(np.uint8)):
        raise OSError(f"can't write {file}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("product", choices=DEFECTS)
    parser.add_argument("to", type=Path, help="folder to make")
    arguments = parser.parse_args()
    make, rng = {"screw": screw, "ring": ring}[arguments.product], np.random.default_rng(5)
    for part, count in (("train", TRAIN), ("test", GOOD)):
        for number in range(count):
            write(arguments.to / part / "good" / f"{number:03d}.png", make(rng, None)[0])
    for defect in DEFECTS[arguments.product]:
        for number in range(OF_EACH):
            picture, without = make(rng, defect)
            softer = [cv2.GaussianBlur(image, (0, 0), 0.7) for image in (picture, without)]
            mask = (np.abs(softer[0] - softer[1]) > VISIBLE).astype(np.uint8)
            mask = cv2.morphologyEx(mask, cv2.MORPH_CLOSE, np.ones((5, 5)))
            write(arguments.to / "test" / defect / f"{number:03d}.png", picture)
            write(arguments.to / "ground_truth" / defect / f"{number:03d}_mask.png", mask)


if __name__ == "__main__":
    main()
