"""The plan of a run: what it leaves out, and how it cuts the rest."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffad_ray import UserError, storage
from diffad_ray.bundles.bundle import Bundle
from diffad_ray.scoring.plan import ShardLimits, make_plan, remove_half_plans
from diffad_ray.scoring.selection import Routed, select_images
from diffad_ray.scoring.settings import ScoringSettings
from diffad_ray.table.layout import SCORES
from diffad_ray.table.runs import Plan

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
    from diffad_ray.scoring.plan import _shards

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
    storage.write(f"{table}/manifests/killed/00000.parquet", b"x")
    storage.write(f"{table}/runs/whole.plan.json", b"{}")
    storage.write(f"{table}/runs/whole.planning", b"")
    storage.write(f"{table}/manifests/whole/00000.parquet", b"x")
    remove_half_plans(table)
    assert {file.uri.removeprefix(table) for file in storage.walk(table)} == {
        "/runs/whole.plan.json",
        "/manifests/whole/00000.parquet",
    }
