"""The plan of a run: what it leaves out, and how it cuts the rest."""

from __future__ import annotations

import copy
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hand_made_table import write_run
from hypothesis import given
from hypothesis import strategies as st

from diffad_ray import UserError, storage
from diffad_ray.bundles.bundle import Bundle
from diffad_ray.scoring.plan import make_plan, pending_shards, remove_half_plans
from diffad_ray.scoring.selection import Routed, select_images
from diffad_ray.scoring.settings import ScoringSettings
from diffad_ray.scoring.shards import SHARD_BYTES, UNKNOWN_BYTES, ShardLimits, _shards, shard_limits
from diffad_ray.table.layout import SCORES, parquet_bytes, shard_file
from diffad_ray.table.runs import Plan, read_runs

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


def shards_of(plan: Plan) -> list[list[dict]]:
    return [pq.read_table(plan.manifest_file(shard)).to_pylist() for shard in range(plan.shards)]


def test_a_plan_holds_each_image_once_and_a_shard_one_detector(two_lines: Path, bundle: Bundle, tmp_path: Path) -> None:
    other = Bundle(bundle.detector, bundle.calibration, name="other", fingerprint="0" * 16)
    routed = [Routed("a", bundle, ("line1/**",)), Routed("b", other, ("**/top/*",))]
    settings = ScoringSettings(shard_images=7)
    table = str(tmp_path / "table")
    selection = select_images(str(two_lines), table, routed, settings, tmp_path)
    plan = make_plan(str(two_lines), table, selection, routed, settings, "work", force=False)
    shards = shards_of(plan)
    rows = [row for shard in shards for row in shard]
    assert len(rows) == len({row["image_uri"] for row in rows}) == plan.images == 40
    assert all(len(shard) <= 7 and len({row["detector_fingerprint"] for row in shard}) == 1 for shard in shards)
    for row in rows:
        line, camera = Path(row["image_uri"]).parts[-3:-1]
        expected = bundle.fingerprint if line == "line1" else other.fingerprint if camera == "top" else ""
        assert row["detector_fingerprint"] == expected
    assert [(d.location, d.images) for d in plan.detectors] == [("a", 20), ("b", 10), ("", 10)]
    assert any("no route leads 10 images" in note for note in plan.notes)


@given(st.lists(st.integers(0, 50), max_size=60), st.integers(1, 10), st.integers(1, 100), st.integers(1, 20))
def test_shards_keep_their_limits(sizes: list[int], images: int, file_bytes: int, batch: int) -> None:
    rows = pa.table({"image_bytes": pa.array(sizes, pa.int64())})
    reader = pa.RecordBatchReader.from_batches(rows.schema, rows.to_batches(max_chunksize=batch))
    shards = [shard["image_bytes"].to_pylist() for shard in _shards(reader, ShardLimits(images, file_bytes))]
    assert [size for shard in shards for size in shard] == sizes
    for shard in shards:
        assert 1 <= len(shard) <= images
        assert sum(shard) <= file_bytes or len(shard) == 1


def test_what_a_later_run_leaves_out(two_lines: Path, bundle: Bundle, tmp_path: Path) -> None:
    """An image is done if its last row says so, whatever came before."""
    table = tmp_path / "line=7" / "table"
    routed = [Routed("a", bundle, ())]

    def planned(**settings: Any) -> Plan:
        folder = tmp_path / "scratch"
        folder.mkdir(exist_ok=True)
        wanted = ScoringSettings(limit=4, template="{line}/**/*.png", **settings)
        selection = select_images(str(two_lines), str(table), routed, wanted, folder)
        return make_plan(str(two_lines), str(table), selection, routed, wanted, "work", force=False)

    first = planned()
    rows = [row for shard in shards_of(first) for row in shard]
    histories = (["ok"], ["failed"], ["failed", "timeout"], ["timeout", "ok"])
    table_rows = [
        {**row, "status": status, "run_id": "r", "scored_at": NOW + timedelta(days=k)}
        for row, history in zip(rows, histories, strict=True)
        for k, status in enumerate(history)
    ]
    path = table / "scores" / "run_date=2026-01-01" / "r-00000.parquet"
    path.parent.mkdir(parents=True)
    schema = SCORES.append(pa.field("line", pa.string()))
    pq.write_table(pa.Table.from_pylist(table_rows, schema=schema), path)
    again = planned()
    assert [row["image_uri"] for shard in shards_of(again) for row in shard] == [rows[2]["image_uri"]]
    # The plan writes down which row it replaces.
    replaced = pq.read_table(table / "superseded" / f"{again.run_id}.parquet").to_pylist()
    assert {(row["image_id"], row["run_id"], row["superseded_by"]) for row in replaced} == {
        (rows[2]["image_id"], "r", again.run_id)
    }
    assert planned(retry=("failed",)).images == 2
    assert [str(file) for file in table.glob("runs/*.planning")] == []


