"""Verification: a sound table has no problems, and each kind of damage is found and named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hand_made_table import write_run

from diffad_ray import UserError, storage
from diffad_ray.table import verify as verify_module
from diffad_ray.table.compact import compact
from diffad_ray.table.layout import parquet_bytes
from diffad_ray.table.lease import Lease
from diffad_ray.table.retention import Rule, write_rule
from diffad_ray.table.runs import read_runs, write_record
from diffad_ray.table.verify import verify

NAMES = [f"line/{k:02d}.png" for k in range(22)]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Two finished runs; the second tried an image again that had failed."""
    write_run(str(tmp_path), 1, NAMES, failing=NAMES[4])
    write_run(str(tmp_path), 2, [NAMES[4], "new.png"])
    return tmp_path


def shards(table: Path, kind: str = "scores") -> list[Path]:
    return sorted(table.glob(f"{kind}/**/*.parquet"))


def change(path: Path, change_rows: Callable[[list[dict]], list[dict]]) -> None:
    """Rewrite the rows of a Parquet file."""
    # As a buffer: with a path, the partition would become a column.
    found = pq.read_table(pa.BufferReader(path.read_bytes()))
    path.write_bytes(parquet_bytes(pa.Table.from_pylist(change_rows(found.to_pylist()), found.schema)))


def masks(table: Path) -> list[Path]:
    return sorted(table.glob("masks/**/*.png"))


def kinds(table: Path) -> dict[str, int]:
    return {problem.kind: problem.count for problem in verify(table).problems}


def test_a_sound_table(table: Path) -> None:
    found = verify(table)
    assert (found.problems, found.notes) == ([], [])
    assert (found.runs, found.files, found.rows) == (2, 3 * 6 + 2, 24)
    assert found.masks == found.masks_opened == len(masks(table)) > 4
    assert verify(table, masks=2).masks_opened == 2
    compact(table)
    found = verify(table, masks=None)
    assert (found.problems, found.notes, found.rows) == ([], [], 23)


def test_on_an_object_store(s3: str, tmp_path: Path) -> None:
    table = f"{s3}/{tmp_path.name}"
    write_run(table, 1, NAMES)
    found = verify(table)
    assert (found.problems, found.notes, found.rows) == ([], [], 22)
    assert found.masks_opened > 4


def test_rows_that_are_missing_double_or_unplanned(table: Path) -> None:
    first, second = shards(table)[:2]
    taken: list[dict] = []
    change(first, lambda rows: [*rows[:-1], rows[0]] if not taken.append(rows[-1]) else [])  # type: ignore[func-returns-value]
    change(second, lambda rows: [{**rows[0], "image_id": 12345}, *rows[1:]])
    found = {problem.kind: problem for problem in verify(table).problems}
    assert found["missing row"].count == 1, "the other one is superseded"
    assert found["double row"].count == found["unplanned row"].count == 1
    assert "/archive/line/00.png (run 20260101T030000-abc001)" in found["double row"].message
    assert "line/05.png" in found["unplanned row"].message


def test_a_missing_shard(table: Path) -> None:
    shards(table)[0].unlink()
    found = kinds(table)
    assert found["missing row"] == 4, "the fifth is superseded"
    assert "record" in found


def test_files_that_cannot_be_read(table: Path) -> None:
    cut, garbled, no_manifest = (shards(table, kind)[1] for kind in ("scores", "regions", "manifests"))
    cut.write_bytes(cut.read_bytes()[:-9])
    data = bytearray(garbled.read_bytes())
    data[4:300] = bytes(296)
    garbled.write_bytes(data)
    no_manifest.write_bytes(b"")
    found = [problem for problem in verify(table).problems if problem.kind == "unreadable file"]
    assert sorted(problem.message.split()[0] for problem in found) == sorted(
        str(path.relative_to(table)) for path in (cut, garbled, no_manifest)
    )


def test_regions_that_do_not_fit(table: Path) -> None:
    files = [path for path in shards(table, "regions") if pq.read_metadata(path).num_rows]
    change(files[0], lambda rows: rows[1:])
    change(files[1], lambda rows: [*rows, {**rows[0], "image_id": 777}])
    assert kinds(table) == {"region count": 1, "region without image": 1}


