"""Drift: each cause, put into a table of many nights, gets its own state, and quiet nights get none."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from nights import FINGERPRINT, FIRST, THRESHOLD, Change, Part, write_nights
from scipy import stats
from test_cli import run

from diffad_ray.analytics.drift import Drift, GroupDrift, drift
from diffad_ray.analytics.drift.daily import Question, Series, read_series
from diffad_ray.analytics.drift.findings import find_all
from diffad_ray.analytics.drift.shifts import binomial_test, find_shift, share_chart, stability_index
from diffad_ray.bundles.calibration import Calibration
from diffad_ray.errors import UserError
from diffad_ray.table.detectors import KnownDetector, read_detectors, write_detector
from diffad_ray.table.views import open_table

STARTS = 24
"The night in which something changes, of 30."


def drifted(table: Path, change: Change | None, seed: int = 0, images: int = 400, **options: object) -> Drift:
    write_nights(table, change=change, seed=seed, images=images)
    rng = np.random.default_rng(99)
    calibration = Calibration.from_scores(rng.logistic(size=300))
    write_detector(
        str(table), KnownDetector(FINGERPRINT, "part", "/detectors/part", "familiarity", THRESHOLD, calibration)
    )
    return drift(table, **options)  # type: ignore[arg-type]


def of(found: Drift, camera: str) -> GroupDrift:
    (group,) = [one for one in found.groups if one.group == {"camera": camera}]
    return group


def dim(part: Part) -> None:
    """The lamp of one camera loses 15 % of its light; what is dark looks a little more anomalous."""
    if part.camera == "left" and part.day >= STARTS:
        part.brightness *= 0.85
        part.contrast *= 0.85
        part.score += 0.8


def blur(part: Part) -> None:
    if part.camera == "side" and part.day >= STARTS:
        part.sharpness *= 0.6


def new_lot(part: Part) -> None:
    """Another material on all cameras: all scores rise, light and focus stay."""
    if part.day >= STARTS:
        part.lot = "titanium"
        part.score += 1.5


def foreign_lot(part: Part) -> None:
    if part.day >= STARTS:
        part.lot = "titanium"
        part.score += 5


def dirt(part: Part) -> None:
    """A spot on a lens: it is found in one image of twenty, and takes 2 % of the contrast of all."""
    if part.camera == "right" and part.day >= STARTS:
        spotted = part.make_defective(0.05)
        part.x[spotted], part.y[spotted] = 0.31, 0.72
        part.contrast *= 0.97


def tool_mark(part: Part) -> None:
    if part.camera == "right" and part.day >= STARTS:
        marked = part.make_defective(0.05)
        part.x[marked], part.y[marked] = 0.31, 0.72


def more_defects(part: Part) -> None:
    if part.day >= STARTS:
        part.make_defective(0.04)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("change", "cameras", "state", "words"),
    [
        (dim, ["left"], "look at the camera", "Brightness fell by 1[45]"),
        (blur, ["side"], "look at the camera", "Sharpness fell by (39|40|41)"),
        (dirt, ["right"], "look at the camera", "dirt on its lens"),
        (new_lot, ["top", "side", "left", "right"], "recalibrate", "lot titanium is new since 2026-11-25: 100 %"),
        (foreign_lot, ["top", "side", "left", "right"], "retrain", "lot titanium is new since 2026-11-25: 100 %"),
        (more_defects, ["top", "side", "left", "right"], "more defects", "these are defects"),
        (tool_mark, ["right"], "more defects", "same place, 2[0-9] % from the left and 7[0-9] % from the top"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_each_cause_gets_its_state(
    change: Change, cameras: list[str], state: str, words: str, seed: int, tmp_path: Path
) -> None:
    found = drifted(tmp_path, change, seed, by=["camera"])
    assert found.needs_action
    for group in found.groups:
        camera = group.group["camera"]
        assert group.state == (state if camera in cameras else "fine"), (camera, group.reasons)
        if camera in cameras:
            assert re.search(words, " ".join(group.reasons)), group.reasons
            assert group.since is not None
            assert ("lot" in " ".join(group.reasons)) == ("lot" in words), "the others have the same lots"
            assert abs((group.since - (FIRST + timedelta(days=STARTS))).days) <= 1


def first_days(series: Series, days: int) -> Series:
    """The series as the night after so many days would have seen it."""
    values = {one.name: getattr(series, one.name) for one in fields(series)}
    values |= {name: value[:days] for name, value in values.items() if isinstance(value, np.ndarray | list)}
    values["quality"] = {name: quantiles[:days] for name, quantiles in series.quality.items()}
    return Series(**values)


@pytest.mark.parametrize("seed", range(5))
def test_thirty_quiet_nights_give_no_alarm(seed: int, tmp_path: Path) -> None:
    found = drifted(tmp_path, None, 100 + seed, images=200)
    assert [(one.state, one.reasons) for one in found.groups] == [("fine", [])]
    known = read_detectors(str(tmp_path))[FINGERPRINT]
    with open_table(str(tmp_path)) as connection:
        groups = read_series(connection, Question(["camera"], "run_date", found.period, {}, 0.01))
    assert len(groups) == 4
    for series in groups:
        for days in range(1, 31):
            findings = find_all(first_days(series, days), known.calibration, 0.01)
            assert [one for one in findings if one.level != "none"] == [], days


def test_figures_have_effect_size_and_number_of_images(tmp_path: Path) -> None:
    found = drifted(tmp_path, dim, by=["camera"])
    findings = {one.figure: one for one in of(found, "left").findings}
    brightness = findings["brightness"]
    assert brightness.effect == pytest.approx(-0.15, abs=0.01)
    assert brightness.images == pytest.approx(6 * 400, abs=10)
    assert abs(brightness.errors or 0) > 10
    scores = findings["scores"]
    assert scores.effect == pytest.approx(0.8 / 1.9, abs=0.15)
    assert scores.more["wasserstein"] == pytest.approx(abs(scores.effect), abs=0.05)
    assert findings["tail share"].more["alpha"] == 0.01
    day = of(found, "left").days[-1]
    assert (day.images, day.is_outside) == (400, False) or day.is_outside
    assert day.brightness == pytest.approx(0.85 * 0.5, rel=0.03)


def test_a_repaired_lamp_is_fine_again(tmp_path: Path) -> None:
    def repaired(part: Part) -> None:
        if part.camera == "left" and 20 <= part.day < 24:
            part.brightness *= 0.85

    assert {one.state for one in drifted(tmp_path, repaired, by=["camera"]).groups} == {"fine"}


def test_images_of_another_mode_and_unreadable_ones_lead_to_the_camera(tmp_path: Path) -> None:
    def changed(part: Part) -> None:
        if part.day >= STARTS and part.camera == "top":
            part.mode = "8-bit grey"
        if part.day >= STARTS and part.camera == "side":
            part.failed |= part.rng.random(len(part.failed)) < 0.2

    found = drifted(tmp_path, changed, by=["camera"])
    assert [of(found, name).state for name in ("top", "side", "left")] == ["look at the camera"] * 2 + ["fine"]
    assert "had 0 % of the images before, and 100 % since 2026-11-25" in of(found, "top").reasons[0]
    assert "without a score went from 0.1" in of(found, "side").reasons[0]


def test_a_group_without_images_on_the_last_day_is_told_and_not_judged(tmp_path: Path) -> None:
    found = drifted(tmp_path, None, by=["lot"])
    assert [one.group for one in found.groups] == [{"lot": "lot5"}]
    assert "can be judged: 5 of 6" in found.groups[0].reasons[0]
    assert [values["lot"] for _, values, _ in found.silent] == [f"lot{k}" for k in range(5)]


def test_days_come_from_text_such_as_that_of_a_path(tmp_path: Path) -> None:
    def dated(part: Part) -> None:
        part.lot = (FIRST + timedelta(days=part.day)).isoformat()
        dim(part)

    found = drifted(tmp_path, dated, by=["camera"], day_column="lot")
    assert of(found, "left").state == "look at the camera"


def test_days_come_from_any_date_or_moment(tmp_path: Path) -> None:
    found = drifted(tmp_path, dim, by=["camera"], day_column="scored_at")
    assert of(found, "left").state == "look at the camera"
    with pytest.raises(UserError, match="--by machine: scores has no such column"):
        drift(tmp_path, by=["machine"])
    with pytest.raises(UserError, match="--day-column camera is no date, but holds 'left'"):
        drift(tmp_path, day_column="camera")
    with pytest.raises(UserError, match="--day-column width is no date"):
        drift(tmp_path, day_column="width")
    with pytest.raises(UserError, match="makes 48000 groups, more than 500"):
        drift(tmp_path, by=["image_uri"])


def test_the_command_ends_with_2_where_somebody_must_act(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    drifted(tmp_path, dim)
    assert run(monkeypatch, "drift", tmp_path, "--by", "camera") == 2
    said = capsys.readouterr().out
    assert "part, camera left: look at the camera. Brightness fell by" in said
    assert run(monkeypatch, "drift", tmp_path, "--by", "camera", "--until", "2026-11-20", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["needs_action"] is False
    assert len(told["groups"][0]["days"]) == 20


@pytest.mark.parametrize(
    ("count", "total", "share"), [(0, 50, 0.01), (3, 50, 0.01), (700, 100_000, 0.01), (9, 10, 0.5)]
)
def test_binomial_test(count: int, total: int, share: float) -> None:
    expected = stats.binom
    tail = expected.sf(count - 1, total, share) if count > total * share else expected.cdf(count, total, share)
    assert binomial_test(count, total, share) == pytest.approx(min(1, 2 * tail), rel=1e-6)


def test_chart_limits_allow_for_variation_between_days() -> None:
    """With 100,000 images a day, binomial limits alone would call most of these days out of control."""
    rng = np.random.default_rng(0)
    totals = np.full(30, 100_000)
    counts = rng.binomial(totals, 0.01 * np.exp(0.2 * rng.normal(size=30)))
    assert sum(day.is_outside for day in share_chart(counts, totals, 30)) <= 1
    assert sum(abs(counts / totals - 0.01) > 3 * (0.01 / 100_000) ** 0.5) > 10
    counts[-1] = 2000
    assert share_chart(counts, totals, 29)[-1].is_outside


def test_stability_index_and_the_smallest_series() -> None:
    assert stability_index([1, 1], [1, 3]) == pytest.approx(0.25 * np.log(3), abs=1e-9)
    assert find_shift(np.array([1.0] * 5), np.zeros(5)) is None
    assert find_shift(np.ones(20), np.zeros(20)) is None
