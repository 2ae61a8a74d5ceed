"""Percentile-bootstrap intervals of figures, resampled over images (Efron & Tibshirani 1993, chapter 13)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from diffad_ray.evaluation.ranking import ranking

RESAMPLES = 1000
SEED = 0
MOST_DRAWS = 4_000_000
"Number of images drawn at once over several resamples; bounds the memory."
LEVELS = (0.025, 0.975)
"Quantiles of a 95 % interval."


def resampled(scores: np.ndarray, labels: np.ndarray, called: np.ndarray) -> dict[str, np.ndarray]:
    """Compute the image figures in R = `RESAMPLES` seeded bootstrap resamples.

    Good and defective images are resampled separately, so that each resample has the original number of both. The
    result does not depend on the order of the images.

    Args:
        scores: [N] scores.
        labels: [N] bool, true for defective.
        called: [N] bool, whether the score reaches the threshold.

    Returns:
        [R] values by the names of `Figures`; empty with fewer than 2 good or 2 defective images. The precision of a
        resample without calls is NaN.
    """
    found = ranking(scores, labels)
    if found is None or min(labels.sum(), (~labels).sum()) < 2:
        return {}
    # Images are sorted like the ranking: by falling score, ties by `called`.
    order = np.lexsort((called, scores))[::-1]
    of_defective, of_normal = (called[order][labels[order] == kind] for kind in (True, False))
    first = np.append(0, np.cumsum(found.hits)[:-1])
    rng = np.random.default_rng(SEED)
    part = max(1, MOST_DRAWS // len(scores))
    parts = []
    for start in range(0, RESAMPLES, part):
        count = min(part, RESAMPLES - start)
        defective, normal = _draws(rng, count, len(of_defective)), _draws(rng, count, len(of_normal))
        above = np.concatenate([np.zeros((count, 1), np.int64), np.cumsum(normal, axis=1)], axis=1)
        again = replace(
            found,
            hits=np.add.reduceat(defective, first, axis=1),
            before=above[:, found.before],
            after=above[:, found.after],
        )
        hits, alarms = defective @ of_defective, normal @ of_normal
        with np.errstate(invalid="ignore"):
            precision = hits / (hits + alarms)
        parts.append(
            {
                "image_auroc": again.auroc(),
                "image_ap": again.average_precision(),
                "image_f1_max": again.best_f1().f1,
                "precision": precision,
                "recall": hits / len(of_defective),
                "f1": 2 * hits / (hits + alarms + len(of_defective)),
                "false_alarm_rate": alarms / len(of_normal),
            }
        )
    return {name: np.concatenate([one[name] for one in parts]) for name in parts[0]}


def interval(values: np.ndarray) -> tuple[float, float]:
    """Return the 95 % interval of resampled values [R] in [0,1], of which at least one is not NaN."""
    # Rounding can bring means of resamples above 1.
    low, high = np.nanquantile(values, LEVELS).clip(0, 1)
    return float(low), float(high)


def _draws(rng: np.random.Generator, count: int, items: int) -> np.ndarray:
    """Draw `count` resamples of the items; return how often each item was drawn, [count, items]."""
    drawn = rng.integers(0, items, (count, items)) + items * np.arange(count)[:, None]
    return np.bincount(drawn.ravel(), minlength=count * items).reshape(count, items)