def test_a_column_keeps_its_type(two_lines: Path, bundle: Bundle, tmp_path: Path) -> None:
    table = tmp_path / "table"
    path = table / "scores" / "run_date=2026-01-01" / "r-00000.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist([{"line": 1}], schema=SCORES.append(pa.field("line", pa.int64()))), path)
    routed, settings = [Routed("a", bundle, ())], ScoringSettings(template="{line}/**/*.png")
    selection = select_images(str(two_lines), str(table), routed, settings, tmp_path)
    with pytest.raises(UserError, match="would be string"):
        make_plan(str(two_lines), str(table), selection, routed, settings, "work", force=False)


def test_half_a_plan_is_removed(tmp_path: Path) -> None:
    table = str(tmp_path)
    storage.write(f"{table}/runs/killed.planning", b"")
    storage.write(f"{table}/runs/whole.plan.json", b"{}")
    storage.write(f"{table}/runs/whole.planning", b"")
    for run in ("killed", "whole"):
        storage.write(f"{table}/manifests/{run}/00000.parquet", b"x")
        storage.write(f"{table}/superseded/{run}.parquet", b"x")
    remove_half_plans(table)
    assert {file.uri.removeprefix(table) for file in storage.walk(table)} == {
        "/runs/whole.plan.json",
        "/manifests/whole/00000.parquet",
        "/superseded/whole.parquet",
    }


def routed_to(bundle: Bundle) -> list[Routed]:
    return [Routed("detectors/weave", bundle, ())]


def planned(
    archive: Path, table: Path, bundle: Bundle, scratch: Path, force: bool = False, finished: str = "", **settings: Any
) -> Plan:
    """The plan of a run over an archive."""
    wanted, routed, scratch = ScoringSettings(**settings), routed_to(bundle), scratch / "scratch"
    scratch.mkdir(exist_ok=True)
    selection = select_images(str(archive), str(table), routed, wanted, scratch)
    return make_plan(str(archive), str(table), selection, routed, wanted, "work", force, finished)


def scored(plan: Plan, status: str = "ok", run_id: str = "r") -> None:
    """Write the rows of a plan's images, all with one status."""
    rows = [{**row, "status": status, "run_id": run_id, "scored_at": NOW} for shard in shards_of(plan) for row in shard]
    file = shard_file(plan.table, "scores", "2026-01-01", run_id, 0)
    storage.write(file, parquet_bytes(pa.Table.from_pylist(rows, SCORES)))


def test_what_a_plan_says_of_itself(two_lines: Path, bundle: Bundle, tmp_path: Path) -> None:
    table = tmp_path / "table"
    first = planned(two_lines, table, bundle, tmp_path, include=("line1/**",), shard_images=6)
    assert (first.images, first.skipped, first.other_files, first.shards) == (20, 0, 1, 4)
    assert [len(shard) for shard in shards_of(first)] == [6, 6, 6, 2]
    uris = [row["image_uri"] for shard in shards_of(first) for row in shard]
    assert uris == sorted(uris)
    assert re.fullmatch(first.run_date.replace("-", "") + r"T\d{6}-[0-9a-f]{6}", first.run_id)
    assert first.checks_versions
    assert first.settings["shard_images"] == 6
    ((read, record),) = read_runs(str(table))
    assert (replace(read, settings={}), record) == (replace(first, settings={}), None)
    assert [path.name for path in sorted(table.glob("runs/*"))] == [f"{first.run_id}.plan.json"]
    scored(first)
    second = planned(two_lines, table, bundle, tmp_path)
    assert (second.images, second.skipped, second.shards) == (20, 20, 2)
    assert {Path(row["image_uri"]).parts[-3] for shard in shards_of(second) for row in shard} == {"line2"}
    assert planned(two_lines, table, bundle, tmp_path, force=True).images == 40
    scored(second, run_id="s")
    before = sorted(table.rglob("*"))
    nothing = planned(two_lines, table, bundle, tmp_path)
    assert (nothing.images, nothing.skipped, nothing.shards, nothing.detectors) == (0, 40, 0, [])
    assert sorted(table.rglob("*")) == before, "a run that has nothing to do leaves no plan"


