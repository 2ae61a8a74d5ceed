"""What the thresholds of a calibration promise: false-alarm rates that they really have, for scores of known tails.

    python benchmarks/tails.py

Normal scores are drawn from distributions of several tails; `Calibration.from_scores` sets the threshold for a nominal
rate, and the share of millions of further draws that reach it is its realised rate. Beside it stands the threshold of a
generalised Pareto tail, fitted by probability-weighted moments (Hosking and Wallis 1987) to the same excesses.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

import numpy as np

from diffad_ray.bundles.calibration import FEWEST_EXCESSES, TAIL_SHARE, Calibration

Draw = Callable[[np.random.Generator, int], np.ndarray]
DISTRIBUTIONS: dict[str, Draw] = {
    "normal": lambda rng, count: rng.standard_normal(count),
    "logistic": lambda rng, count: rng.logistic(size=count),
    "exponential": lambda rng, count: rng.standard_exponential(count),
    "Student-t(5)": lambda rng, count: rng.standard_t(5, count),
    "Gumbel": lambda rng, count: rng.gumbel(size=count),
}
IMAGES, RATES = (8, 20, 40, 100, 400, 2000), (0.01, 0.001, 0.0001)


def by_pareto(scores: np.ndarray, rate: float) -> float:
    """The threshold of a generalised Pareto tail on the excesses that the calibration takes."""
    share = max(TAIL_SHARE, min(0.5, FEWEST_EXCESSES / len(scores)))
    start = float(np.quantile(scores, 1 - share))
    excesses = np.sort(scores[scores > start] - start)
    n = len(excesses)
    mean = float(excesses.mean())
    weighted = float((excesses * (n - np.arange(1, n + 1) + 0.35) / n).mean())
    shape = 2 - mean / (mean - 2 * weighted)
    scale = 2 * mean * weighted / (mean - 2 * weighted)
    beyond = rate / (n / len(scores))
    if beyond >= 1:
        return float(np.quantile(scores, 1 - rate))
    if abs(shape) < 1e-9:
        return start - scale * math.log(beyond)
    return start + scale / shape * (beyond**-shape - 1)


def by_calibration(scores: np.ndarray, rate: float) -> float:
    return Calibration.from_scores(scores, rate).threshold


WAYS = {"calibration": by_calibration, "generalised Pareto": by_pareto}


def shown(ratios: np.ndarray) -> str:
    """Mean, and 10 % and 90 % quantiles."""
    low, high = np.quantile(ratios, [0.1, 0.9])
    return f"{ratios.mean():.2f} ({low:.2f} to {high:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=200)
    parser.add_argument("--reference", type=int, default=4_000_000, help="further draws of each distribution")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()

    cells: dict[tuple[float, str, str], list[str]] = {}
    misses: dict[tuple[float, str], list[list[float]]] = {}
    for number, (name, draw) in enumerate(DISTRIBUTIONS.items()):
        rng = np.random.default_rng([given.seed, number])
        reference = np.sort(draw(rng, given.reference))
        for place, images in enumerate(IMAGES):
            samples = [draw(rng, images) for _ in range(given.repetitions)]
            for rate in RATES:
                for way, threshold_of in WAYS.items():
                    thresholds = [threshold_of(sample, rate) for sample in samples]
                    realised = 1 - np.searchsorted(reference, thresholds) / given.reference
                    cells.setdefault((rate, name, way), []).append(shown(realised / rate))
                    missed = misses.setdefault((rate, way), [[] for _ in IMAGES])[place]
                    missed.append(abs(math.log(max(realised.mean(), 1 / given.reference) / rate)))
    head = " | ".join(map(str, IMAGES))
    for rate in RATES:
        print(f"\nNominal rate {rate:.2%}\n\n| scores | tail | {head} |\n{'|---' * (len(IMAGES) + 2)}|")
        for name in DISTRIBUTIONS:
            for way in WAYS:
                print(f"| {name} | {way} | {' | '.join(cells[rate, name, way])} |")
    print(f"\nFactor by which the mean misses the rate\n\n| rate | tail | {head} |\n{'|---' * (len(IMAGES) + 2)}|")
    for (rate, way), missed in misses.items():
        print(f"| {rate:.2%} | {way} | {' | '.join(f'{math.exp(np.mean(values)):.2f}' for values in missed)} |")


if __name__ == "__main__":
    main()
