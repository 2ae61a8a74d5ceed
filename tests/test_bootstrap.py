"""The resamples are those that drawing images one by one gives."""

from __future__ import annotations

import numpy as np
import pytest

from diffad_ray.evaluation import bootstrap
from diffad_ray.evaluation.bootstrap import interval, resampled
from diffad_ray.evaluation.metrics import at_threshold, auroc, average_precision, f1_max


def some(rng: np.random.Generator, count: int = 60) -> tuple[np.ndarray, np.ndarray]:
    labels = rng.random(count) < 0.4
    return (rng.normal(labels * 1.0, 1)).round(1), labels


def test_each_resample_is_scored_as_its_images_are(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, labels = some(np.random.default_rng(0))
    monkeypatch.setattr(bootstrap, "RESAMPLES", 25)
    weights: list[np.ndarray] = []
    draws = bootstrap._draws

    def remembered(rng: np.random.Generator, count: int, items: int) -> np.ndarray:
        weights.append(draws(rng, count, items))
        return weights[-1]

    monkeypatch.setattr(bootstrap, "_draws", remembered)
    found = resampled(scores, labels, scores >= 1)
    defective, normal = weights
    assert (defective.sum(axis=1) == labels.sum()).all()
    assert (normal.sum(axis=1) == (~labels).sum()).all()
    for k in range(25):
        drawn = np.concatenate(
            [np.repeat(np.sort(scores[kind])[::-1], w[k]) for kind, w in ((labels, defective), (~labels, normal))]
        )
        truth = np.arange(len(drawn)) < labels.sum()
        judged = at_threshold(drawn, truth, 1.0)
        expected = {
            "image_auroc": auroc(drawn, truth),
            "image_ap": average_precision(drawn, truth),
            "image_f1_max": f1_max(drawn, truth),
            **judged._asdict(),
        }
        assert {name: values[k] for name, values in found.items()} == pytest.approx(expected, abs=1e-12)


def test_intervals_do_not_depend_on_order_or_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, labels = some(np.random.default_rng(1))
    first = resampled(scores, labels, scores >= 1)
    order = np.random.default_rng(2).permutation(len(scores))
    again = resampled(scores[order], labels[order], scores[order] >= 1)
    for name, values in first.items():
        np.testing.assert_array_equal(values, again[name])
    low, high = interval(first["image_auroc"])
    value = auroc(scores, labels)
    assert value is not None
    assert 0.5 < low < value < high < 1
    monkeypatch.setattr(bootstrap, "MOST_DRAWS", 600)
    parts = resampled(scores, labels, scores >= 1)
    assert len(parts["recall"]) == bootstrap.RESAMPLES
    assert interval(parts["image_auroc"]) == pytest.approx((low, high), abs=0.03)


def test_the_interval_of_a_share_is_the_binomial_one() -> None:
    labels = np.arange(400) < 200
    scores = np.where(np.arange(400) % 4 == 0, 1.0, 0.0)
    low, high = interval(resampled(scores, labels, scores > 0.5)["recall"])
    spread = 1.96 * np.sqrt(0.25 * 0.75 / 200)
    assert (low, high) == pytest.approx((0.25 - spread, 0.25 + spread), abs=0.01)


def test_too_few_images_have_no_interval() -> None:
    scores = np.arange(4.0)
    assert resampled(scores, np.array([True, False, False, False]), scores > 1) == {}
    assert resampled(scores, np.zeros(4, bool), scores > 1) == {}
