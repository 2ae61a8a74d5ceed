"""Pruning: old masks and manifests go, scores stay, and nobody misses what is gone."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path

import pytest
from hand_made_table import write_run
from test_cli import run

from diffad_ray import UserError, query, storage
from diffad_ray.table.compact import compact
from diffad_ray.table.lease import Lease
from diffad_ray.table.prune import prune
from diffad_ray.table.retention import read_rule
from diffad_ray.table.verify import verify

OLD, NEW = [f"old/{k:02d}.png" for k in range(12)], [f"new/{k:02d}.png" for k in range(12)]
TODAY = date(2026, 1, 31)


@pytest.fixture
def table(tmp_path: Path) -> str:
    """Runs of January 1 and 30; the second one scored an image of the first one again, which has the same mask."""
    table = str(tmp_path / "table")
    write_run(table, 1, OLD)
    write_run(table, 30, [*NEW, OLD[0]])
    return table


def files(table: str) -> dict[str, list[str]]:
    paths = [str(path.relative_to(table)) for path in Path(table).rglob("*") if path.is_file()]
    return {part: sorted(path for path in paths if path.startswith(part)) for part in ("masks", "manifests", "scores")}


def masks_shown(table: str) -> list[list[str]]:
    sql = "SELECT parse_filename(image_uri) AS name FROM scores WHERE mask_uri IS NOT NULL AND image_uri LIKE '%{}/%'"
    return [sorted(query(table, sql.format(which))["name"].to_pylist()) for which in ("old", "new")]


@pytest.mark.parametrize("is_compacted", [False, True])
def test_old_masks_and_manifests_go(table: str, is_compacted: bool) -> None:
    if is_compacted:
        compact(table)
    before, counted = files(table), query(table, "SELECT count(*) AS n, sum(score) AS s FROM scores").to_pylist()
    foreseen = prune(table, masks_days=10, manifests_days=10, dry_run=True, today=TODAY)
    assert files(table) == before
    done = prune(table, masks_days=10, manifests_days=10, today=TODAY)
    after = files(table)
    assert done == foreseen
    # Of a dozen, five have masks, since their names end in 0, 3, 6 or 9; one is shared with a young row.
    assert done.masks == len(before["masks"]) - len(after["masks"]) == 4
    assert done.manifests == len(before["manifests"]) - len(after["manifests"]) > 0
    assert after["manifests"]
    assert after["scores"] == before["scores"]
    assert query(table, "SELECT count(*) AS n, sum(score) AS s FROM scores").to_pylist() == counted
    assert masks_shown(table) == [["00.png"], ["00.png", "03.png", "06.png", "09.png", "10.png"]]
    found = verify(table, None)
    assert not found.problems, found.problems
    assert {note.message for note in found.notes if note.kind == "pruned"} == {
        "masks of runs before 2026-01-21 are not kept",
        "manifests of runs before 2026-01-21 are not kept",
    }
    assert prune(table, masks_days=10, manifests_days=10, today=TODAY).masks == 0
    # A longer rule brings nothing back, so it changes nothing.
    assert prune(table, masks_days=100, today=TODAY).masks_before == "2026-01-21"


def test_what_young_runs_lack_is_still_missed(table: str) -> None:
    prune(table, masks_days=10, manifests_days=10, today=TODAY)
    next(Path(table).glob("masks/**/*.png")).unlink()
    next(Path(table).glob("scores/run_date=2026-01-30/*-00001.parquet")).unlink()
    assert {problem.kind for problem in verify(table).problems} >= {"mask missing", "missing row", "record"}


def test_killed_at_any_moment_it_leaves_a_sound_table(table: str, monkeypatch: pytest.MonkeyPatch) -> None:
    delete, left = storage.delete, 3

    def killed(location: str) -> None:
        nonlocal left
        if left == 0:
            raise KeyboardInterrupt
        left -= "/masks/" in location
        delete(location)

    monkeypatch.setattr(storage, "DELETIONS", 1)
    monkeypatch.setattr(storage, "delete", killed)
    with pytest.raises(KeyboardInterrupt):
        prune(table, masks_days=10, manifests_days=10, today=TODAY)
    monkeypatch.setattr(storage, "delete", delete)
    assert 0 < len(files(table)["masks"]) < 10
    assert not verify(table).problems
    assert masks_shown(table)[0] == ["00.png"]
    prune(table, masks_days=10, manifests_days=10, today=TODAY)
    assert len(files(table)["masks"]) == 6
    assert not verify(table, None).problems


def test_an_interrupted_run_keeps_its_manifests_and_loses_late_masks(table: str) -> None:
    plan = write_run(table, 2, [f"late/{k:02d}.png" for k in range(12)], done=1, state=None)
    prune(table, masks_days=10, manifests_days=10, today=TODAY)
    assert len(list(Path(table, "manifests", plan.run_id).iterdir())) == 3
    assert read_rule(table).masks_deleted_before == "2026-01-02"
    write_run(table, 2, [f"late/{k:02d}.png" for k in range(12)])
    assert prune(table, masks_days=10, manifests_days=10, today=TODAY).masks == 5
    assert not Path(table, "manifests", plan.run_id).exists()
    assert not verify(table, None).problems


def test_masks_of_a_table_that_was_moved_are_not_touched(table: str, tmp_path: Path) -> None:
    moved = Path(table).rename(tmp_path / "moved")
    other = tmp_path / "table"
    (moved / "masks").rename(other.with_name("elsewhere"))
    other.mkdir()
    other.with_name("elsewhere").rename(other / "masks")
    assert prune(moved, masks_days=10, today=TODAY).masks == 0
    assert len(list(other.rglob("*.png"))) == 10


def test_on_the_command_line(table: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "prune", table) == 2
    assert "give --masks-days or --manifests-days" in capsys.readouterr().err
    assert run(monkeypatch, "prune", table, "--masks-days", 0, "--dry-run") == 0
    assert "10 masks of runs before" in capsys.readouterr().out
    with Lease(table, "score"):
        assert run(monkeypatch, "prune", table, "--masks-days", 0) == 75
    assert "Try again later: " in capsys.readouterr().err
    assert run(monkeypatch, "prune", table, "--masks-days", 0, "--json") == 0
    assert json.loads(capsys.readouterr().out)["masks"] == 10
    with Lease(table, "prune"):
        assert run(monkeypatch, "verify", table) == 75
    with pytest.raises(UserError, match="must be 0 or more"):
        prune(table, masks_days=-1)
