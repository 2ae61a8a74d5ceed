"""The rules that thresholds follow, checked against plain loops: rates, discoveries, alerts a night, verdicts."""

from __future__ import annotations

from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from diffad_ray import UserError
from diffad_ray.analytics.thresholds.levels import discoveries, level_of_alerts
from diffad_ray.analytics.thresholds.verdicts import Words, threshold_by_verdicts
from diffad_ray.bundles.calibration import Calibration
from diffad_ray.intervals import wilson

P_VALUES = st.lists(st.sampled_from([1e-300, 1e-6, 0.001, 0.01, 0.02, 0.05, 0.1, 0.3, 0.7, 1.0]), min_size=1)


def scores_of(rows: list[dict[str, Any]]) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect()
    columns = {
        "run_date": [row["date"] for row in rows],
        "detector_fingerprint": ["a"] * len(rows),
        "tail_probability": [row["p"] for row in rows],
    }
    connection.register("scores", pa.table(columns))
    return connection


@settings(deadline=None, max_examples=40)
@example([0.1, 0.1, 0.1], 0.1)
@given(P_VALUES, st.sampled_from([0.01, 0.05, 0.1, 0.5]))
def test_discoveries_are_those_of_a_plain_loop(p: list[float], fdr: float) -> None:
    ordered = sorted(p)
    last = max((k for k in range(1, len(p) + 1) if ordered[k - 1] * len(p) <= fdr * k), default=0)
    with scores_of([{"date": "2026-01-01", "p": value} for value in p]) as connection:
        found = discoveries(connection, "true", fdr)
        assert (found.alerts, found.images) == (last, len(p))
        assert found.level == (ordered[last - 1] if last else None)
        floored = discoveries(connection, "true", fdr, {"a": 0.02})
    ordered = sorted(max(value, 0.02) for value in p)
    last = max((k for k in range(1, len(p) + 1) if ordered[k - 1] * len(p) <= fdr * k), default=0)
    assert (floored.level, floored.alerts) == (ordered[last - 1] if last else None, last)


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.tuples(st.integers(1, 3), st.sampled_from([0.001, 0.01, 0.1, 0.4, 1.0])), min_size=1), st.integers(1, 6)
)
def test_a_level_gives_at_most_so_many_alerts_in_each_night(rows: list[tuple[int, float]], most: int) -> None:
    with scores_of([{"date": f"2026-01-0{day}", "p": p} for day, p in rows]) as connection:
        a_night = [sum(1 for other, _ in rows if other == day) for day in (1, 2, 3)]
        if max(a_night) <= most:
            with pytest.raises(UserError, match="no night of the period has more than"):
                level_of_alerts(connection, "true", most)
            return
        level, night = level_of_alerts(connection, "true", most)

    def alerts(bound: float) -> list[int]:
        return [sum(1 for other, p in rows if other == day and p <= bound) for day in (1, 2, 3)]

    assert max(alerts(level)) <= most
    # The next image of the night that decides would be one too many.
    assert alerts(float(np.nextafter(level, 1.0)))[int(night[-1]) - 1] > most


WORDS = st.lists(
    st.builds(Words, st.integers(-3, 3).map(float), st.integers(0, 3), st.integers(0, 3)),
    min_size=1,
    unique_by=lambda word: word.score,
)


@given(WORDS, st.one_of(st.none(), st.floats(0.01, 0.9)))
def test_a_threshold_from_verdicts_is_that_of_a_plain_search(words: list[Words], rate: float | None) -> None:
    good, defective = sum(word.good for word in words), sum(word.defective for word in words)
    if not good or not defective:
        with pytest.raises(UserError, match="needs both"):
            threshold_by_verdicts(words, rate)
        return
    found = threshold_by_verdicts(words, rate)
    at_or_above = {
        bound: (
            sum(word.defective for word in words if word.score >= bound),
            sum(word.good for word in words if word.score >= bound),
        )
        for bound in [*(word.score for word in words), found.threshold]
    }
    assert at_or_above[found.threshold] == (found.found, found.rejected)
    if rate is None:
        best = max(hit / defective - false / good for hit, false in at_or_above.values())
        assert found.found / defective - found.rejected / good == pytest.approx(max(best, 0.0))
    else:
        allowed = [bound for bound, (_, false) in at_or_above.items() if false <= rate * good]
        assert found.threshold == min(allowed)


@given(st.integers(1, 10**6), st.floats(0, 1))
def test_the_interval_of_a_share_contains_it(of: int, share: float) -> None:
    count = round(share * of)
    found = wilson(count, of)
    assert 0 <= found.low <= count / of <= found.high <= 1
    assert found.high - found.low <= 1.97 / np.sqrt(of)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.floats(-100, 100, width=32), min_size=2, max_size=60), st.floats(1e-9, 1.0))
def test_the_threshold_at_a_rate_is_the_lowest_that_keeps_to_it(scores: list[float], rate: float) -> None:
    calibration = Calibration.from_scores(np.array(scores))
    found = calibration.threshold_at(rate)
    below = float(np.nextafter(np.float32(found), np.float32(-np.inf)))
    largest = float(np.finfo(np.float32).max)
    if found == largest or not np.isfinite(below):
        assert found == largest or rate == 1.0
        return
    assert calibration.tail_probability(np.array([found]))[0] <= rate
    assert calibration.tail_probability(np.array([below]))[0] > rate
