"""Compaction: fewer files, the same rows, whatever kills it and whoever reads meanwhile."""

from __future__ import annotations

import threading
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hand_made_table import write_run

from diffad_ray import UserError, query, storage
from diffad_ray.table.compact import compact, mergeable_files
from diffad_ray.table.lease import Lease
from diffad_ray.table.snapshot import pending_mergers
from diffad_ray.table.verify import verify

NAMES = [f"line/{k:02d}.png" for k in range(22)]


@pytest.fixture(params=["local", "s3"])
def table(request: pytest.FixtureRequest, tmp_path: Path, s3: str) -> str:
    return str(tmp_path / "table") if request.param == "local" else f"{s3}/{tmp_path.name}"


def parquet(table: str, kind: str) -> list[str]:
    files = (file.uri.rsplit("/", 1)[-1] for file in storage.walk(f"{table}/{kind}"))
    return sorted(name for name in files if name.endswith(".parquet"))


def rows(table: str) -> list[pa.Table]:
    """All that the views show, in an order of rows and columns that does not depend on files."""
    order = {"scores": "image_uri, run_id", "regions": "image_id, run_id, region"}
    tables = [query(table, f"SELECT * FROM {view} ORDER BY {columns}") for view, columns in order.items()]
    return [found.select(sorted(found.column_names)) for found in tables]


def test_few_files_with_the_same_rows(table: str) -> None:
    write_run(table, 1, NAMES[:13], columns={"line": "press"})
    write_run(table, 2, NAMES[13:], failing=NAMES[20])
    write_run(table, 3, [NAMES[20]], state="abandoned")
    before = rows(table)
    summary = compact(table)
    assert (summary.files_before, summary.files_after) == (18, 9)
    regions = query(table, "SELECT count(*) AS n FROM regions WHERE run_id NOT LIKE '20260103%'").to_pylist()
    assert (summary.rows, summary.dropped) == (2 * len(NAMES) - 1 + regions[0]["n"], 1)
    assert [len(parquet(table, kind)) for kind in ("scores", "regions", "manifests")] == [3, 3, 3]
    assert rows(table) == before
    assert query(table, "SELECT count(*) FILTER (line = 'press') AS n FROM scores").to_pylist() == [{"n": 13}]
    assert verify(table).problems == []
    again = compact(table)
    assert (again.files_before, again.files_after, again.rows) == (9, 9, 0)


def test_runs_of_a_day_with_other_columns(tmp_path: Path) -> None:
    write_run(str(tmp_path), 1, NAMES[:6], columns={"line": "press"})
    plan = write_run(str(tmp_path), 1, NAMES[6:12], columns={"camera": "7"}, suffix="def")
    assert plan.run_date == "2026-01-01"
    compact(tmp_path)
    (file,) = parquet(str(tmp_path), "scores")
    merged = pq.read_table(tmp_path / "scores" / "run_date=2026-01-01" / file)
    assert {"line", "camera"} <= set(merged.column_names)
    assert "run_date" not in merged.column_names
    uris = merged["image_uri"].to_pylist()
    assert uris == sorted(uris)
    assert (merged["line"].null_count, merged["camera"].null_count) == (6, 6)


def test_files_have_about_the_rows_that_were_asked_for(tmp_path: Path) -> None:
    write_run(str(tmp_path), 1, NAMES, shard_rows=2)
    compact(tmp_path, rows_per_file=6)
    folder = tmp_path / "scores" / "run_date=2026-01-01"
    counts = [pq.read_metadata(folder / name).num_rows for name in parquet(str(tmp_path), "scores")]
    assert sorted(counts) == [4, 6, 6, 6]
    compact(tmp_path, rows_per_file=1)
    assert len(parquet(str(tmp_path), "scores")) == 4


def test_full_files_stay_and_so_does_one_that_has_no_other_beside_it(tmp_path: Path) -> None:
    write_run(str(tmp_path), 1, NAMES, shard_rows=5)
    before = sorted(path for path in tmp_path.rglob("*.parquet") if path.parent.parent.name != "regions")
    summary = compact(tmp_path, rows_per_file=5)
    after = sorted(path for path in tmp_path.rglob("*.parquet") if path.parent.parent.name != "regions")
    assert after == before
    assert summary.files_before - summary.files_after == 5 - len(parquet(str(tmp_path), "regions"))
    with pytest.raises(UserError, match="rows_per_file must be 1 or more, not 0"):
        compact(tmp_path, rows_per_file=0)


