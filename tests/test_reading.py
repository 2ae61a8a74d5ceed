"""Reading a table: rows whatever its location is called, counted by run, and again where a file went away meanwhile."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import duckdb
import pytest
import s3fs
from hand_made_table import write_run

from diffad_ray import UserError, query, storage
from diffad_ray.table import views
from diffad_ray.table.reading import (
    bound,
    connect,
    connect_bounded,
    count_rows,
    existing,
    has_rows,
    rows_in,
    rows_of,
)
from diffad_ray.table.snapshot import Merger
from diffad_ray.table.verify import verify
from diffad_ray.table.views import ATTEMPTS, open_table, read_views

NAMES = [f"line/{k:02d}.png" for k in range(12)]
COUNT = "SELECT count(*), count(DISTINCT image_id) FROM scores"


@pytest.mark.parametrize("name", ["table", "a[b]c", "what?", "st*r", "it's", "run_date=1999-09-09", "line=7"])
def test_rows_are_found_whatever_the_folder_is_called(tmp_path: Path, name: str) -> None:
    table = str(tmp_path / name / "scores")
    write_run(table, 2, NAMES)
    with connect(table) as connection:
        sql = f"SELECT count(*), min(run_date)::VARCHAR, max(run_date)::VARCHAR FROM {rows_of(table, 'scores')}"
        assert connection.execute(sql).fetchall() == [(12, "2026-01-02", "2026-01-02")]
        columns = connection.sql(f"FROM {rows_of(table, 'regions')}").columns
        assert "line" not in columns
        assert "filename" not in columns
        files = [file.uri for file in storage.walk(f"{table}/scores")][:2]
        found = connection.sql(f"FROM {rows_in(files)}")
        assert len(found) == 10
        assert not {"run_date", "line", "filename"} & {*found.columns}


def test_views_show_the_last_row_and_its_regions_once(tmp_path: Path) -> None:
    table = str(tmp_path)
    write_run(table, 1, NAMES)
    write_run(table, 2, NAMES[:6])
    for number, path in enumerate(sorted(tmp_path.glob("*/run_date=*/*.parquet"))):
        source, target = (
            str(at.relative_to(tmp_path)) for at in (path, path.with_name(f"merged-{number:016x}.parquet"))
        )
        (tmp_path / target).write_bytes(path.read_bytes())
        merger = Merger(source.partition("/")[0], [source], target, 0, [])
        storage.write(f"{table}/{merger.journal}", merger.to_bytes())
    figures = "SELECT run_id[:8], count(*) FROM {} GROUP BY 1 ORDER BY 1"
    with open_table(table) as connection:
        assert connection.execute(figures.format("scores")).fetchall() == [("20260101", 6), ("20260102", 6)]
        assert connection.execute(figures.format("regions")).fetchall() == [("20260101", 6), ("20260102", 4)]


def test_rows_are_counted_by_run(tmp_path: Path) -> None:
    table = str(tmp_path)
    first = write_run(table, 1, NAMES, failing=NAMES[4])
    second = write_run(table, 2, NAMES[:2])
    with connect(table) as connection:
        counts = count_rows(connection, rows_of(table, "scores"))
    assert (counts[first.run_id].by_status, counts[first.run_id].anomalous) == ({"ok": 11, "timeout": 1}, 5)
    assert counts[first.run_id].rows == 12
    assert (counts[second.run_id].by_status, counts[second.run_id].anomalous) == ({"ok": 2}, 1)
    assert (counts["another"].rows, counts["another"].anomalous) == (0, 0)


def test_a_table_needs_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not has_rows(str(tmp_path))
    with pytest.raises(UserError, match=f"no table at {tmp_path}: it has no scores"):
        existing(str(tmp_path))
    write_run(str(tmp_path), 1, NAMES)
    assert has_rows(str(tmp_path))
    assert existing(f"{tmp_path}/") == str(tmp_path)

    def refuse(_: str) -> bool:
        raise PermissionError("access is refused")

    monkeypatch.setattr(storage, "has_files", refuse)
    with pytest.raises(UserError, match="can't be read: access is refused"):
        existing(str(tmp_path))


def test_connections_are_bounded(tmp_path: Path) -> None:
    def value(connection: duckdb.DuckDBPyConnection, name: str) -> str:
        ((found,),) = connection.execute(f"SELECT current_setting('{name}')::VARCHAR").fetchall()
        return str(found)

    with connect_bounded(str(tmp_path)) as connection:
        assert value(connection, "memory_limit") == "1.8 GiB"
        scratch = Path(value(connection, "temp_directory"))
        assert scratch.is_dir()
        assert value(connection, "threads") == str(min(4, os.cpu_count() or 1))
        assert value(connection, "TimeZone") == "UTC"
        bound(connection, "100MiB", tmp_path)
        assert value(connection, "memory_limit") == "100.0 MiB"
        assert value(connection, "temp_directory") == str(tmp_path)
    assert not scratch.exists()


class Compacting:
    """A use of the views during which a file is renamed, as often as asked for."""

    def __init__(self, table: Path, times: int):
        self.table, self.times, self.calls = table, times, 0

    def __call__(self, connection: duckdb.DuckDBPyConnection) -> list[tuple[int, int]]:
        self.calls += 1
        if self.calls <= self.times:
            listed = connection.execute("SELECT file FROM glob(?)", [f"{self.table}/scores/*/*.parquet"]).fetchall()
            old = Path(listed[0][0])
            old.rename(old.with_name(f"again-{old.name}"))
            # What a query does whose file goes away between listing and reading.
            connection.execute(f"SELECT * FROM read_parquet(['{old}'])")
        return connection.execute(COUNT).fetchall()


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that were made, none of which takes time."""
    made: list[float] = []
    monkeypatch.setattr(views.time, "sleep", made.append)
    return made


