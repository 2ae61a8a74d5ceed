"""Exact metrics of scored items. A metric that is undefined is None."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from diffad_ray.evaluation.ranking import ranking


def auroc(scores: np.ndarray, labels: np.ndarray) -> float | None:
    """Return the area under the ROC curve: the probability that an anomalous item outscores a normal one, ties half.

    Args:
        scores: [N], finite.
        labels: [N] bool, true for anomalous.

    Returns:
        The area in [0, 1], or None without anomalous or without normal items.

    Example:
        >>> auroc(np.array([0.1, 0.4, 0.3, 0.9]), np.array([False, False, True, True]))
        0.75
    """
    found = ranking(scores, labels)
    return None if found is None else float(found.auroc())


def average_precision(scores: np.ndarray, labels: np.ndarray) -> float | None:
    """Return the average precision, a step sum over recall; None without anomalous or without normal items.

    Example:
        >>> average_precision(np.array([0.1, 0.4, 0.3, 0.9]), np.array([False, True, False, True]))
        1.0
    """
    found = ranking(scores, labels)
    return None if found is None else float(found.average_precision())


def f1_max(scores: np.ndarray, labels: np.ndarray) -> float | None:
    """Return the largest F1 over all thresholds, an oracle; None without anomalous or without normal items.

    Example:
        >>> f1_max(np.array([0.1, 0.4, 0.3, 0.9]), np.array([False, False, True, True]))
        0.8
    """
    found = ranking(scores, labels)
    return None if found is None else float(found.best_f1().f1)


class AtThreshold(NamedTuple):
    """Metrics at a fixed threshold; None for a ratio with denominator 0.

    Without anomalous or without normal items, precision and F1 are trivial, and None as well.
    """

    precision: float | None
    "share of the items called anomalous that are anomalous"
    recall: float | None
    "share of the anomalous items that are called anomalous"
    f1: float | None
    "harmonic mean of both; 0 if no item is called anomalous"
    false_alarm_rate: float | None
    "false-positive rate: share of the normal items that are called anomalous"


def at_threshold(scores: np.ndarray, labels: np.ndarray, threshold: float | np.ndarray) -> AtThreshold:
    """Compute precision, recall, F1 and false-positive rate of `scores >= threshold`.

    Args:
        scores: [N] scores.
        labels: [N] bool, true for anomalous.
        threshold: one threshold, or [N].

    Example:
        >>> at_threshold(np.array([0.1, 0.4, 0.3, 0.9]), np.array([False, False, True, True]), 0.4)
        AtThreshold(precision=0.5, recall=0.5, f1=0.5, false_alarm_rate=0.5)
    """
    called = scores >= threshold
    hits, calls, positives = int((called & labels).sum()), int(called.sum()), int(labels.sum())
    normals = len(labels) - positives
    return AtThreshold(
        precision=hits / calls if calls and positives and normals else None,
        recall=hits / positives if positives else None,
        f1=2 * hits / (calls + positives) if positives and normals else None,
        false_alarm_rate=(calls - hits) / normals if normals else None,
    )