def test_records_that_do_not_fit(table: Path) -> None:
    plan, record = read_runs(str(table))[0]
    assert record is not None
    write_record(plan, replace(record, images=23, by_status={"ok": 22}, anomalous=record.anomalous + 1))
    first, second, third = verify(table).problems
    assert first.message == f"the record of run {plan.run_id} says 23 rows, the table has 22"
    assert second.message.endswith("says {'ok': 22} statuses, the table has {'ok': 21, 'timeout': 1}")
    assert third.message.endswith(f"says {record.anomalous + 1} anomalous images, the table has {record.anomalous}")
    assert {first.kind, second.kind, third.kind} == {"record"}
    assert {first.count, second.count, third.count} == {1}


def test_a_plan_that_does_not_fit(table: Path) -> None:
    shutil.rmtree(table / "manifests" / read_runs(str(table))[0].plan.run_id)
    found = {problem.kind: problem for problem in verify(table).problems}
    assert found["plan"].message.endswith("says 22 images, the table has 0")
    assert found["unplanned row"].message.startswith("22 rows are of images that their run did not plan, such as")


def test_masks(table: Path) -> None:
    gone, cut, small, other = masks(table)[:4]
    gone.unlink()
    cut.write_bytes(cut.read_bytes()[:-20])
    cv2.imwrite(str(small), np.zeros((5, 5), np.uint8))
    moved = table / "masks" / "elsewhere.png"
    change(
        next(path for path in shards(table) if str(other) in str(pq.read_table(path)["mask_uri"].to_pylist())),
        lambda rows: [{**row, "mask_uri": f"/{moved.name}"} if row["mask_uri"] == str(other) else row for row in rows],
    )
    found = verify(table)
    assert kinds(table) == {"mask missing": 1, "mask elsewhere": 1, "mask damaged": 1}
    messages = " ".join(problem.message for problem in found.problems)
    assert str(gone) in messages
    assert "cut off" in messages
    assert f"the mask {small} has 5 x 5 pixels, its image 40 x 20" in messages
    assert [(note.kind, note.count) for note in found.notes] == [("unused mask", 1)]


def test_what_is_left_over_is_noted(table: Path) -> None:
    (table / "scores" / "run_date=2026-01-01" / ".x7.part").write_bytes(b"half")
    (table / "README.txt").write_text("our scores")
    storage.write(f"{table}/manifests/20250101T000000-000000/00000.parquet", b"")
    assert verify(table).problems == []
    assert {note.kind: note.count for note in verify(table).notes} == {"temporary file": 1, "foreign file": 2}
    stranger = table / "scores" / "run_date=2026-01-01" / "mine.parquet"
    stranger.write_bytes(shards(table)[0].read_bytes())
    assert kinds(table) == {"unknown file": 1}


def test_unfinished_runs_are_no_problem(table: Path) -> None:
    plan = write_run(str(table), 3, NAMES, done=2, state=None)
    write_run(str(table), 4, NAMES, done=1, state="abandoned")
    found = verify(table)
    assert found.problems == []
    assert [(note.kind, note.count) for note in found.notes] == [("interrupted run", 1), ("abandoned run", 1)]
    assert found.notes[0].message == f"run {plan.run_id} of /archive is interrupted"
    assert found.rows == 24 + 10 + 5
    with Lease(str(table), "score"):
        shards(table)[-2].write_bytes(b"not yet looked at: this run goes on")
        found = verify(table)
        assert "running run" in [note.kind for note in found.notes]
    for work, doing in (("compact", "compacted"), ("prune", "pruned")):
        with Lease(str(table), work), pytest.raises(UserError, match=f"is being {doing}"):
            verify(table)


def test_between_two_steps_of_a_compaction(table: Path) -> None:
    """The journal and the target are there, and so are all sources."""
    sources = {path: path.read_bytes() for path in shards(table)[:5]}
    compact(table)
    (target,) = (table / "scores" / "run_date=2026-01-01").glob("merged-*")
    for path, data in sources.items():
        path.write_bytes(data)
    assert kinds(table)["double row"] == 21
    journal = {
        "kind": "scores",
        "sources": [str(path.relative_to(table)) for path in sources],
        "target": str(target.relative_to(table)),
        "rows": 21,
        "superseded": [],
    }
    storage.write(f"{table}/compactions/{target.stem}.json", json.dumps(journal).encode())
    found = verify(table)
    assert found.problems == []
    assert [note.kind for note in found.notes] == ["interrupted compaction"]
    assert "diffad-ray compact" in found.notes[0].message


