"""Comparisons of two detectors: every figure against a loop over the rows, and the exit code."""

from __future__ import annotations

import json
import shlex
from collections import Counter, defaultdict
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from compared_table import IMAGES, NEW, OLD, uri, verdict, write_compared
from scipy.stats import binomtest, spearmanr
from sklearn.metrics import cohen_kappa_score
from test_cli import run

from diffad_ray import UserError, query
from diffad_ray.analytics.compare import CHANGES, compare
from diffad_ray.analytics.paired import Agreement, binomial_half
from diffad_ray.analytics.pairs import short_between
from diffad_ray.intervals import wilson
from diffad_ray.table.thresholds import AppliedThreshold, apply_threshold, read_thresholds
from diffad_ray.table.verdicts import add_verdicts

Rows = dict[int, dict[str, dict[str, Any]]]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> str:
    table = str(tmp_path_factory.mktemp("compared") / "table")
    write_compared(table)
    return table


@pytest.fixture(scope="module")
def pairs(table: str) -> Rows:
    """The rows of images that both detectors scored, by image and detector, with their verdicts."""
    words = {row["image_id"]: row["verdict"] for row in query(table, "FROM verdicts").to_pylist()}
    rows: Rows = defaultdict(dict)
    for row in query(table, "FROM scores WHERE score IS NOT NULL").to_pylist():
        rows[row["image_id"]][row["detector_fingerprint"]] = row | {"verdict": words.get(row["image_id"])}
    return {number: both for number, both in rows.items() if len(both) == 2}


def check(found: Any, pairs: list[dict[str, dict[str, Any]]]) -> None:
    """A group's figures against those of the rows, with scikit-learn and SciPy as oracles."""
    old, new = ([pair[name]["decision"] == "reject" for pair in pairs] for name in (OLD, NEW))
    agreement = found.agreement
    assert agreement.images == len(pairs)
    assert agreement.both == sum(a and b for a, b in zip(old, new, strict=True))
    assert agreement.came == sum(b and not a for a, b in zip(old, new, strict=True))
    assert agreement.went == sum(a and not b for a, b in zip(old, new, strict=True))
    assert (agreement.old_alerts, agreement.new_alerts) == (sum(old), sum(new))
    assert agreement.share == pytest.approx(np.mean(np.array(old) == new))
    if agreement.kappa is not None:
        assert agreement.kappa == pytest.approx(cohen_kappa_score(old, new))
    scores = ([pair[name]["score"] for pair in pairs] for name in (OLD, NEW))
    assert found.rank_correlation == pytest.approx(spearmanr(*scores).statistic)


def test_figures_of_images(table: str, pairs: Rows) -> None:
    found = compare(table, "part", NEW[:4], by=["line", "camera"])
    rows = list(pairs.values())
    assert found.old == ("part", OLD, IMAGES - 2, 1, 2)
    assert found.new == ("part-2", NEW, IMAGES - 3, 1, -4)
    assert sum(cell.images for cell in found.cells) == len(rows)
    check(found.overall, rows)
    assert found.overall.agreement.came > 3
    assert found.overall.agreement.went > 3
    decisions = Counter((pair[OLD]["decision"], pair[NEW]["decision"]) for pair in rows)
    assert {(a, b): n for a, counts in found.decisions.items() for b, n in counts.items() if n} == decisions
    for column, names in {"line": {"line0", "line1"}, "camera": {"top", "side", "back"}}.items():
        assert {group.value for group in found.groups[column]} == names
        for group in found.groups[column]:
            check(group, [pair for pair in rows if pair[OLD][column] == group.value])
    assert [group.value for group in found.verdicts] == ["defect", "unsure", "good"]
    for group in found.verdicts:
        mine = [pair for pair in rows if pair[OLD]["verdict"] == group.value]
        assert group.agreement.images == len(mine)
        assert group.agreement.went == sum(pair[OLD]["decision"] == "reject" != pair[NEW]["decision"] for pair in mine)
    assert found.only_old == (3, 1, min(uri("/archive", k) for k in (5, 7, 8)))
    assert found.only_new == (2, 1, min(uri("/archive", k) for k in (6, 9)))
    assert [note.partition(" are not")[0] for note in found.notes] == [
        "3 images have a score of part alone and",
        "2 images have a score of part-2 alone and",
    ] or found.defects.compared < found.defects.confirmed


