"""The numbers of a report: against plain SQL, with planted stories that are named first, and quiet days."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path

import numpy as np
import pytest
from plant_table import FINGERPRINT, THRESHOLD, bad_lot, dim_camera, scratches, tool_mark, write_plant
from typer.testing import CliRunner

from diffad_ray.analytics.drift import drift
from diffad_ray.analytics.query import query
from diffad_ray.analytics.report import Question, Report, report
from diffad_ray.analytics.report.counts import ALL
from diffad_ray.bundles.calibration import Calibration
from diffad_ray.cli import app
from diffad_ray.errors import UserError
from diffad_ray.reports.report_page.sentences import headlines
from diffad_ray.storage import normalised
from diffad_ray.table.detectors import KnownDetector, write_detector
from diffad_ray.table.thresholds import AppliedThreshold, apply_threshold

DAYS, A_DAY = 14, 400


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Thirty days on which nothing happens."""
    table = str(tmp_path_factory.mktemp("quiet") / "table")
    write_plant(table, 30, A_DAY)
    return table


@pytest.fixture(scope="module")
def eventful(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """Two weeks; in the second one a mark begins, a lot arrives, and a camera goes dim."""
    table = str(tmp_path_factory.mktemp("eventful") / "table")

    def stories(part, rng) -> None:  # type: ignore[no-untyped-def]
        for story in (tool_mark(9), bad_lot(10), dim_camera(11)):
            story(part, rng)

    write_plant(table, DAYS, A_DAY, stories)
    return report(table)


def test_counts_are_those_of_plain_sql(eventful: Report) -> None:
    table, period = eventful.table, "run_date BETWEEN DATE '2026-03-08' AND DATE '2026-03-14'"
    assert (eventful.asked.period.since, eventful.asked.period.until) == (date(2026, 3, 8), date(2026, 3, 14))
    assert eventful.asked.columns == ("line", "camera", "lot"), "and not the column of dates"
    sql = "count(*) AS images, count(score) AS scored, count(*) FILTER (is_anomalous) AS alerts FROM scores WHERE"
    (expected,) = query(table, f"SELECT {sql} {period}").to_pylist()
    now = eventful.whole.now
    assert {"images": now.images, "scored": now.scored, "alerts": now.alerts} == expected
    for column in eventful.asked.columns:
        rows = query(table, f"SELECT {column}, {sql} {period} GROUP BY 1 ORDER BY 1").to_pylist()
        groups = sorted((g for g in eventful.groups if g.column == column and g.now.images), key=lambda g: g.value)
        assert [(g.value, g.now.images, g.now.scored, g.now.alerts) for g in groups] == [
            tuple(r.values()) for r in rows
        ]
    days = query(table, f"SELECT run_date::VARCHAR AS day, {sql} {period} GROUP BY 1 ORDER BY 1").to_pylist()
    assert [(day, counts.alerts) for day, counts in eventful.whole.days.items()] == [
        (d["day"], d["alerts"]) for d in days
    ]
    (failure,) = eventful.failures
    assert (failure.status, failure.reason) == ("timeout", "no answer in N s")
    assert failure.now == now.images - now.scored
    assert sum(run.images for run in eventful.runs) == now.images


def test_regions_are_those_of_plain_sql(eventful: Report) -> None:
    sql = (
        "SELECT centroid_x / 200 AS x, centroid_y / 100 AS y FROM regions "
        "WHERE region_date BETWEEN DATE '2026-03-08' AND DATE '2026-03-14'"
    )
    rows = query(eventful.table, sql).to_pydict()
    x, y = np.array(rows["x"]), np.array(rows["y"])
    (density,) = eventful.densities
    expected, _, _ = np.histogram2d(y, x, 24, [[0, 1], [0, 1]])
    assert density.regions == len(x)
    assert np.abs(np.array(density.cells) - expected).sum() <= 4, "values on the border of a cell may go either way"
    assert sum(bar.now for bar in eventful.pareto) == len(x), "all places and sizes fit in the Pareto here"
    assert eventful.pareto[0].place == "bottom left"
    assert eventful.pareto[-1].cumulative_share == pytest.approx(1)


def test_scores_are_counted_by_bin(eventful: Report) -> None:
    (scores,) = eventful.scores
    sql = "SELECT score FROM scores WHERE score IS NOT NULL AND run_date >= DATE '2026-03-08'"
    values = np.array(query(eventful.table, sql).to_pydict()["score"], dtype=np.float64)
    assert np.abs(np.array(scores.now) - np.histogram(values, scores.edges)[0]).sum() <= 2
    assert sum(scores.now) == eventful.whole.now.scored
    assert scores.calibration == []


def test_planted_stories_are_named_first(eventful: Report) -> None:
    (mark,) = eventful.recurring
    assert (mark.column, mark.value, mark.since) == ("camera", "top", date(2026, 3, 10))
    assert (mark.x, mark.y) == (pytest.approx(0.3, abs=0.05), pytest.approx(0.7, abs=0.05))
    assert mark.rates.now.share == pytest.approx(0.6, abs=0.05)
    (light,) = eventful.light
    assert (light.measure, light.column, light.value, light.since) == ("brightness", "camera", "side", "2026-03-12")
    assert light.now / light.earlier == pytest.approx(0.67, abs=0.03)
    told = {(change.kind, change.column, change.value) for change in eventful.changes}
    assert told == {("alerts", "camera", "top"), ("new group", "lot", "X")}
    words = [one.text for one in headlines(eventful)]
    assert "camera = side look different since 2026-03-12: brightness fell by" in words[0]
    assert "one place on camera = top since 2026-03-10" in words[1]
    assert any("lot = X is new since 2026-03-11" in text for text in words[:4])


@pytest.mark.parametrize("since", ["15d", "7d", "2d", "1d"])
def test_quiet_days_give_nothing(quiet: str, since: str) -> None:
    found = report(quiet, Question(since=since))
    assert found.whole.earlier.images == found.whole.now.images
    assert headlines(found) == []


def test_a_single_story_is_told_once(tmp_path: Path) -> None:
    table = str(tmp_path / "table")
    write_plant(table, DAYS, A_DAY, bad_lot(8))
    found = report(table, Question(by=("line", "camera", "lot")))
    assert [(change.kind, change.value) for change in found.changes] == [("new group", "X")], "and not line and cameras"
    assert found.recurring == []


def test_a_run_is_compared_with_the_run_before(eventful: Report) -> None:
    runs = [run.run_id for run in eventful.runs]
    found = report(eventful.table, Question(run=runs[2]))
    assert found.whole.now.images == found.whole.earlier.images == A_DAY
    assert [run.run_id for run in found.runs] == [runs[2]]
    assert [place.value for place in found.recurring] == ["top"], "it began in this run"
    first = report(eventful.table, Question(run="20260301T030000-000000"))
    assert first.changes == []
    assert "no images of 2026-02-28" in first.notes[0]


def test_days_may_come_from_a_column_and_rows_be_chosen(eventful: Report) -> None:
    by_capture = report(eventful.table, Question(day_column="taken"))
    assert by_capture.whole == eventful.whole
    top = report(eventful.table, Question(only=(("camera", "top"),)))
    (expected,) = (g for g in eventful.groups if (g.column, g.value) == ("camera", "top"))
    assert top.whole.now == expected.now
    assert "camera" not in top.asked.columns


@pytest.mark.parametrize(
    ("question", "because"),
    [
        (Question(by=("color",)), "no column 'color': its own columns are line, camera"),
        (Question(since="2030-01-01", until="2030-01-02"), "no image of 2030-01-01"),
        (Question(day_column="line"), "no value of the column line is a date"),
        (Question(run="none"), "no run none"),
    ],
)
def test_wrong_questions_are_refused(eventful: Report, question: Question, because: str) -> None:
    with pytest.raises(UserError, match=because):
        report(eventful.table, question)


def test_thresholds_and_calibration_are_told(tmp_path: Path) -> None:
    table = normalised(tmp_path / "table")
    write_plant(table, 2, 200)
    calibration = Calibration.from_scores(np.linspace(-3, 2, 400))
    write_detector(table, KnownDetector(FINGERPRINT, "part", "/detectors/part", "familiarity", THRESHOLD, calibration))
    apply_threshold(
        table, AppliedThreshold(FINGERPRINT, 1.9, 1.0, "a test", "ann", "to see", "2026-03-02T05:00:00+00:00")
    )
    found = report(table, Question(since="1d"))
    (detector,) = found.detectors
    assert detector.threshold == pytest.approx(1.9)
    assert detector.applied is not None
    assert detector.applied.who == "ann"
    assert detector.false_alarm_rate == pytest.approx(float(calibration.tail_probability(np.array([1.9]))[0]))
    assert sum(found.scores[0].calibration) == pytest.approx(1)
    (counted,) = query(
        table, "SELECT count(*) FILTER (decision = 'review') AS n FROM scores WHERE run_date = '2026-03-02'"
    )
    assert found.whole.now.warned == counted[0].as_py()
    assert found.verdicts is None


def test_the_command_writes_json_with_every_number(eventful: Report, tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    done = CliRunner().invoke(app, ["report", eventful.table, "--json", str(file)])
    assert done.exit_code == 0, done.output
    assert "lot = X is new" in done.stdout
    found = json.loads(file.read_text())
    assert found == json.loads(json.dumps(eventful.as_json(), default=str))
    assert found["groups"][0]["column"] == ALL
    assert found["recurring"][0]["rates"]["now"]["of"] > 0
    printed = CliRunner().invoke(app, ["report", eventful.table, "--json", "-"])
    assert json.loads(printed.stdout) == found
    wrong = CliRunner().invoke(app, ["report", eventful.table, "--only", "camera"])
    assert "COLUMN=VALUE" in str(wrong.exception)


def test_parts_have_a_rate_by_night_deciding_views_and_examples(eventful: Report) -> None:
    parts = report(eventful.table, Question(group_by="serial")).parts
    assert parts is not None
    sql = (
        "SELECT run_date::VARCHAR AS night, count(*) FILTER (decision = 'reject') AS rejected, count(*) AS parts "
        "FROM parts WHERE run_date >= DATE '2026-03-08' GROUP BY 1 ORDER BY 1"
    )
    expected = query(eventful.table, sql, group_by="serial").to_pylist()
    assert [tuple(row.values()) for row in expected] == [(night, r.count, r.of) for night, r in parts.days.items()]
    assert parts.now.count == sum(row["rejected"] for row in expected)
    assert parts.change is not None
    assert parts.change.effect > 0.2
    assert {view.column for view in parts.views} == {"camera"}, "line and lot are the same for all images of a part"
    assert parts.views[0].value == "top"
    assert sum(view.now for view in parts.views) == parts.now.count
    assert parts.views[-1].cumulative_share == pytest.approx(1)
    tails = [min(image.tail_probability for image in part.images) for part in parts.worst]
    assert len(tails) == 4
    assert tails == sorted(tails)
    for part in parts.worst:
        assert len(part.images) == len(part.titles) == 2 - (part.images[0].score is None)
        assert part.titles[0].endswith(", reject")
        assert part.images[0].tail_probability <= part.images[-1].tail_probability


def test_new_kinds_are_told_by_size_and_shape(tmp_path: Path, quiet: str, eventful: Report) -> None:
    table = str(tmp_path / "table")
    write_plant(table, DAYS, A_DAY, scratches(9))
    (kind,) = report(table).kinds
    assert (kind.place, kind.size, kind.shape, kind.earlier.count) == (None, "medium", "long", 0)
    rows = query(table, "SELECT count(DISTINCT image_id) AS n FROM regions WHERE width = 24").to_pylist()
    assert kind.now.count == rows[0]["n"]
    shown = report(table).examples.kinds[0]
    assert shown
    assert all(any(region["width"] == 24 for region in image.regions) for image in shown)
    assert (eventful.kinds[0].place, eventful.kinds[0].shape) == ("bottom left", "compact")
    assert report(quiet).kinds == []


def test_the_state_of_each_detector_is_that_of_drift(eventful: Report, quiet: str) -> None:
    (one,) = eventful.drift
    (expected,) = drift(eventful.table).groups
    assert (one.state, one.since, one.reasons) == (expected.state, expected.since, expected.reasons)
    assert one.needs_action
    assert one.command == f"diffad-ray drift {eventful.table} --until 2026-03-14 --by line,camera,lot"
    assert [one.state for one in report(quiet, Question(until="2026-03-25")).drift] == ["fine"]
    assert report(eventful.table, Question(only=(("line", "A"),))).drift == []
