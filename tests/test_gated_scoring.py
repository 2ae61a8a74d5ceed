"""Scoring with a gate: which images the detector sees, what the rows say, and what the audit finds."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from gated import MISSED, gated_copy, plan_of, score_here, task_of
from rich.console import Console

from diffad_ray.bundles.bundle import load_bundle
from diffad_ray.errors import UserError, percent
from diffad_ray.gates.bundle import load_gate
from diffad_ray.reports.terminal import print_run
from diffad_ray.scoring.first_look import is_audited
from diffad_ray.scoring.pipeline import _interrupted
from diffad_ray.scoring.task import make_task
from diffad_ray.table.runs import Run, read_runs, write_record

LOW, HIGH = -1e6, 1e6
"Limits below and above all scores."
OF_ROW = ("image_id", "status", "score", "tail_probability", "is_anomalous", "region_count", "anomalous_fraction")


def rows_of(table: Path) -> list[dict[str, Any]]:
    rows = pa.concat_tables(
        pq.read_table(pa.BufferReader(p.read_bytes())) for p in (table / "scores").rglob("*.parquet")
    )
    return sorted(rows.to_pylist(), key=lambda row: row["image_uri"])


@pytest.fixture(scope="module")
def plain(archive: Path, detector: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The rows of a run without a gate, at a threshold that flags about half of the images."""
    folder = tmp_path_factory.mktemp("plain")
    task = task_of(archive, folder / "first", detector)
    score_here(plan_of(task, folder), task)
    scores = sorted(row["score"] for row in rows_of(folder / "first") if row["score"] is not None)
    task = task_of(archive, folder / "table", detector, threshold=scores[len(scores) // 2])
    record = score_here(plan_of(task, folder), task)
    assert record.gates == []
    return rows_of(folder / "table")


@pytest.fixture
def threshold(plain: list[dict[str, Any]]) -> float:
    return next(row["threshold"] for row in plain if row["threshold"] is not None)


def test_a_gate_that_passes_nothing_changes_nothing(
    archive: Path, detector: Path, tmp_path: Path, plain: list[dict[str, Any]], threshold: float
) -> None:
    gated = gated_copy(detector, tmp_path, LOW, threshold)
    task = task_of(archive, tmp_path / "table", gated, gate=True, threshold=threshold)
    record = score_here(plan_of(task, tmp_path), task)
    rows = rows_of(tmp_path / "table")
    assert [[row[name] for name in OF_ROW] for row in rows] == [[row[name] for name in OF_ROW] for row in plain]
    assert {row["scored_by"] for row in rows if row["score"] is not None} == {"detector"}
    assert all((row["score_of_gate"] is None) == (row["score"] is None) for row in rows)
    (check,) = record.gates
    assert (check.images, check.passed, check.audited, check.low) == (40, 0, 0, 0)
    assert check.caught == sum(bool(row["is_anomalous"]) for row in plain)
    assert not check.is_broken


def test_passed_rows_say_so_and_lie_below_the_threshold(
    archive: Path, detector: Path, tmp_path: Path, threshold: float
) -> None:
    gated = gated_copy(detector, tmp_path, HIGH, threshold)
    task = task_of(archive, tmp_path / "table", gated, gate=True, threshold=threshold, audit=1e-9)
    plan = plan_of(task, tmp_path)
    record = score_here(plan, task)
    rows = rows_of(tmp_path / "table")
    scored = [row for row in rows if row["score"] is not None]
    assert len(rows) == plan.images == 42
    assert {row["scored_by"] for row in scored} == {"gate"}
    assert {row["scored_by"] for row in rows if row["score"] is None} == {None}
    assert all(threshold - 3.001 <= row["score"] < threshold and not row["is_anomalous"] for row in scored)
    assert all(0 < row["tail_probability"] <= 1 and row["mask_uri"] is None for row in scored)
    (check,) = record.gates
    assert (check.passed, check.audited, check.share, check.high) == (40, 0, 0, 1)
    assert record.by_status["ok"] == 40
    stored = json.loads(Path(plan.plan_file).read_bytes())
    assert stored["gates"][0]["fingerprint"] == check.gate == load_gate(str(gated), load_bundle(str(gated))).fingerprint


def test_an_audit_tells_of_a_gate_that_breaks_its_promise(
    archive: Path, detector: Path, tmp_path: Path, plain: list[dict[str, Any]], threshold: float
) -> None:
    gated = gated_copy(detector, tmp_path, HIGH, threshold)
    task = task_of(archive, tmp_path / "table", gated, gate=True, threshold=threshold, audit=1.0)
    plan = plan_of(task, tmp_path)
    record = score_here(plan, task)
    rows = rows_of(tmp_path / "table")
    # All were audited, so each row is the detector's.
    assert [row["score"] for row in rows] == [row["score"] for row in plain]
    (check,) = record.gates
    flagged = [row for row in plain if row["is_anomalous"]]
    assert (check.audited, check.missed, check.caught) == (40, len(flagged), 0)
    assert check.is_broken
    assert check.low == check.share == 1
    worst = sorted(flagged, key=lambda row: (-row["score"], row["image_uri"]))
    assert check.examples == [row["image_uri"] for row in worst[:10]]
    write_record(plan, record)
    (run,) = read_runs(str(tmp_path / "table"))
    assert run.record is not None
    assert run.record.gates == record.gates
    with (console := Console(width=1000)).capture() as told:
        print_run(Run(plan, record), console)
    assert "BREAKS ITS PROMISE" in told.get()
    assert worst[0]["image_uri"] in told.get()


def test_the_audited_share_is_random_and_repeatable() -> None:
    chosen = [number for number in range(-20_000, 20_000) if is_audited(number, 0.02)]
    assert len(chosen) == pytest.approx(800, abs=100)
    assert all(is_audited(number, 0.3) for number in chosen)
    assert not any(is_audited(number, 0.02) for number in range(100) if number not in chosen)


def test_an_interrupted_run_goes_on_with_its_own_gate_alone(
    archive: Path, detector: Path, tmp_path: Path, threshold: float
) -> None:
    gated = gated_copy(detector, tmp_path, HIGH, threshold)
    table, given = tmp_path / "table", {"threshold": threshold, "shard_images": 16}
    task = task_of(archive, table, gated, gate=True, audit=0.3, **given)
    plan = plan_of(task, tmp_path)
    score_here(plan, task, shards=1)
    again = task_of(archive, table, gated, gate=True, audit=0.3, **given)
    found = _interrupted(task.table, again.work)
    assert found is not None
    assert (found.run_id, found.gates) == (plan.run_id, plan.gates)
    record = score_here(plan, again)
    assert (record.images, record.gates[0].images) == (42, 40)
    assert record.gates[0].audited == sum(is_audited(row["image_id"], 0.3) for row in rows_of(table) if row["score"])
    others = [task_of(archive, table, gated, **given), task_of(archive, table, gated, gate=True, **given)]
    assert len({other.work for other in others} | {task.work}) == 3
    # Without the gate, the rows that are missing are scored by the detector, and those that are there stay.
    score_here(second := plan_of(replace(task, force=True), tmp_path), task, shards=1)
    assert _interrupted(task.table, others[0].work) is None
    assert second.run_id in {run.plan.run_id for run in read_runs(task.table) if run.record}


def test_a_run_without_a_gate_that_fits_is_refused(archive: Path, detector: Path, tmp_path: Path) -> None:
    def refused(location: Path, message: str, **settings: Any) -> None:
        with pytest.raises(UserError, match=message):
            task_of(archive, tmp_path / "table", location, **{"gate": True, **settings})

    refused(detector, "has no gate: make one with")
    own = load_bundle(str(detector)).calibration.threshold
    gated = gated_copy(detector, tmp_path, 0.0, own)
    refused(gated, "masks of all images", masks="all")
    refused(gated, "audit 0.0 must lie", audit=0.0)
    refused(gated, f"can't promise to miss at most {percent(MISSED)}", threshold=own + 100)
    with pytest.raises(UserError, match="leave out the gate"):
        make_task(archive, tmp_path / "table", gated, missing_masks=True, settings={"gate": True})
    description = gated / "gate" / "gate.json"
    given = json.loads(description.read_text())
    description.write_text(json.dumps(given | {"detector_fingerprint": "0" * 16}))
    refused(gated, "made for another detector")
    description.write_text(json.dumps(given | {"schema_version": 99}))
    refused(gated, "another version")
    description.write_text(json.dumps(given))
    weights = gated / "gate" / "gate.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    refused(gated, "is damaged")