def test_biggest_changes(table: str, pairs: Rows) -> None:
    found = compare(table, OLD, NEW)
    rows = list(pairs.values())

    def ratio(pair: dict[str, dict[str, Any]]) -> float:
        return float(np.log(pair[NEW]["tail_probability"] / pair[OLD]["tail_probability"]))

    def is_alert(pair: dict[str, dict[str, Any]], name: str) -> bool:
        return pair[name]["decision"] == "reject"

    came = [pair for pair in rows if is_alert(pair, NEW) and not is_alert(pair, OLD)]
    went = [pair for pair in rows if is_alert(pair, OLD) and not is_alert(pair, NEW)]
    assert len(found.rises) == len(found.falls) == CHANGES
    assert {one.image_uri for one in found.rises[: len(came)]} == {pair[OLD]["image_uri"] for pair in came}
    assert {one.image_uri for one in found.falls[: len(went)]} == {pair[OLD]["image_uri"] for pair in went}
    others = sorted(ratio(pair) for pair in rows if pair not in came and pair not in went)
    shown = [
        np.log(one.new.tail_probability / one.old.tail_probability)
        for one in found.rises[len(came) :]  # type: ignore[operator]
    ]
    assert shown == pytest.approx(others[: len(shown)])
    one = found.rises[0]
    pair = pairs[one.image_id]
    assert (one.old.score, one.new.score) == (pair[OLD]["score"], pair[NEW]["score"])
    assert one.verdict == pair[OLD]["verdict"]
    defects = [pair for pair in rows if pair[OLD]["verdict"] == "defect"]
    lost = {pair[OLD]["image_uri"] for pair in defects if is_alert(pair, OLD) and not is_alert(pair, NEW)}
    assert found.defects.lost == len(lost)
    assert {one.image_uri for one in found.defects.examples} == lost
    assert found.defects.found == sum(is_alert(pair, NEW) and not is_alert(pair, OLD) for pair in defects)
    assert found.defects.compared == len(defects)


def test_parts(table: str, pairs: Rows) -> None:
    found = compare(table, "part", "part-2", group_by="serial", by=["line"])
    parts: dict[str, list[dict[str, dict[str, Any]]]] = defaultdict(list)
    for pair in pairs.values():
        if pair[OLD]["serial"] is not None:
            parts[pair[OLD]["serial"]].append(pair)
    whole = []
    for images in parts.values():
        worst = {}
        for name in (OLD, NEW):
            scores = [image[name]["score"] for image in images]
            rejected = any(image[name]["decision"] == "reject" for image in images)
            worst[name] = {"score": max(scores), "decision": "reject" if rejected else "good"}
        whole.append(worst)
    assert found.unit == "serial"
    check(found.overall, whole)
    assert any("1 images that both detectors scored have no serial" in note for note in found.notes)
    assert {group.value for group in found.groups["line"]} <= {"line0", "line1", "several values"}
    one = found.rises[0]
    images = parts[str(one.part)]
    assert one.new.score == max(image[NEW]["score"] for image in images)
    assert pairs[one.image_id][NEW]["score"] == one.new.score


def test_the_same_number_of_alerts(table: str, pairs: Rows) -> None:
    found = compare(table, "part", "part-2", same_alerts=True)
    assert found.matched is not None
    scores = np.array([pair[NEW]["score"] for pair in pairs.values()])
    wanted = sum(pair[OLD]["decision"] == "reject" for pair in pairs.values())
    assert found.matched.wanted == found.matched.alerts == wanted
    assert (scores >= found.matched.reject).sum() == wanted
    assert found.overall.agreement.new_alerts == found.overall.agreement.old_alerts == wanted
    assert found.overall.agreement.came == found.overall.agreement.went > 0
    assert len(str(found.matched.reject)) < 8, "a threshold that people can type"


def test_thresholds_in_force_count(tmp_path: Path) -> None:
    table = str(tmp_path / "table")
    write_compared(table)
    matched = compare(table, "part", "part-2", same_alerts=True)
    assert matched.matched is not None
    moments = [f"2026-01-0{day}T00:00:00+00:00" for day in (7, 8)]
    reject = matched.matched.reject
    apply_threshold(table, AppliedThreshold(NEW, reject, None, "compare", "ada", "test", moments[0]))
    found = compare(table, "part", "part-2")
    assert found.decisions == matched.decisions, "the applied threshold does what the comparison promised"
    assert found.overall.agreement == matched.overall.agreement
    apply_threshold(table, AppliedThreshold(NEW, reject, reject - 6, "band", "ada", "test", moments[1]))
    with_band = compare(table, "part", "part-2")
    assert with_band.overall.agreement == found.overall.agreement
    assert sum(counts["review"] for counts in with_band.decisions.values()) > 0
    assert with_band.defects.lost < found.defects.lost, "a defect in the review band is looked at"


