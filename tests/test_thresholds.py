"""The thresholds of a table: what is applied stays, the newest counts, and the views judge by it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb
import numpy as np
import pytest
from hand_made_table import FINGERPRINT, write_run
from hypothesis import given, settings
from hypothesis import strategies as st

from diffad_ray import UserError, query
from diffad_ray.analytics.database import write_database
from diffad_ray.analytics.ddl import ENGINES, ddl
from diffad_ray.bundles.calibration import Calibration
from diffad_ray.table.detectors import KnownDetector, read_detectors, write_detector
from diffad_ray.table.thresholds import AppliedThreshold, apply_threshold, in_force, read_thresholds, score_at_least
from diffad_ray.table.verify import verify
from diffad_ray.table.views import open_table

NAMES = [f"line/{k:02d}.png" for k in range(12)]
APPLIED = AppliedThreshold(FINGERPRINT, 0.95, 0.05, "threshold 0.95", "ada", "a test", "2026-01-02T03:04:05+00:00")
DECISIONS = "SELECT decision, is_anomalous, threshold, count(*) AS n FROM scores GROUP BY ALL ORDER BY ALL"


def test_what_is_known_of_a_detector(tmp_path: Path) -> None:
    assert read_detectors(str(tmp_path)) == {}
    calibration = Calibration.from_scores(np.arange(20.0))
    first = KnownDetector(FINGERPRINT, "weave", "/detectors/weave", "familiarity", calibration.threshold, calibration)
    unknown = KnownDetector("0" * 16, "old", "", "", 0.5, None)
    for known in (first, first, unknown):
        write_detector(str(tmp_path), known)
    assert read_detectors(str(tmp_path)) == {FINGERPRINT: first, "0" * 16: unknown}
    other = Calibration.from_scores(np.arange(30.0))
    again = replace(first, calibration=other, threshold=other.threshold)
    write_detector(str(tmp_path), again)
    assert read_detectors(str(tmp_path))[FINGERPRINT] == again


@settings(deadline=None, max_examples=20)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 40)), max_size=12))
def test_the_newest_threshold_of_each_detector_is_in_force(applied: list[tuple[str, int]]) -> None:
    with TemporaryDirectory() as table:
        newest: dict[str, tuple[int, float]] = {}
        for number, (name, second) in enumerate(dict.fromkeys(applied)):
            moment = f"2026-01-01T04:00:{second:02d}+01:00" if number % 2 else f"2026-01-01T03:00:{second:02d}+00:00"
            one = replace(APPLIED, detector_fingerprint=name, reject=1.0 + number, applied_at=moment)
            apply_threshold(table, one)
            newest[name] = max(newest.get(name, (-1, 0.0)), (second, one.reject))
        assert {name: one.reject for name, one in in_force(table).items()} == {k: v for k, (_, v) in newest.items()}
        moments = [one.applied_at[14:19] for one in read_thresholds(table)]
        assert moments == sorted(moments)


def test_two_who_apply_at_once_both_stay(tmp_path: Path) -> None:
    ones = [replace(APPLIED, who=f"person {k}", reject=1.0 + k) for k in range(24)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda one: apply_threshold(str(tmp_path), one), ones))
    assert sorted(read_thresholds(str(tmp_path)), key=lambda one: one.reject) == ones


def test_a_threshold_must_be_usable() -> None:
    for reject, review in ((float("nan"), None), (float("inf"), None), (1.0, 1.0), (1.0, 2.0), (1.0, float("-inf"))):
        with pytest.raises(UserError, match=r"finite|below reject"):
            replace(APPLIED, reject=reject, review=review)


@given(st.floats(-1e30, 1e30), st.floats(-(2.0**99), 2.0**99, width=32))
def test_a_rounded_threshold_accepts_the_same_scores(threshold: float, score: float) -> None:
    assert (score >= score_at_least(threshold)) == (score >= threshold)
    assert score_at_least(score) == score


def test_without_an_applied_threshold_rows_are_judged_as_they_were_scored(tmp_path: Path) -> None:
    write_run(str(tmp_path), 1, NAMES, failing=NAMES[4])
    found = query(tmp_path, DECISIONS).to_pylist()
    assert [(row["decision"], row["n"]) for row in found] == [("good", 6), ("reject", 5), (None, 1)]
    assert query(tmp_path, "FROM scores").column_names[-2:] == ["run_date", "decision"]
    with open_table(str(tmp_path)) as connection:
        plan = connection.execute("EXPLAIN SELECT image_uri FROM scores WHERE is_anomalous AND score > 0.3").fetchall()
    # The filters are part of the scan, which skips row groups by them.
    assert "is_anomalous" in str(plan).partition("PARQUET")[2]
    assert "FILTER" not in str(plan)


def test_views_judge_by_the_threshold_in_force(tmp_path: Path) -> None:
    write_run(str(tmp_path), 1, NAMES, failing=NAMES[4])
    for applied, expected in (
        (replace(APPLIED, detector_fingerprint="0" * 16), [("good", False, 0.5, 6), ("reject", True, 0.5, 5)]),
        (APPLIED, [("review", False, APPLIED.reject, 11)]),
        (
            replace(APPLIED, reject=0.5, review=None, applied_at="2026-01-03T03:04:05+00:00"),
            [("good", False, 0.5, 6), ("reject", True, 0.5, 5)],
        ),
        (
            # The rows have 0.1 as a float32, which is a little more than 0.1.
            replace(APPLIED, reject=0.1, review=None, applied_at="2026-01-04T03:04:05+00:00"),
            [("reject", True, pytest.approx(0.1), 11)],
        ),
    ):
        apply_threshold(str(tmp_path), applied)
        rows = [tuple(row.values()) for row in query(tmp_path, DECISIONS).to_pylist()]
        assert rows == [*expected, (None, None, None, 1)]
        file = tmp_path.parent / f"{tmp_path.name}.duckdb"
        write_database(tmp_path, file)
        with duckdb.connect(str(file), read_only=True) as connection:
            shown = connection.execute(DECISIONS).fetchall()
            assert shown == rows
            assert [row[0] for row in connection.execute("DESCRIBE scores").fetchall()][-1] == "decision"
    found = verify(tmp_path)
    assert (found.problems, found.notes) == ([], [])


@pytest.mark.parametrize("engine", sorted(ENGINES))
def test_other_engines_judge_by_the_threshold_in_force(tmp_path: Path, engine: str) -> None:
    write_run(str(tmp_path), 1, NAMES)
    apply_threshold(str(tmp_path), replace(APPLIED, reject=-1.5, review=-2.25))
    sql = ddl(tmp_path, engine)
    assert "print this again after others are applied" in sql
    double = ENGINES[engine].types["double"]
    assert f"row.score >= CAST(-1.5 AS {double}) THEN 'reject'" in sql
    assert f"row.score >= CAST(-2.25 AS {double}) THEN 'review'" in sql
