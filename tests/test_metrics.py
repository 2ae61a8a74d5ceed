"""The metrics against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    average_precision_score,
    f1_score,
    precision_recall_curve,
    precision_score,
    recall_score,
    roc_auc_score,
)

from diffad_ray.evaluation.metrics import at_threshold, auroc, average_precision, f1_max
from diffad_ray.evaluation.ranking import ranking

# Scores of few values are full of ties.
score = st.integers(0, 4).map(float) | st.floats(-1e3, 1e3)
items = st.lists(st.tuples(score, st.booleans()), min_size=2, max_size=60)
both_kinds = items.filter(lambda pairs: len({label for _, label in pairs}) == 2)


def split(pairs: list[tuple[float, bool]]) -> tuple[np.ndarray, np.ndarray]:
    scores, labels = zip(*pairs, strict=True)
    return np.array(scores), np.array(labels, dtype=bool)


@given(both_kinds)
@settings(max_examples=150, deadline=None)
def test_areas_and_best_f1_are_those_of_scikit_learn(pairs: list[tuple[float, bool]]) -> None:
    scores, labels = split(pairs)
    assert auroc(scores, labels) == pytest.approx(roc_auc_score(labels, scores), abs=1e-9)
    assert average_precision(scores, labels) == pytest.approx(average_precision_score(labels, scores), abs=1e-9)
    precision, recall, _ = precision_recall_curve(labels, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-300)
    assert f1_max(scores, labels) == pytest.approx(f1.max(), abs=1e-9)


@given(both_kinds, st.floats(0.05, 1))
@settings(max_examples=80, deadline=None)
def test_the_partial_area_is_that_of_the_curve(pairs: list[tuple[float, bool]], limit: float) -> None:
    scores, labels = split(pairs)
    found = ranking(scores, labels)
    assert found is not None
    thresholds = np.append(np.inf, np.unique(scores)[::-1])
    false = [(scores[~labels] >= threshold).mean() for threshold in thresholds]
    true = [(scores[labels] >= threshold).mean() for threshold in thresholds]
    # A fine grid would miss the corners: the curve's own points, those below the limit, and the one at it.
    inside = [(x, y) for x, y in zip(false, true, strict=True) if x <= limit]
    x, y = zip(*inside, (limit, inside[-1][1]), strict=True)
    k = len(inside)
    if k < len(false) and false[k] > false[k - 1]:
        y = (*y[:-1], y[-1] + (true[k] - true[k - 1]) * (limit - false[k - 1]) / (false[k] - false[k - 1]))
    assert found.area(found.hits / labels.sum(), limit) == pytest.approx(np.trapezoid(y, x) / limit, abs=1e-9)


@given(both_kinds, score)
@settings(max_examples=80, deadline=None)
def test_figures_at_a_threshold_are_those_of_scikit_learn(pairs: list[tuple[float, bool]], threshold: float) -> None:
    scores, labels = split(pairs)
    found, called = at_threshold(scores, labels, threshold), scores >= threshold
    assert found.recall == pytest.approx(recall_score(labels, called), abs=1e-12)
    assert found.f1 == pytest.approx(f1_score(labels, called), abs=1e-12)
    assert found.false_alarm_rate == pytest.approx(recall_score(~labels, called), abs=1e-12)
    assert found.precision == (pytest.approx(precision_score(labels, called), abs=1e-12) if called.any() else None)
    assert found == at_threshold(scores, labels, np.full(len(scores), threshold))


def test_the_order_of_the_items_is_no_matter_even_among_ties() -> None:
    rng = np.random.default_rng(0)
    scores, labels = rng.integers(0, 5, 1000).astype(np.float32), rng.random(1000) < 0.3
    shuffled = rng.permutation(1000)
    for metric in (auroc, average_precision, f1_max):
        assert metric(scores, labels) == metric(scores[shuffled], labels[shuffled])


def test_known_values() -> None:
    labels = np.array([False, False, True, True])
    assert auroc(np.arange(4.0), labels) == 1
    assert auroc(-np.arange(4.0), labels) == 0
    assert auroc(np.zeros(4), labels) == 0.5
    # Ranks: hit, miss, hit, miss.
    scores = np.array([3.0, 1.0, 4.0, 2.0])
    assert average_precision(scores, labels) == pytest.approx((1 + 2 / 3) / 2)
    assert f1_max(scores, labels) == pytest.approx(4 / 5)
    found = ranking(scores, labels)
    assert found is not None
    assert found.best_f1().threshold == 2.0


def test_undefined_figures_are_none() -> None:
    scores, none, every = np.arange(3.0), np.zeros(3, bool), np.ones(3, bool)
    for metric in (auroc, average_precision, f1_max):
        assert metric(scores, none) is None
        assert metric(scores, every) is None
        assert metric(np.zeros(0), np.zeros(0, bool)) is None
    assert at_threshold(scores, none, 1.0) == (None, None, None, 2 / 3)
    assert at_threshold(scores, every, 1.0) == (None, 2 / 3, None, None)
    assert at_threshold(scores, np.array([True, False, False]), 9.0) == (None, 0, 0, 0)
