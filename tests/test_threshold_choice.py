"""Thresholds are chosen as wished, checked against plain loops, and applied by the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner
from wide_table import FINGERPRINTS, write_wide_table

from diffad_ray import UserError, query
from diffad_ray.analytics.thresholds.choice import Wish
from diffad_ray.analytics.thresholds.proposal import apply, propose
from diffad_ray.cli import app
from diffad_ray.intervals import wilson
from diffad_ray.table.thresholds import in_force, read_thresholds
from diffad_ray.table.views import open_table


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_wide_table(tmp_path_factory.mktemp("wide") / "table")


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["threshold", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_candidates_say_what_they_would_have_meant(table: Path) -> None:
    found = propose(table, by=["line"], seconds_per_image=36)
    first = {one.candidate.fingerprint for one in found.consequences}
    assert first == set(FINGERPRINTS)
    with open_table(str(table)) as connection:
        connection.execute("CREATE TABLE rows AS FROM scores")
        for one in found.consequences:
            for days, name in ((1, "night"), (7, "week"), (30, "month")):
                expected = connection.execute(
                    "SELECT count(*), count(*) FILTER (region_count > 0) FROM rows WHERE line = ? AND score >= ? "
                    f"AND detector_fingerprint = ? AND run_date > (SELECT max(run_date) - {days} FROM rows)",
                    [one.group["line"], one.candidate.reject, one.candidate.fingerprint],
                ).fetchone()
                window = one.windows[name]
                assert (window.alerts, window.with_regions) == expected
                assert window.nights == min(days, 10)
                assert window.hours_a_night == pytest.approx(window.alerts * 36 / 3600 / window.nights)
                assert one.candidate.rate is not None
                assert window.false_alarms == pytest.approx(one.candidate.rate * window.images)
    rates = {one.candidate.reasons for one in found.consequences if one.candidate.fingerprint == FINGERPRINTS[0]}
    assert rates == {("rate 0.01 %",), ("rate 0.1 %",), ("in force", "rate 1 %")}
    assert found.choice is None


def test_verdicts_give_overkill_with_an_interval_and_missed_defects(table: Path) -> None:
    (one,) = [
        one
        for one in propose(table, Wish(threshold=3.0), detector="weave").consequences
        if "chosen" in one.candidate.reasons
    ]
    sql = (
        "SELECT count(*) FILTER (score >= 3) AS alerts, count(*) FILTER (score >= 3 AND verdict = 'good') AS good, "
        "count(*) FILTER (verdict = 'defect') AS defects, count(*) FILTER (verdict = 'defect' AND score < 3) AS missed "
        "FROM scores JOIN verdicts USING (image_id) WHERE detector = 'weave' AND verdict <> 'unsure'"
    )
    (expected,) = query(table, sql).to_pylist()
    reviewed = one.reviewed
    assert reviewed is not None
    assert reviewed.alerts
    assert reviewed.missed
    assert (reviewed.alerts, reviewed.good, reviewed.defects, reviewed.missed) == tuple(expected.values())
    assert reviewed.overkill == wilson(reviewed.good, reviewed.alerts)


@pytest.mark.parametrize("most", [1, 7, 40])
def test_alerts_a_night_are_kept_in_every_night_by_all_detectors_together(table: Path, most: int) -> None:
    choice = propose(table, Wish(alerts_per_night=most, review=25.0)).choice
    assert choice is not None

    def a_night(bounds: dict[str, float], below: dict[str, float] | None = None) -> list[int]:
        upper = "".join(f"WHEN '{key}' THEN {value!r} " for key, value in (below or {}).items())
        lower = "".join(f"WHEN '{key}' THEN {value!r} " for key, value in bounds.items())
        is_in = f"score >= CASE detector_fingerprint {lower} END"
        is_in += f" AND score < CASE detector_fingerprint {upper} END" if upper else ""
        sql = f"SELECT count(*) FILTER ({is_in}) AS n FROM scores GROUP BY run_date"
        return [row["n"] for row in query(table, sql).to_pylist()]

    assert most * 0.7 <= max(a_night(choice.reject)) <= most
    assert 15 <= max(a_night(choice.review, choice.reject)) <= 25
    assert set(choice.reject) == set(FINGERPRINTS)


def test_too_few_calibration_images_are_said_plainly(table: Path) -> None:
    choice = propose(table, Wish(fdr=0.1)).choice
    assert choice is not None
    assert (
        "too few calibration images for an fdr of 0.1: 199 calibration images carry rates down to 0.005"
        in choice.notes[0]
    )
    assert "without a guarantee" in choice.notes[0]
    enough = propose(table, Wish(fdr=0.5)).choice
    assert enough is not None
    assert "which is enough for" in enough.notes[0]
    extrapolated = propose(table, Wish(false_alarm_rate=0.0001)).choice
    assert extrapolated is not None
    assert "carry rates down to 0.005; the threshold for 0.0001 lies in the tail" in extrapolated.notes[0]


def test_apply_says_what_changes_and_how_to_make_what_is_missing(tmp_path: Path) -> None:
    table = write_wide_table(tmp_path / "table")
    before = propose(table, detector="weave").detectors[0].reject
    said = run(table, "--detector", "weave", "--threshold", before - 1, "--review-band", "0.2")
    assert "would be in force" in said
    assert read_thresholds(str(table)) == []
    said = run(
        table, "--detector", "weave", "--threshold", before - 1, "--review-band", 0.2, "--apply", "--why", "night [1]"
    )
    (applied,) = read_thresholds(str(table))
    assert (applied.reject, applied.why) == (before - 1, "night [1]")
    assert applied.review is not None
    assert applied.chosen_by == f"threshold {before - 1:g}; review from false-alarm rate 0.2"
    sql = (
        "SELECT count(*) AS n FROM scores WHERE decision = 'reject' AND detector = 'weave' AND region_count = 0 "
        "UNION ALL SELECT count(*) FROM scores WHERE decision = 'review'"
    )
    become, review = (row["n"] for row in query(table, sql).to_pylist())
    assert become > 0
    assert review > 0
    assert f"images of the table: {become} become alerts, 0 cease to be, {review} are to be reviewed" in said
    command = f"diffad-ray score /archive --detector /detectors/weave --table {table} --missing-masks"
    assert f"{become} of the new alerts have no regions yet. To make them: {command}" in said
    shown = json.loads(run(table, "--detector", "weave", "--json"))
    assert shown["detectors"][0]["applied"]["why"] == "night [1]"
    assert f"by {applied.who} ({applied.chosen_by}): night [1]" in run(table)
    apply(propose(table, Wish(threshold=before), detector="weave"), "back", "ada")
    assert in_force(str(table))[FINGERPRINTS[0]].who == "ada"
    assert propose(table, detector="weave").detectors[0].reject == before


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"fdr": 0.1, "threshold": 3.0}, "chosen in one way"),
        ({"false_alarm_rate": 0.1, "alerts_per_night": 3}, "chosen in one way"),
        ({"false_alarm_rate": 1.0}, "must lie between 0 and 1"),
        ({"fdr": 1.0}, "must lie between 0 and 1"),
        ({"alerts_per_night": 0}, "must be 1 to"),
        ({"alerts_per_night": 100_000}, "no night of the period has more than"),
        ({"threshold": 3.0}, "name one with --detector"),
        ({"threshold": float("nan")}, "is no number to compare scores with"),
        ({"threshold": 3.0, "review": 0.0}, "must be a rate below 1"),
        ({"review": 1e-5}, "take a larger --review-band"),
    ],
)
def test_wishes_that_cannot_be_fulfilled(table: Path, wish: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        propose(table, Wish(**wish))


def test_questions_that_make_no_sense(table: Path) -> None:
    for arguments, message in (
        ({"by": ["lime"]}, "scores has no such column"),
        ({"detector": "wave"}, "those that have are"),
        ({"since": "2030-01-01", "until": "2030-01-02"}, "choose another period"),
        ({"seconds_per_image": 0.0}, "must be more than 0"),
    ):
        with pytest.raises(UserError, match=message):
            propose(table, **arguments)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="nothing was chosen"):
        apply(propose(table), "why")
    with pytest.raises(UserError, match="needs a reason"):
        apply(propose(table, Wish(alerts_per_night=5)), " ")
    with pytest.raises(UserError, match="needs both"):
        propose(table, Wish(from_verdicts=True), detector="brushed")


def test_verdicts_choose_the_threshold(table: Path) -> None:
    choice = propose(table, Wish(from_verdicts=True), detector="weave").choice
    assert choice is not None
    assert "verdicts: " in choice.chosen_by[FINGERPRINTS[0]]
    rated = propose(table, Wish(from_verdicts=True, false_alarm_rate=0.01), detector="weave").choice
    assert rated is not None
    sql = (
        f"SELECT avg((score >= {rated.reject[FINGERPRINTS[0]]!r})::INT) AS overkill FROM scores "
        "JOIN verdicts USING (image_id) WHERE verdict = 'good' AND detector = 'weave'"
    )
    (found,) = query(table, sql).to_pylist()
    assert found["overkill"] <= 0.01
    assert "with at most 0.01 of the good parts rejected" in rated.chosen_by[FINGERPRINTS[0]]
