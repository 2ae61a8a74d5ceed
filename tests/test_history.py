"""The runs of a table at a glance, and the commands that keep a table in order."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hand_made_table import write_run
from test_cli import run

from diffad_ray import UserError
from diffad_ray.analytics.history import runs
from diffad_ray.table.lease import Lease

NAMES = [f"line/{k:02d}.png" for k in range(12)]


@pytest.fixture
def table(tmp_path: Path) -> str:
    table = str(tmp_path / "table")
    write_run(table, 1, NAMES, failing=NAMES[4])
    write_run(table, 2, NAMES, done=1, state="abandoned")
    write_run(table, 3, NAMES, done=2, state=None)
    return table


def test_states(table: str) -> None:
    first, second, third = runs(table)
    assert (first.state, first.images, first.by_status) == ("finished", 12, {"ok": 11, "timeout": 1})
    assert (first.run_id, first.started, first.seconds) == ("20260101T030000-abc001", "2026-01-01 03:00:00", 12.5)
    assert (first.archive, first.detectors) == ("/archive", ["weave"])
    assert (second.state, second.images, second.planned) == ("abandoned", 5, 12)
    assert (third.state, third.images, third.by_status, third.seconds) == ("interrupted", 10, {"ok": 10}, None)
    assert third.anomalous == 4
    with Lease(table, "score"):
        assert [state.state for state in runs(table)] == ["finished", "abandoned", "running"]
    with Lease(table, "compact"):
        assert runs(table)[-1].state == "interrupted"


def test_a_run_that_wrote_nothing_yet(tmp_path: Path) -> None:
    write_run(str(tmp_path), 1, NAMES, done=0, state=None)
    (state,) = runs(tmp_path)
    assert (state.state, state.images, state.anomalous) == ("interrupted", 0, 0)
    with pytest.raises(UserError, match="no runs at"):
        runs(tmp_path / "nowhere")


def test_commands(table: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "runs", table) == 0
    assert "interrupted" in capsys.readouterr().out
    assert run(monkeypatch, "runs", table, "--json") == 0
    assert [state["state"] for state in json.loads(capsys.readouterr().out)] == ["finished", "abandoned", "interrupted"]
    assert run(monkeypatch, "compact", table) == 0
    assert "files of unfinished runs were left" in capsys.readouterr().out
    assert run(monkeypatch, "verify", table, "--masks", "all") == 0
    assert "no problems" in capsys.readouterr().out
    next(Path(table).glob("masks/**/*.png")).unlink()
    assert run(monkeypatch, "verify", table, "--json") == 1
    (problem,) = json.loads(capsys.readouterr().out)["problems"]
    assert (problem["kind"], problem["count"]) == ("mask missing", 1)
    assert run(monkeypatch, "verify", table, "--masks", "some") == 2
    assert "takes a number or all" in capsys.readouterr().err
    assert run(monkeypatch, "overlay", table, "00.png") == 2
    assert "is gone" in capsys.readouterr().err
