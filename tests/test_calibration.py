"""Calibration: a threshold that spends its budget, and tail probabilities that compare."""

from __future__ import annotations

import json
import math
import re
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from tiny_detector import tiny_detector

from diffad_ray.bundles.bundle import Bundle
from diffad_ray.bundles.calibration import ENOUGH_ABOVE, ERRORS, MOST_STRETCHED, Calibration, aligned
from diffad_ray.reports.training_text import print_import

# Not as close to each other as floats can be: interpolation has no digits left there.
floats = st.floats(-1e6, 1e6).map(lambda x: round(x, 6))
# Few values, so that ties are frequent, or many.
score_lists = st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]) | floats, min_size=2, max_size=80)


@given(normal=score_lists, queries=st.lists(floats, min_size=2, max_size=20), rate=st.floats(0.001, 0.5))
@settings(max_examples=150, deadline=None)
def test_a_higher_score_is_never_more_likely(normal: list[float], queries: list[float], rate: float) -> None:
    calibration = Calibration.from_scores(np.array(normal), rate)
    scores = np.sort([*queries, *normal, calibration.threshold])
    probabilities = calibration.tail_probability(scores)
    assert (np.diff(probabilities) <= 1e-12).all()
    assert (probabilities > 0).all()
    assert (probabilities <= 1).all()


@given(learnt=score_lists, held_back=score_lists)
@settings(max_examples=100, deadline=None)
def test_cross_fitted_scores_are_hardly_below_held_back_ones(learnt: list[float], held_back: list[float]) -> None:
    before, others = np.array(learnt), np.array(held_back)
    after = aligned(before, others)
    assert (np.argsort(after, kind="stable") == np.argsort(before, kind="stable")).all() or len(set(learnt)) < len(
        after
    )
    scale = max(1.0, np.abs(after).max(), np.abs(others).max())
    spread, usual = (np.quantile(scores, 0.9) - np.median(scores) for scores in (after, others))
    of_median, of_spread = (error / len(others) ** 0.5 for error in ERRORS)
    assert np.median(after) >= max(np.median(others) - of_median * usual, np.median(before)) - 1e-9 * scale
    own = np.quantile(before, 0.9) - np.median(before)
    assert spread >= min(usual * (1 - of_spread), MOST_STRETCHED * own) - 1e-6 * scale


def test_the_standard_errors_are_those_of_exponential_scores() -> None:
    scores = np.random.default_rng(0).exponential(size=(2000, 400))
    medians, highs = np.quantile(scores, [0.5, 0.9], axis=1)
    distance = np.log(5)
    found = [values.std() * 400**0.5 / distance for values in (medians, highs - medians)]
    np.testing.assert_allclose(found, ERRORS, rtol=0.15)


def test_few_held_back_images_are_joined_by_cross_fitted_ones_and_many_are_not() -> None:
    rng = np.random.default_rng(0)
    few, learnt = rng.normal(size=60), rng.normal(size=1000)
    alone, joined = Calibration.from_scores(few), Calibration.from_scores(few, cross_fitted=learnt.tolist())
    assert (alone.images, joined.images) == (60, 1060)
    assert joined.cross_fitted == tuple(learnt)
    assert abs(joined.threshold - 2.326) < 0.3
    assert Calibration(**json.loads(json.dumps(asdict(joined)))) == joined
    many = rng.normal(size=round(ENOUGH_ABOVE / 0.01))
    assert Calibration.from_scores(many, cross_fitted=learnt.tolist()) == Calibration.from_scores(many)
    with pytest.raises(ValueError, match="cross-fitted"):
        Calibration.from_scores(few, cross_fitted=[math.nan])


def test_held_back_images_suffice_once_five_are_expected_above_the_threshold() -> None:
    learnt = [50.0] * 20
    assert Calibration.from_scores(np.arange(8.0), 0.5, learnt).images == 28
    enough = Calibration.from_scores(np.arange(9.0), 0.5, learnt)
    assert (enough.images, enough.cross_fitted) == (9, ())


