"""The table that `recipes.py report` prints: a recipe a row, mean and standard deviation over its seeds."""

from __future__ import annotations

import glob
import json
import statistics
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from diffad_ray.bundles.calibration import Calibration

HALVES = 200


def place_of(work: Path, recipe: str, seed: int) -> Path:
    return work / f"{recipe.replace(' ', '-').replace('/', '_')}-{seed}"


def report(data: dict[str, np.ndarray], work: Path, recipes: Iterable[str]) -> Iterator[str]:
    """Lines of a table: a recipe each, mean over its seeds and, where there are several, standard deviation."""
    from diffad_ray.evaluation.metrics import at_threshold, auroc
    from diffad_ray.evaluation.pixels import PixelCounts

    kinds = data["kinds"]
    defects = sorted(set(kinds.tolist()) - {"good"})
    names = ["image AUROC", "without familiarity", "against held-back", *defects, "pixel AUROC", "pixel AP", "AUPRO"]
    names += ["false alarms", "of held-back", "recall", "error", "seconds"]
    yield f"| recipe | seeds | {' | '.join(names)} |"
    yield "|---" * (len(names) + 2) + "|"
    for recipe in recipes:
        rows = []
        for place in sorted(work.glob(f"{glob.escape(place_of(work, recipe, 0).name[:-1])}[0-9]*")):
            if not (place / "facts.json").exists():
                continue
            facts, found = json.loads((place / "facts.json").read_text()), np.load(place / "found.npz")
            scores, counts = found["scores"], PixelCounts()
            for anomaly_map, mask in zip(found["maps"], data["masks"], strict=True):
                counts.add(anomaly_map.astype(np.float32), mask)
            threshold = Calibration.from_scores(found["held_back"]).threshold
            judged = at_threshold(scores, kinds != "good", threshold)
            by_kind = [
                auroc(scores[near], kinds[near] != "good") for near in (np.isin(kinds, ["good", k]) for k in defects)
            ]
            images = [auroc(values, kinds != "good") for values in (scores, found["plain"])]
            against = np.concatenate([found["held_back"], scores[kinds != "good"]])
            images.append(auroc(against, np.arange(len(against)) >= len(found["held_back"])))
            pixels = [counts.auroc(), counts.average_precision(), counts.aupro()]
            prices = [judged.false_alarm_rate, held_back_alarms(found["held_back"]), judged.recall]
            prices += [facts["error"], facts["seconds"]]
            rows.append([*images, *by_kind, *pixels, *prices])
        if rows:
            yield f"| {recipe} | {len(rows)} | {' | '.join(map(_mean_and_deviation, zip(*rows, strict=True)))} |"


def held_back_alarms(scores: np.ndarray) -> float:
    """False alarms among one half of the held-back images at the threshold of the other half, over random halves."""
    rng, rates = np.random.default_rng(0), []
    for _ in range(HALVES):
        one, other = np.array_split(rng.permutation(scores), 2)
        threshold = Calibration.from_scores(one).threshold
        rates.append(float((other >= threshold).mean()))
    return statistics.mean(rates)


def _mean_and_deviation(values: tuple[float | None, ...]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    digits = 0 if max(known) > 10 else 5 if 0 < max(known) < 0.02 else 3
    mean = f"{statistics.mean(known):.{digits}f}"
    return mean if len(known) == 1 or digits == 0 else f"{mean} ± {statistics.stdev(known):.{digits}f}"