def test_one_superseded_row_is_reason_enough_to_write_a_file_again(tmp_path: Path) -> None:
    table = str(tmp_path)
    write_run(table, 1, NAMES[:5])
    assert mergeable_files(table) == 0
    write_run(table, 2, [NAMES[1]])  # without regions
    assert compact(table).dropped == 1
    found = query(table, f"SELECT count(*) AS n FROM read_parquet('{table}/scores/**/*.parquet')").to_pylist()
    assert found == [{"n": 5}]


def test_two_files_of_a_folder_can_be_merged(tmp_path: Path) -> None:
    table = str(tmp_path)
    write_run(table, 1, NAMES[:10])
    assert mergeable_files(table) == 6
    compact(table)
    assert mergeable_files(table) == 0


def test_what_is_no_file_of_an_ended_run_stays(tmp_path: Path) -> None:
    plan = write_run(str(tmp_path), 1, NAMES, shard_rows=11)
    folder = tmp_path / "scores" / "run_date=2026-01-01"
    shard = next(folder.iterdir()).read_bytes()
    strange = ["mine.parquet", f"{plan.run_id}-0.parquet", "20250101T000000-000000-00000.parquet", "deeper/x.parquet"]
    for name in strange:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(shard)
    (folder / "notes.txt").write_text("no rows")
    summary = compact(tmp_path)
    assert (summary.files_before, summary.files_after, summary.left) == (6, 3, len(strange))
    assert {str(path.relative_to(folder)) for path in folder.rglob("*.*") if "merged" not in path.name} == {
        *strange,
        "notes.txt",
    }


def test_files_of_unfinished_runs_stay(tmp_path: Path) -> None:
    plan = write_run(str(tmp_path), 1, NAMES, done=2, state=None)
    left = {kind: parquet(str(tmp_path), kind) for kind in ("scores", "regions", "manifests")}
    summary = compact(tmp_path)
    assert (summary.files_before, summary.rows, summary.left) == (0, 0, 2 + 2 + plan.shards)
    assert {kind: parquet(str(tmp_path), kind) for kind in left} == left


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no table at"):
        compact(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
    write_run(str(tmp_path), 1, NAMES)
    with Lease(str(tmp_path), "score", dead_after=1), pytest.raises(UserError, match="in use"):
        compact(tmp_path)
    file = next(tmp_path.glob("scores/*/*.parquet"))
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(UserError, match="verify"):
        compact(tmp_path)


def test_damage_between_header_and_footer_loses_nothing(tmp_path: Path) -> None:
    write_run(str(tmp_path), 1, NAMES)
    file = sorted(tmp_path.glob("scores/*/*.parquet"))[0]
    data = bytearray(file.read_bytes())
    data[4:400] = bytes(396)
    file.write_bytes(data)
    files = parquet(str(tmp_path), "scores")
    with pytest.raises(UserError, match="can't be read"):
        compact(tmp_path)
    assert parquet(str(tmp_path), "scores") == files
    assert pending_mergers(str(tmp_path)) == []


class Reader(threading.Thread):
    """Reads a table's views all the time, and keeps whatever it saw wrong."""

    def __init__(self, table: str, expected: list[pa.Table]):
        super().__init__()
        self.table, self.expected = table, expected
        self.ended = threading.Event()
        self.reads = 0
        self.wrong: list[str] = []

    def run(self) -> None:
        while not self.ended.is_set():
            try:
                if rows(self.table) != self.expected:
                    self.wrong.append("other rows")
            except UserError as error:
                self.wrong.append(str(error))
            self.reads += 1

    def __enter__(self) -> Reader:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.join()


@pytest.mark.parametrize("table", ["local", pytest.param("s3", marks=pytest.mark.long)], indirect=True)
def test_reading_goes_on(table: str) -> None:
    write_run(table, 1, NAMES, shard_rows=2)
    expected = rows(table)
    with Reader(table, expected) as reader:
        for size in (2, 4, 8, 100):
            compact(table, rows_per_file=size)
    assert reader.wrong == []
    assert reader.reads > 1
    assert len(parquet(table, "scores")) == 1
