"""Images that are scored again: whatever is killed, every reader sees each image once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest
from hand_made_table import FINGERPRINT, write_run

from diffad_ray import query, storage
from diffad_ray.table.compact import compact
from diffad_ray.table.layout import REGIONS, parquet_bytes, shard_file
from diffad_ray.table.parts import SUPERSEDED, run_file
from diffad_ray.table.runs import Plan, write_record
from diffad_ray.table.schema import read_schema, scores_schema
from diffad_ray.table.superseded import settle_superseded
from diffad_ray.table.verify import verify
from diffad_ray.table.views import open_table

NAMES = [f"line/{k:02d}.png" for k in range(10)]
RUNS = "SELECT image_uri[-6:] AS name, run_id[:8] AS day FROM scores ORDER BY ALL"


def days(table: Path) -> dict[str, str]:
    """The day of the run whose row of an image is shown; each image must be there once."""
    rows = query(table, RUNS).to_pylist()
    shown = {row["name"]: row["day"][-2:] for row in rows}
    assert len(rows) == len(shown) == len(NAMES), rows
    return shown


def test_a_row_is_superseded_from_the_moment_on_when_the_new_one_is_there(tmp_path: Path) -> None:
    write_run(str(tmp_path), 1, NAMES, failing=NAMES[4])
    assert set(days(tmp_path).values()) == {"01"}
    plan = write_run(str(tmp_path), 2, NAMES, shard_rows=5, done=1, state=None)
    assert list(days(tmp_path).values()) == ["02"] * 5 + ["01"] * 5
    regions = query(tmp_path, "SELECT run_id[7:8] AS day, count(*) AS n FROM regions GROUP BY 1 ORDER BY 1").to_pylist()
    assert regions == [{"day": "01", "n": 4}, {"day": "02", "n": 4}]
    assert verify(tmp_path).problems == []
    compact(tmp_path)
    assert list(days(tmp_path).values()) == ["02"] * 5 + ["01"] * 5
    abandon(plan, 1)
    assert list(days(tmp_path).values()) == ["02"] * 5 + ["01"] * 5
    assert verify(tmp_path).problems == []
    compact(tmp_path)
    assert list(days(tmp_path).values()) == ["02"] * 5 + ["01"] * 5
    assert verify(tmp_path).problems == []


def abandon(plan: Plan, shard: int) -> None:
    """Give a shard up as scoring does, and look at the table after each step."""
    from diffad_ray.scoring.pipeline import count_run

    table = Path(plan.table)
    place = (plan.run_date, plan.run_id, shard)
    storage.create(shard_file(plan.table, "regions", *place), parquet_bytes(REGIONS.empty_table()))
    storage.create(shard_file(plan.table, "scores", *place), parquet_bytes(scores_schema(plan.table).empty_table()))
    assert list(days(table).values()) == ["02"] * 5 + ["01"] * 5
    settle_superseded(plan)
    assert list(days(table).values()) == ["02"] * 5 + ["01"] * 5
    write_record(plan, replace(count_run(plan, "abandoned"), state="abandoned"))


def test_compaction_removes_superseded_rows_so_that_a_plain_read_is_right(tmp_path: Path) -> None:
    table = str(tmp_path)
    write_run(table, 1, NAMES, shard_rows=10)
    write_run(table, 2, NAMES[:4], columns={"serial": "7"})
    write_run(table, 3, NAMES[:2])
    plain = f"SELECT count(*), count(DISTINCT image_id), count(serial) FROM '{table}/scores/*/*.parquet'"
    summary = compact(table, rows_per_file=1)
    assert (summary.dropped, summary.files_after) == (6 + 3 * 2, summary.files_before)
    assert duckdb.sql(plain).fetchall() == [(10, 10, 2)]
    assert list(days(tmp_path).values()) == ["03"] * 2 + ["02"] * 2 + ["01"] * 6
    found = verify(table)
    assert (found.problems, found.notes, found.rows) == ([], [], 10)
    assert [path.name for path in (tmp_path / "superseded").iterdir()] == ["none.parquet"]
    assert len(list((tmp_path / "dropped").iterdir())) == 2
    with open_table(table) as connection:
        views = str(connection.execute("SELECT sql FROM duckdb_views() WHERE NOT internal").fetchall())
    assert "ANTI JOIN" not in views, "the views of a compacted table are plain scans"
    schema = read_schema(table)
    assert schema is not None
    assert schema.is_uniform


def test_an_entry_of_a_plan_that_was_never_finished_is_not_in_force(tmp_path: Path) -> None:
    table = str(tmp_path)
    write_run(table, 1, NAMES)
    entry = pq.read_table(tmp_path / "superseded" / "none.parquet")
    row = query(table, "SELECT image_id, run_id FROM scores LIMIT 1").to_pylist()[0]
    full = entry.from_pylist([row | {"detector_fingerprint": FINGERPRINT, "superseded_by": "later"}], entry.schema)
    storage.write(run_file(table, SUPERSEDED.name, "later"), parquet_bytes(full))
    assert set(days(tmp_path).values()) == {"01"}


def test_verify_finds_images_that_are_double_or_lost(tmp_path: Path) -> None:
    table = str(tmp_path)
    write_run(table, 1, NAMES)
    plan = write_run(table, 2, NAMES[:2])
    entries = Path(run_file(table, SUPERSEDED.name, plan.run_id))
    whole = entries.read_bytes()
    entries.unlink()
    assert {problem.kind: problem.count for problem in verify(table).problems} == {"double image": 2}
    entries.write_bytes(whole)
    compact(table)
    for path in (tmp_path / "scores" / "run_date=2026-01-02").iterdir():
        path.unlink()
    found = {problem.kind: problem.count for problem in verify(table).problems}
    assert found["superseded without successor"] == found["missing row"] == 2


def test_rows_that_an_abandoned_run_replaced_need_a_successor_too(tmp_path: Path) -> None:
    table = str(tmp_path)
    write_run(table, 1, NAMES)
    write_run(table, 2, NAMES, done=1, state="abandoned")
    compact(table)
    assert verify(table).problems == []
    for path in (tmp_path / "scores" / "run_date=2026-01-02").iterdir():
        path.unlink()
    found = {problem.kind: problem.count for problem in verify(table).problems}
    assert found["superseded without successor"] == 5


@pytest.mark.parametrize("columns", [{"serial": "7"}, {}])
def test_a_table_without_its_list_of_columns(tmp_path: Path, columns: dict[str, str]) -> None:
    """It is made again from the files by the next writer."""
    table = str(tmp_path)
    write_run(table, 1, NAMES, columns=columns)
    (tmp_path / "schema.json").unlink()
    assert set(days(tmp_path).values()) == {"01"}
    compact(table)
    assert scores_schema(table).names[len(scores_schema(table).names) - len(columns) :] == list(columns)
    assert verify(table).problems == []
