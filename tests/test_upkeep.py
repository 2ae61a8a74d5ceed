"""When compaction pays, and joins of both views."""

from __future__ import annotations

from pathlib import Path

from hand_made_table import write_run

from diffad_ray import query
from diffad_ray.table.compact import compact, mergeable_files
from diffad_ray.table.upkeep import reasons_to_compact

NAMES = [f"{k:02d}.png" for k in range(10)]


def test_reasons_to_compact(tmp_path: Path) -> None:
    table = str(tmp_path)
    write_run(table, 1, NAMES, shard_rows=2)
    assert reasons_to_compact(table) == []
    assert reasons_to_compact(table, 6) == []
    assert reasons_to_compact(table, 5) == ["5 small files"]
    write_run(table, 2, NAMES[:1], columns={"serial": "7"})
    assert [reason.split()[0] for reason in reasons_to_compact(table, 5)] == ["5", "rows", "files"]
    compact(table)
    assert reasons_to_compact(table, 2) == []


def test_files_that_have_no_other_beside_them_are_not_counted_as_mergeable(tmp_path: Path) -> None:
    table = str(tmp_path)
    write_run(table, 1, NAMES[:2], shard_rows=2)
    assert mergeable_files(table) == 0
    write_run(table, 2, NAMES[2:8], shard_rows=2)
    assert mergeable_files(table) == 3 * 3, "scores, regions and manifests of the second day"
    compact(table)
    assert mergeable_files(table) == 0


def test_a_join_of_regions_and_scores_has_one_run_date(tmp_path: Path) -> None:
    write_run(str(tmp_path), 1, NAMES)
    write_run(str(tmp_path), 2, ["new0.png"])
    join = "SELECT run_date, region_date, x FROM regions JOIN scores USING (image_id, detector_fingerprint)"
    found = query(tmp_path, f"{join} WHERE run_date >= DATE '2026-01-02'").to_pylist()
    assert len(found) == 2
    assert all(row["run_date"] == row["region_date"] for row in found)