def test_no_alerts_and_ties(tmp_path: Path) -> None:
    table = str(tmp_path / "table")
    write_compared(table)
    moment = "2026-01-07T00:00:00+00:00"
    apply_threshold(table, AppliedThreshold(OLD, 1000.0, None, "by hand", "ada", "test", moment))
    found = compare(table, "part", "part-2", same_alerts=True)
    assert found.matched is not None
    assert found.matched.alerts == found.overall.agreement.new_alerts == 0
    assert found.overall.agreement.kappa is None
    apply_threshold(table, AppliedThreshold(OLD, -1000.0, None, "by hand", "ada", "test", moment.replace("07", "08")))
    found = compare(table, "part", "part-2", same_alerts=True)
    assert found.overall.agreement.new_alerts == found.overall.agreement.images


def test_statistics() -> None:
    for fewer, total in ((0, 0), (0, 1), (1, 10), (5, 10), (480, 1000), (49_000, 100_000)):
        assert binomial_half(fewer, total) == pytest.approx(binomtest(fewer, total).pvalue if total else 1)
    for count, total in ((0, 50), (50, 50), (3, 1000)):
        found = binomtest(count, total).proportion_ci(method="wilson")
        assert (wilson(count, total).low, wilson(count, total).high) == pytest.approx((found.low, found.high))
    agreement = Agreement(images=1000, both=20, came=10, went=30)
    assert agreement.cohen_g == -0.25
    assert Agreement(images=10, both=1, came=0, went=0).cohen_g is None
    for low, high in combinations((-7.123456, -7.1234, 0.0, 1e-9, 2.41, 2.42), 2):
        assert low < short_between(low, high) <= high


def test_the_interval_of_the_difference_holds() -> None:
    """Of 2000 samples, the 95 % interval covers the true difference about as often as it says."""
    rng = np.random.default_rng(0)
    counts = rng.multinomial(800, [0.01, 0.012, 0.006, 0.972], size=2000)
    held = 0
    for both, came, went, _ in counts.tolist():
        found = Agreement(images=800, both=both, came=came, went=went).difference
        held += found.low <= 0.006 <= found.high
    assert 0.93 <= held / 2000 <= 0.985


def test_what_cannot_be_compared(table: str, tmp_path: Path) -> None:
    for names, because in (
        (("part", "part-3"), f"no detector 'part-3' .* part-2 \\({NEW}\\)"),
        (("part", "part"), "same detector"),
        (("part", ""), "no detector ''"),
    ):
        with pytest.raises(UserError, match=because):
            compare(table, *names)
    with pytest.raises(UserError, match="no column 'lot' to group by: it has line, camera, serial"):
        compare(table, "part", "part-2", by=["lot"])
    with pytest.raises(UserError, match="no table"):
        compare(tmp_path, "part", "part-2")


def test_exit_codes_and_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table = str(tmp_path / "table")
    write_compared(table)
    command = ("compare", table, "--detectors", "part", "part-2")
    found = compare(table, "part", "part-2", by=["line", "camera"], group_by=None)
    went = [one for one in found.falls if one.old.decision == "reject"]
    number = next(k for k in range(IMAGES) if uri("/archive", k) == went[0].image_uri)
    clear = [verdict("/archive", k, None, day=6) for k in range(0, IMAGES, 2)]
    add_verdicts(table, clear)
    assert run(monkeypatch, *command) == 0
    told = capsys.readouterr().out
    assert "no image" in told
    add_verdicts(table, [verdict("/archive", number, "defect", day=7)])
    assert run(monkeypatch, *command, "--by", "line,camera", "--json") == 2
    figures = json.loads(capsys.readouterr().out)
    assert figures["defects"]["lost"] == 1
    assert figures["defects"]["examples"][0]["image_uri"] == went[0].image_uri
    assert figures["overall"]["came"] == found.overall.agreement.came
    assert figures["overall"]["p_value"] == pytest.approx(found.overall.agreement.p_value)
    assert set(figures["groups"]) == {"line", "camera"}
    assert run(monkeypatch, *command) == 2
    told = capsys.readouterr().out
    assert "loses 1 confirmed defect" in told
    assert went[0].image_uri in told
    assert run(monkeypatch, "compare", table, "--detectors", "part", "part-3") == 2
    assert "those that have are part" in capsys.readouterr().err


def test_the_printed_command_promotes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table = str(tmp_path / "table")
    write_compared(table)
    before = compare(table, "part", "part-2").overall.agreement
    assert before.old_alerts != before.new_alerts
    assert run(monkeypatch, "compare", table, "--detectors", "part", "part-2", "--same-alerts") in (0, 2)
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("Next: "))
    program, *arguments = shlex.split(line.removeprefix("Next: "))
    assert program == "diffad-ray"
    assert run(monkeypatch, *arguments) == 0
    after = compare(table, "part", "part-2").overall.agreement
    assert after.old_alerts == after.new_alerts == before.old_alerts
    (applied,) = read_thresholds(table)
    assert (applied.detector_fingerprint, applied.why) == (NEW, "as many alerts as part")