def test_a_query_is_made_again_if_a_file_went_away(tmp_path: Path, pauses: list[float]) -> None:
    write_run(str(tmp_path), 1, NAMES)
    once = Compacting(tmp_path, 1)
    assert read_views(str(tmp_path), once) == [(12, 12)]
    assert (once.calls, pauses) == (2, [0.1])
    often = Compacting(tmp_path, ATTEMPTS - 1)
    assert read_views(f"{tmp_path}/", often) == [(12, 12)]
    assert pauses[1:] == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6])
    always = Compacting(tmp_path, ATTEMPTS)
    with pytest.raises(duckdb.IOException):
        read_views(str(tmp_path), always)
    assert always.calls == ATTEMPTS


def test_other_failures_are_told_at_once(tmp_path: Path, pauses: list[float]) -> None:
    write_run(str(tmp_path), 1, NAMES)
    for wrong in (
        "SELECT nothing FROM scores",
        "SELECT * FROM read_parquet('/elsewhere.parquet')",
        "SELECT error('x')",
    ):
        with pytest.raises(duckdb.Error):
            read_views(str(tmp_path), lambda connection, wrong=wrong: connection.execute(wrong).fetchall())
    assert pauses == []
    with pytest.raises(duckdb.Error, match="FileNotFoundError"):
        read_views(str(tmp_path), lambda connection: connection.execute("SELECT error('FileNotFoundError')").fetchall())
    assert len(pauses) == ATTEMPTS - 1, "an object store's error has no class and does not name the table"


def test_files_on_s3_are_listed_and_not_asked_for_one_by_one(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    table, asked = f"{s3}/listed", list[tuple[str, bool]]()
    for number in range(1, 4):
        write_run(table, number, [f"{number}.png"])
    call = s3fs.S3FileSystem._call_s3

    async def counted(self: s3fs.S3FileSystem, method: str, *arguments: Any, **options: Any) -> Any:
        asked.append((method, str(options.get("Key")).endswith(".parquet")))
        return await call(self, method, *arguments, **options)

    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", counted)
    assert query(table, "SELECT count(*) AS n FROM scores").to_pylist() == [{"n": 3}]
    assert verify(table).problems == []
    assert ("get_object", True) in asked
    assert ("head_object", True) not in asked