def test_cross_fitted_scores_are_moved_and_stretched_by_hand() -> None:
    """They have the median 5 and 4 to the 0.9 quantile, held-back ones 30 and 8."""
    learnt, held_back = np.linspace(0, 10, 51), np.linspace(20, 40, 101)
    of_median, of_distance = 0.62 / 101**0.5, 2 / 101**0.5
    expected = 30 - of_median * 8 + 8 / 4 * (1 - of_distance) * (learnt - 5)
    np.testing.assert_allclose(aligned(learnt, held_back), expected, rtol=1e-9)
    np.testing.assert_allclose(aligned(held_back, learnt), held_back, rtol=1e-9, err_msg="higher ones stay")
    nearly_equal = aligned(learnt / 1000, held_back)
    assert np.ptp(nearly_equal) == pytest.approx(3 * 0.01), "a spread that is next to none tells nothing"


@pytest.mark.parametrize("rate", [0.001, 0.01, 0.09, 0.5])
@pytest.mark.parametrize("images", [2, 20, 98, 99, 3000])
def test_the_threshold_has_the_tail_probability_of_the_budget(images: int, rate: float) -> None:
    calibration = Calibration.from_scores(np.random.default_rng(0).normal(size=images), rate)
    found = calibration.tail_probability(np.array([calibration.threshold]))[0]
    assert math.isclose(found, rate, rel_tol=0.02)


@given(normal=score_lists, rate=st.floats(0.001, 0.5))
@settings(max_examples=100, deadline=None)
def test_the_held_back_images_keep_to_the_budget(normal: list[float], rate: float) -> None:
    threshold = Calibration.from_scores(np.array(normal), rate).threshold
    assert (np.array(normal) >= threshold).sum() <= rate * (len(normal) + 1)


@pytest.mark.parametrize("rate", [0.005, 0.01, 0.05, 0.2])
@pytest.mark.parametrize("images", [60, 1000])
@pytest.mark.parametrize("kind", ["exponential", "normal"])
def test_false_alarms_stay_near_the_budget(kind: str, images: int, rate: float) -> None:
    rng = np.random.default_rng(0)
    draw, beyond = {
        "exponential": (rng.exponential, lambda x: math.exp(-x)),
        "normal": (rng.normal, lambda x: math.erfc(x / math.sqrt(2)) / 2),
    }[kind]
    thresholds = [Calibration.from_scores(draw(size=images), rate).threshold for _ in range(150)]
    spent = np.mean([beyond(threshold) for threshold in thresholds])
    assert 0.85 * rate < spent < (1.5 if images < 100 else 1.15) * rate


def test_tail_probabilities_are_those_of_the_distribution() -> None:
    scores = np.random.default_rng(0).exponential(size=20_000)
    calibration = Calibration.from_scores(scores)
    queries = np.array([0.05, 0.5, 1.0, 2.0, 3.0])
    np.testing.assert_allclose(calibration.tail_probability(queries), np.exp(-queries), rtol=0.05)
    # Some 135 of the images score over 5, which leaves a tenth to chance.
    np.testing.assert_allclose(calibration.tail_probability(np.array([5.0])), np.exp(-5.0), rtol=0.3)
    assert calibration.tail_probability(np.array([-1.0])) == 1
    assert len(calibration.scores) == len(calibration.ranks) <= 1000
    assert (calibration.scores[0], calibration.ranks[0]) == (scores.min(), 1)
    assert calibration.scores[-500:] == tuple(np.sort(scores)[-500:]), "the highest are all kept"
    assert calibration.ranks[-500:] == tuple(range(19_501, 20_001))
    assert np.diff(calibration.ranks).max() < 50, "of the others an even selection is"


