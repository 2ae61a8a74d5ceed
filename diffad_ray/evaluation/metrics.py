"""Figures of scored images, exact. Undefined ones are None, never a number that means nothing."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from diffad_ray.evaluation.ranking import ranking


def auroc(scores: np.ndarray, labels: np.ndarray) -> float | None:
    """Area under the ROC curve: probability that an anomalous item scores higher than a normal one, ties half.

    Args:
        scores: [N], finite.
        labels: [N] bool, true for anomalous.

    Returns:
        None where there are no anomalous or no normal items.
    """
    found = ranking(scores, labels)
    return None if found is None else float(found.auroc())


def average_precision(scores: np.ndarray, labels: np.ndarray) -> float | None:
    """Average precision as the step sum over recall, not the trapezoid; None without anomalous or normal items."""
    found = ranking(scores, labels)
    return None if found is None else float(found.average_precision())


def f1_max(scores: np.ndarray, labels: np.ndarray) -> float | None:
    """F1 at the threshold best for it: an oracle, which needs the labels; None without anomalous or normal items."""
    found = ranking(scores, labels)
    return None if found is None else float(found.best_f1().f1)


class AtThreshold(NamedTuple):
    """How a fixed threshold does; None where a ratio has nothing below its line.

    Without anomalous or without normal items, precision and F1 only say which of them are missing, and are None too.
    """

    precision: float | None
    "share of the images called anomalous that are"
    recall: float | None
    "share of the anomalous images that are called so"
    f1: float | None
    "harmonic mean of both; 0 where nothing is called anomalous"
    false_alarm_rate: float | None
    "share of the normal images called anomalous"


def at_threshold(scores: np.ndarray, labels: np.ndarray, threshold: float | np.ndarray) -> AtThreshold:
    """Precision, recall, F1 and false-alarm rate of `scores >= threshold`; the threshold may be each image's own."""
    called = scores >= threshold
    hits, calls, positives = int((called & labels).sum()), int(called.sum()), int(labels.sum())
    normals = len(labels) - positives
    return AtThreshold(
        precision=hits / calls if calls and positives and normals else None,
        recall=hits / positives if positives else None,
        f1=2 * hits / (calls + positives) if positives and normals else None,
        false_alarm_rate=(calls - hits) / normals if normals else None,
    )