def test_parts_without_any_file(table: Path) -> None:
    regions = sum(pq.read_metadata(path).num_rows for path in shards(table, "regions"))
    shutil.rmtree(table / "regions")
    assert kinds(table) == {"region count": regions // 2}
    shutil.rmtree(table / "manifests")
    assert kinds(table) == {"region count": regions // 2, "unplanned row": 24, "plan": 1}


def test_images_without_a_detector_are_compared_too(table: Path) -> None:
    for kind in ("scores", "manifests"):
        change(shards(table, kind)[1], lambda rows: [*rows[:2], {**rows[2], "detector_fingerprint": None}, *rows[3:]])
    assert verify(table).problems == []


def test_files_that_lack_columns_are_no_problem_until_they_are_compacted(table: Path) -> None:
    write_run(str(table), 3, ["later.png"], columns={"line": "press"})
    found = verify(table)
    assert found.problems == []
    assert [(note.kind, note.count) for note in found.notes] == [("lacking columns", 6)]
    assert "files of scores lack columns of the table; `diffad-ray compact" in found.notes[0].message
    compact(table)
    assert verify(table).notes == []
    path = shards(table)[0]
    path.write_bytes(parquet_bytes(pq.read_table(pa.BufferReader(path.read_bytes())).drop_columns(["line"])))
    assert kinds(table) == {"lacking columns": 1}


def test_a_mask_of_two_rows_is_missing_once(table: Path) -> None:
    write_run(str(table), 3, NAMES)
    gone = masks(table)[0]
    gone.unlink()
    assert kinds(table) == {"mask missing": 1}
    for path in shards(table):
        change(
            path, lambda rows: [{**row, "mask_uri": "/x.png"} if row["mask_uri"] == str(gone) else row for row in rows]
        )
    assert kinds(table) == {"mask elsewhere": 1}


def test_a_table_that_changes_while_it_is_read(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed, read = verify_module.list_contents, verify_module.unreadable
    file = shards(table)[0]
    data = file.read_bytes()

    def list_and_delete(*arguments: Any) -> Any:
        found = listed(*arguments)
        file.unlink()
        return found

    def read_and_delete(*arguments: Any) -> Any:
        found = list(read(*arguments))
        file.unlink(missing_ok=True)
        return found

    for name, changing in (("list_contents", list_and_delete), ("unreadable", read_and_delete)):
        with monkeypatch.context() as patch:
            patch.setattr(verify_module, name, changing)
            with pytest.raises(UserError, match="changed while it was read, so verify it again"):
                verify(table)
        file.write_bytes(data)
    monkeypatch.setitem(verify_module.CHECKS, "wrong", ("", "SELECT nothing AS example FROM scores"))
    with pytest.raises(duckdb.BinderException):
        verify(table)


def test_what_a_rule_does_not_keep_is_not_missed_and_what_it_keeps_is(table: Path) -> None:
    """The first run is of the day before the second one, and neither manifests nor masks of it are left."""
    first = read_runs(str(table))[0].plan
    shutil.rmtree(table / "manifests" / first.run_id)
    gone = masks(table)
    for path in gone:
        path.unlink()
    kept = {"mask missing": len(gone), "plan": 1, "unplanned row": 22}
    assert kinds(table) == kept
    write_rule(str(table), Rule(masks_before="2026-01-01", manifests_before="2026-01-01"))
    assert kinds(table) == kept
    write_rule(str(table), Rule(masks_before="2026-01-03", manifests_before="2026-01-02"))
    found = verify(table)
    assert found.problems == []
    assert [note.message for note in found.notes] == [
        "masks of runs before 2026-01-03 are not kept",
        "manifests of runs before 2026-01-02 are not kept",
    ]
    assert {(note.kind, note.count) for note in found.notes} == {("pruned", 1)}


def test_the_words_of_problems(table: Path) -> None:
    """Each has its number, what is wrong, and an example."""
    shards(table)[0].unlink()
    masks(table)[0].unlink()
    found = {problem.kind: problem.message for problem in verify(table).problems}
    missing = "4 images that a finished run planned have no row of it, such as /archive/line/00.png (run 20260101T03"
    assert found["missing row"].startswith(missing)
    assert found["region without image"].endswith("(run 20260101T030000-abc001)")
