"""AUPRO of many maps, exact, against the usual loop over 1000 thresholds.

    python benchmarks/metrics.py --maps 1000 --loop-thresholds 20

The loop does what the code of many papers does: at each of 1000 thresholds, the share of each labelled region and of
all normal pixels that lie above it. Here it labels the regions once, which such code often repeats at each threshold.
As its time is the same for each threshold, some of them tell what all would take.
"""

from __future__ import annotations

import argparse
import platform
import resource
import time

import numpy as np
from scipy import ndimage

from diffad_ray.evaluation.pixels import FPR_LIMIT, PixelCounts

SIDE, THRESHOLDS = 256, 1000


def make_maps(count: int, distinct: int | None) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Maps with a defect or two in every other one, [256,256] float32 in [0, 1] with at most so many values each."""
    rng = np.random.default_rng(0)
    maps, masks = [], []
    for k in range(count):
        mask = np.zeros((SIDE, SIDE), bool)
        for _ in range(k % 2 * rng.integers(1, 3)):
            y, x, height, width = rng.integers(8, 100, 4)
            mask[y : y + height, x : x + width] = True
        values = rng.random((SIDE, SIDE), np.float32) ** 4 * (1 - 0.5 * ~mask)
        maps.append(values if distinct is None else np.round(values * distinct) / np.float32(distinct))
        masks.append(mask)
    return maps, masks


def loop(maps: list[np.ndarray], masks: list[np.ndarray], thresholds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """False-positive rate and per-region overlap at each threshold."""
    regions = [
        (k, *np.nonzero(labelled == number))
        for k, (labelled, count) in enumerate(ndimage.label(mask, np.ones((3, 3))) for mask in masks)
        for number in range(1, count + 1)
    ]
    normal = sum(int((~mask).sum()) for mask in masks)
    rates, overlaps = [], []
    for threshold in thresholds:
        called = [values >= threshold for values in maps]
        overlaps.append(np.mean([called[k][rows, columns].mean() for k, rows, columns in regions]))
        rates.append(sum(int((c & ~mask).sum()) for c, mask in zip(called, masks, strict=True)) / normal)
    return np.array(rates), np.array(overlaps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--maps", type=int, default=1000)
    parser.add_argument("--distinct", type=int, help="round values to so many; by default they hardly ever repeat")
    parser.add_argument("--loop-thresholds", type=int, default=20, help="thresholds that the loop really does")
    arguments = parser.parse_args()
    maps, masks = make_maps(arguments.maps, arguments.distinct)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    started = time.perf_counter()
    counts = PixelCounts()
    for values, mask in zip(maps, masks, strict=True):
        counts.add(values, mask)
    exact = counts.aupro()
    ours = time.perf_counter() - started
    memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024

    started = time.perf_counter()
    rates, overlaps = loop(maps, masks, np.linspace(0, 1, arguments.loop_thresholds))
    looped = (time.perf_counter() - started) * THRESHOLDS / arguments.loop_thresholds
    rates, overlaps = rates[::-1], overlaps[::-1]
    inside = rates <= FPR_LIMIT
    rough = np.trapezoid(overlaps[inside], rates[inside]) / FPR_LIMIT

    print(f"{platform.processor() or platform.machine()}, numpy {np.__version__}, {len(maps)} maps of {SIDE} x {SIDE}")
    print(f"exact: AUPRO {exact:.9f} in {ours:.2f} s, {memory:.0f} MB beyond the maps, {counts.regions} regions, "
          f"{23 - counts.dropped_bits} of 23 bits kept")  # fmt: skip
    print(f"loop:  AUPRO {rough:.9f} at {arguments.loop_thresholds} thresholds; {THRESHOLDS} take {looped:.1f} s")
    print(f"ratio {looped / ours:.0f}")


if __name__ == "__main__":
    main()
