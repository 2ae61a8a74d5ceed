"""Metrics of detection, exact: one sort, no thresholds of our own. Undefined ones are None, never a number."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Curve(NamedTuple):
    """Counts at every distinct score, highest first; an item is called positive if its score is at least that high."""

    true_positives: np.ndarray
    false_positives: np.ndarray
    thresholds: np.ndarray


def curve(scores: np.ndarray, labels: np.ndarray) -> Curve:
    """Counts over all thresholds, tied scores taken together.

    Args:
        scores: [N], finite.
        labels: [N] bool, true for anomalous.
    """
    order = np.argsort(scores, kind="stable")[::-1]
    sorted_scores, positives = scores[order], labels[order]
    last_of_tie = np.append(np.flatnonzero(np.diff(sorted_scores)), len(scores) - 1)
    true_positives = np.cumsum(positives, dtype=np.int64)[last_of_tie]
    return Curve(true_positives, last_of_tie + 1 - true_positives, sorted_scores[last_of_tie])


def auroc(scores: np.ndarray, labels: np.ndarray) -> float | None:
    """Area under the ROC curve: probability that an anomalous item scores higher than a normal one, ties half.

    None where there are no anomalous or no normal items.
    """
    if not labels.any() or labels.all():
        return None
    found = curve(scores, labels)
    true_rate = np.append(0, found.true_positives) / found.true_positives[-1]
    false_rate = np.append(0, found.false_positives) / found.false_positives[-1]
    return float(np.trapezoid(true_rate, false_rate))


def average_precision(scores: np.ndarray, labels: np.ndarray) -> float | None:
    """Average precision as the step sum over recall, not the trapezoid; None where nothing is anomalous."""
    if not labels.any():
        return None
    found = curve(scores, labels)
    precision = found.true_positives / (found.true_positives + found.false_positives)
    recall = found.true_positives / found.true_positives[-1]
    return float(np.sum(np.diff(recall, prepend=0) * precision))


class AtThreshold(NamedTuple):
    """How a fixed threshold does; None where a ratio has nothing below its line."""

    precision: float | None
    "share of the images called anomalous that are"
    recall: float | None
    "share of the anomalous images that are called so"
    false_alarm_rate: float | None
    "share of the normal images called anomalous"


def at_threshold(scores: np.ndarray, labels: np.ndarray, threshold: float) -> AtThreshold:
    """Precision, recall and false-alarm rate of `scores >= threshold`."""
    called = scores >= threshold
    hits, calls, positives = int((called & labels).sum()), int(called.sum()), int(labels.sum())
    normals = len(labels) - positives
    return AtThreshold(
        precision=hits / calls if calls else None,
        recall=hits / positives if positives else None,
        false_alarm_rate=(calls - hits) / normals if normals else None,
    )