def test_the_tail_by_hand() -> None:
    """Of 20 scores the six largest make the tail, which begins at their quantile of 0.7; of 100 the ten largest do."""
    few = Calibration.from_scores(np.arange(20.0), 0.01)
    assert (few.tail_count, few.tail_scale) == (6, pytest.approx(np.mean([14, 15, 16, 17, 18, 19]) - 13.3))
    # 1 % of 21 images is 0.21 of an image, so the threshold lies beyond the highest score.
    assert few.threshold == pytest.approx(19 + 6 * few.tail_scale * (0.21 ** (-1 / 6) - 1))
    assert few.tail_probability(np.array([19.0, 18.0])).tolist() == pytest.approx([1 / 21, 2 / 21])
    many = Calibration.from_scores(np.arange(100.0), 0.01)
    assert (many.tail_count, many.tail_scale) == (10, pytest.approx(np.mean(np.arange(90, 100)) - 89.1))
    # 1 % of 101 images is 1.01: a hundredth of the way from the highest score to the one below it.
    assert many.threshold == pytest.approx(98.99)
    assert many.ranks == tuple(range(1, 101))
    # 1 % of 100 images is one, which may be anomalous: the threshold is the highest score itself.
    assert Calibration.from_scores(np.arange(99.0), 0.01).threshold == 98.0
    # No more than half of the scores make the tail, and the lowest one is reached by every image.
    fewest = Calibration.from_scores(np.arange(4.0), 0.3)
    assert (fewest.tail_count, fewest.tail_scale) == (2, pytest.approx(np.mean([2, 3]) - 1.5))
    assert fewest.tail_probability(np.array([-1.0, 0.0, 1.0])).tolist() == pytest.approx([1, 1, 3 / 5])
    assert Calibration.from_scores(np.array([0.0, 0.0, 0.0, 1.0])).tail_count == 1


@pytest.mark.parametrize("lowest", [-60.0, -20.0, 5.0])
@pytest.mark.parametrize("rate", [0.3, 0.01, 1e-4])
def test_a_threshold_for_a_rate_is_the_smallest_one(lowest: float, rate: float) -> None:
    calibration = Calibration.from_scores(np.linspace(lowest, lowest + 30, 50))
    found = np.float32(calibration.threshold_at(rate))
    below = np.nextafter(found, np.float32(-np.inf))
    at, under = calibration.tail_probability(np.array([found, below], np.float64))
    assert at <= rate < under


@pytest.mark.parametrize("constant", [0.0, 0.5, -3.0, 1e6])
def test_scores_all_alike_still_give_a_threshold_above_them(constant: float) -> None:
    calibration = Calibration.from_scores(np.full(20, constant))
    assert constant < calibration.threshold <= constant + 0.01 * max(abs(constant), 1e-3)
    probabilities = calibration.tail_probability(
        np.array([constant - 1, constant, calibration.threshold, constant + 1e5])
    )
    assert probabilities[0] == 1
    assert probabilities[1] > 0.9
    assert math.isclose(probabilities[2], 0.01, rel_tol=1e-3)
    assert 0 < probabilities[3] < 1e-3


@pytest.mark.parametrize("scores", [[], [1.0], [1.0, float("nan")], [1.0, 2.0, float("inf")]])
def test_too_few_or_broken_scores_are_refused(scores: list[float]) -> None:
    with pytest.raises(ValueError, match="finite scores of at least 2"):
        Calibration.from_scores(np.array(scores))


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, float("nan")])
def test_an_impossible_budget_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="must lie between 0 and 1"):
        Calibration.from_scores(np.arange(10.0), rate)


def test_it_survives_json() -> None:
    calibration = Calibration.from_scores(np.random.default_rng(0).normal(size=50))
    assert Calibration(**json.loads(json.dumps(asdict(calibration)))) == calibration


@pytest.mark.parametrize(
    ("images", "because"),
    [
        (45, "1 % of good parts may score higher.*too few to see 1 %.*with 99 images or more it is measured"),
        (99, "1 % of good parts may score higher, judged by 99 images; scores in float32 by torch[^\n]*\nNext"),
    ],
)
def test_a_user_is_told_what_a_threshold_is_worth(images: int, because: str) -> None:
    calibration = Calibration.from_scores(np.linspace(-5, -3, images))
    said = Console(record=True, width=1000)
    print_import(Bundle(tiny_detector(), calibration, {"unreadable": {}}, "part"), "detectors/part", said)
    text = said.export_text()
    assert re.search(because, text, re.DOTALL)
    assert text.count("too few") == ("too few" in because)
