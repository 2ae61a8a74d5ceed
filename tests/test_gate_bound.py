"""What a gate promises and what an audit says of it: intervals, limits, and estimates of passed images."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffad_ray.gates.bound import NOTHING_PASSES, fewest_flagged, limit_for, missed_share
from diffad_ray.gates.evidence import GROUPS, Evidence, opening
from diffad_ray.intervals import exact_interval

counts = st.tuples(st.integers(0, 60), st.integers(1, 60)).map(lambda pair: (min(pair), max(pair[1], min(pair), 1)))
THRESHOLD = 2.0


def at_most(count: int, of: int, p: float) -> float:
    return sum(math.comb(of, k) * p**k * (1 - p) ** (of - k) for k in range(count + 1))


@given(counts)
def test_the_interval_is_that_of_clopper_and_pearson(pair: tuple[int, int]) -> None:
    """Its ends are the shares at which so few or so many are just as rare as 2.5 %."""
    count, of = pair
    found = exact_interval(count, of)
    assert 0 <= found.low <= found.value == count / of <= found.high <= 1
    if count:
        assert 1 - at_most(count - 1, of, found.low) == pytest.approx(0.025, abs=1e-6)
    if count < of:
        assert at_most(count, of, found.high) == pytest.approx(0.025, abs=1e-6)
    assert (found.low == 0, found.high == 1) == (count == 0, count == of)


def test_the_interval_of_many_and_of_none() -> None:
    assert exact_interval(0, 0) == exact_interval(0, 0).__class__(0.0, 0.0, 1.0)
    many = exact_interval(5_000, 1_000_000)
    assert (many.low, many.high) == pytest.approx((0.004863, 0.005140), abs=2e-6)


@given(st.lists(st.floats(-50, 50, width=32), max_size=300), st.sampled_from([0.5, 0.1, 0.01, 0.004]))
def test_a_limit_loses_no_more_than_it_promises(scores: list[float], missed: float) -> None:
    flagged = np.array(scores, np.float32)
    limit = limit_for(flagged, missed)
    if len(flagged) < fewest_flagged(missed):
        assert limit == NOTHING_PASSES
    else:
        # A new image lies below the k-th lowest of n with a probability of k / (n + 1) at most.
        lost = int((flagged < limit).sum())
        assert (lost + 1) / (len(flagged) + 1) <= missed + 1e-9
        assert limit in flagged


def test_new_images_are_lost_as_seldom_as_promised() -> None:
    rng, missed = np.random.default_rng(0), 0.05
    lost = [float((rng.normal(size=200) < limit_for(rng.normal(size=99), missed)).mean()) for _ in range(400)]
    assert np.mean(lost) == pytest.approx(missed, abs=0.004)


@given(st.integers(0, 500), st.integers(0, 500), st.integers(0, 500), st.data())
def test_the_missed_share_lies_in_its_interval(passed: int, of: int, caught: int, data: st.DataObject) -> None:
    audited = min(of, passed)
    missed = data.draw(st.integers(0, audited))
    found = missed_share(passed, audited, missed, caught)
    assert 0 <= found.low <= found.value <= found.high <= 1
    if passed and audited == passed:
        assert found.low == found.value == found.high == (missed / (missed + caught) if missed else 0)
    if audited:
        expected = passed * missed / audited
        assert found.value == pytest.approx(expected / (expected + caught) if missed else 0)


def evidence(**groups: tuple[list[float], list[float]]) -> Evidence:
    """Gate scores and full scores by group."""
    group = np.concatenate([[GROUPS.index(name)] * len(gate) for name, (gate, _) in groups.items()]).astype(np.int8)
    gate, full = (np.concatenate([pair[k] for pair in groups.values()]).astype(np.float32) for k in (0, 1))
    return Evidence(group, gate, full)


def test_a_gate_opens_below_all_that_the_detector_flags() -> None:
    normal = [0.0, 1.0, 2.0, 3.0], [-4.0, -3.0, -2.0, -1.0]
    pseudo = [2.5, 4.0, 0.1], [3.0, 5.0, 1.0]
    found = opening(evidence(normal=normal, pseudo=pseudo), THRESHOLD, 1 / 3)
    assert (found.limit, found.flagged, found.passes.value) == (2.5, 2, 0.75)
    assert found.proof.value == 0
    # A defect that people named counts though it is alone; one that the detector does not flag does not.
    with_defects = evidence(normal=normal, pseudo=pseudo, defect=([1.5, 0.2], [2.0, 1.9]))
    assert opening(with_defects, THRESHOLD, 1 / 3).limit == 1.5
    # So does a good image that the detector flags.
    assert opening(
        evidence(normal=([0.0, 1.0, 1.2], [0.0, 0.0, 9.0]), pseudo=pseudo), THRESHOLD, 1 / 3
    ).limit == np.float32(1.2)


def test_too_few_flagged_images_promise_nothing() -> None:
    few = evidence(normal=([0.0, 1.0], [-4.0, -3.0]), pseudo=([2.5, 4.0], [3.0, 5.0]))
    found = opening(few, THRESHOLD, 0.1)
    assert (found.limit, found.passes.value, len(found.gate)) == (NOTHING_PASSES, 0, 0)
    # A higher threshold leaves fewer flagged images, here none.
    assert opening(few, 9.0, 0.5).limit == NOTHING_PASSES


@given(st.lists(st.floats(-20, 20, width=32), min_size=2, max_size=50), st.integers(0, 1000))
def test_passed_good_images_keep_the_distribution_of_their_scores(full: list[float], seed: int) -> None:
    gate = np.random.default_rng(seed).permutation(len(full)).astype(float)
    found = opening(evidence(normal=(list(gate), full), pseudo=([1e3], [1e3])), 100.0, 0.5)
    assert found.limit == 1e3
    np.testing.assert_allclose(np.sort(found.estimated(gate)), np.sort(np.float32(full)))


def test_an_estimate_stays_below_the_threshold() -> None:
    found = opening(evidence(normal=([0.0, 1.0], [-4.0, 1.9999999]), pseudo=([5.0], [9.0])), THRESHOLD, 0.5)
    (estimate,) = found.estimated(np.array([4.0]))
    assert estimate < THRESHOLD
    assert estimate == pytest.approx(THRESHOLD)