def test_a_plan_is_marked_while_it_is_made(
    two_lines: Path, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that the manifests of one that was killed are found, and none of a plan that exists are taken for such."""
    write, delete = storage.write, storage.delete
    calls: list[str] = []
    monkeypatch.setattr(storage, "write", lambda uri, data: (calls.append(uri), write(uri, data))[1])
    monkeypatch.setattr(storage, "delete", lambda uri: (calls.append(f"delete {uri}"), delete(uri))[1])
    plan = planned(two_lines, tmp_path / "table", bundle, tmp_path, shard_images=20)
    mark = f"{tmp_path}/table/runs/{plan.run_id}.planning"
    assert calls[0] == mark
    assert sorted(calls[1:3]) == [plan.manifest_file(0), plan.manifest_file(1)]
    table = f"{tmp_path}/table"
    assert calls[3:] == [
        f"{table}/superseded/none.parquet",
        f"{table}/schema.json",
        plan.plan_file,
        f"delete {mark}",
    ]


def test_what_failed_in_the_run_that_was_just_finished_is_left_to_the_next_call(
    two_lines: Path, bundle: Bundle, tmp_path: Path
) -> None:
    table = tmp_path / "table"
    scored(planned(two_lines, table, bundle, tmp_path), "timeout", "just-now")
    assert planned(two_lines, table, bundle, tmp_path, finished="just-now").images == 0
    assert planned(two_lines, table, bundle, tmp_path, finished="earlier").images == 40
    assert planned(two_lines, table, bundle, tmp_path).images == 40


def test_a_manifest_is_refused_if_nothing_of_it_is_there_unless_the_table_knows_it(
    bundle: Bundle, tmp_path: Path
) -> None:
    manifest, table = tmp_path / "list.csv", tmp_path / "table"
    names = [tmp_path / f"{k}.png" for k in range(3)]
    manifest.write_text("\n".join(["uri", *map(str, names)]))
    with pytest.raises(UserError, match="none of 3 images that were looked for is there"):
        planned(manifest, table, bundle, tmp_path)
    names[0].touch()
    first = planned(manifest, table, bundle, tmp_path)
    assert (first.images, first.checks_versions) == (3, False)
    scored(first, "missing")
    names[0].unlink()
    assert planned(manifest, table, bundle, tmp_path, force=True).images == 3
    manifest.write_text("\n".join(["uri", *(f"{tmp_path}/other/{k}.png" for k in range(3))]))
    with pytest.raises(UserError, match="none of 3 images"):
        planned(manifest, table, bundle, tmp_path)


def test_a_table_that_cannot_be_written_or_read(two_lines: Path, bundle: Bundle, tmp_path: Path) -> None:
    storage.write(f"{tmp_path}/table/runs", b"no folder")
    with pytest.raises(UserError, match=r"the plan can't be written to the table .*/table: .*File exists"):
        planned(two_lines, tmp_path / "table", bundle, tmp_path)
    storage.write(f"{tmp_path}/broken/scores/run_date=2026-01-01/r-00000.parquet", b"no Parquet")
    with pytest.raises(UserError, match=r"broken can't be compared with .*a file of it is no Parquet file"):
        planned(two_lines, tmp_path / "broken", bundle, tmp_path)


def test_limits_of_shards(bundle: Bundle) -> None:
    """As many shards as keep workers evenly busy, none of more bytes than a block takes, few of very few images."""
    side = bundle.detector.settings.image_size
    assert shard_limits(10, bundle, None) == (16, None)
    assert shard_limits(64 * 100, bundle, None) == (100, None)
    assert shard_limits(64 * 100 + 1, bundle, None) == (101, None)
    assert shard_limits(10**9, bundle, None) == (SHARD_BYTES // (3 * side * side), None)
    assert shard_limits(10**9, bundle, 5) == (5, None)
    wide = copy.copy(bundle.detector)
    wide.settings = replace(bundle.detector.settings, image_size=1600)
    assert shard_limits(10**9, replace(bundle, detector=wide), None) == (16, None)
    tiled = copy.copy(bundle.detector)
    tiled.settings = replace(bundle.detector.settings, view="tiles")
    assert shard_limits(10**9, replace(bundle, detector=tiled), None) == (64, SHARD_BYTES)
    assert shard_limits(10, replace(bundle, detector=tiled), None) == (16, SHARD_BYTES)


def test_images_of_unknown_size_count_as_some_bytes() -> None:
    rows = pa.table({"image_bytes": pa.array([0, 5, 0], pa.int64())})
    reader = pa.RecordBatchReader.from_batches(rows.schema, rows.to_batches())
    limits = ShardLimits(10, UNKNOWN_BYTES + 5)
    assert [shard["image_bytes"].to_pylist() for shard in _shards(reader, limits)] == [[0, 5], [0]]


def test_pending_shards(tmp_path: Path) -> None:
    names = [f"{k:02d}.png" for k in range(22)]
    plan = write_run(str(tmp_path), 1, names, done=0, state=None)
    assert pending_shards(plan) == [0, 1, 2, 3, 4]
    done = write_run(str(tmp_path), 1, names, done=2, state=None, suffix="def")
    assert pending_shards(done) == [2, 3, 4]
    assert pending_shards(plan) == [0, 1, 2, 3, 4], "shards of another run on the same day"
    storage.write(f"{shard_file(str(tmp_path), 'scores', done.run_date, done.run_id, 3)}.txt", b"")
    storage.write(f"{tmp_path}/scores/run_date={done.run_date}/{done.run_id}-00004.parquet", b"")
    assert pending_shards(done) == [2, 3]
