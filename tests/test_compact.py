"""Compaction: fewer files, the same rows, whatever kills it and whoever reads meanwhile."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hand_made_table import write_run

from diffad_ray import UserError, query, storage
from diffad_ray.table.compact import compact, finish_compactions
from diffad_ray.table.documents import document
from diffad_ray.table.lease import Lease
from diffad_ray.table.snapshot import Merger, pending_mergers
from diffad_ray.table.verify import verify

NAMES = [f"line/{k:02d}.png" for k in range(22)]


def compact_and_die(table: str, fatal: int) -> None:
    """Compact, and be killed at the given one of the calls that write or delete; for a process of its own."""
    calls, lock = 0, threading.Lock()

    def mortal(function: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object) -> object:
            nonlocal calls
            with lock:
                calls += 1
                if calls == fatal:
                    os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments)

        return call

    for name in ("write", "create", "delete"):
        setattr(storage, name, mortal(getattr(storage, name)))
    compact(table, rows_per_file=12)


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


@pytest.mark.parametrize("fatal", range(9))
def test_what_a_dead_compaction_left_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fatal: int) -> None:
    """As `test_killed_at_every_call_while_others_read`, in this process: it dies at one of its deletions."""
    table = str(tmp_path)
    write_run(table, 1, NAMES[:8])
    expected = rows(table)
    deletions, delete = 0, storage.delete

    def dying(uri: str) -> None:
        nonlocal deletions
        if "/leases/" not in uri:
            deletions += 1
            if deletions > fatal:
                raise OSError("the network is gone")
        delete(uri)

    with monkeypatch.context() as patch:
        patch.setattr(storage, "delete", dying)
        patch.setattr("diffad_ray.storage.DELETIONS", 1)
        with pytest.raises(OSError, match="network"):
            compact(table)
    pending = pending_mergers(table)
    assert len(pending) == min(3, 9 - fatal)
    assert rows(table) == expected
    finish_compactions(table)
    assert rows(table) == expected
    assert pending_mergers(table) == []
    assert [len(parquet(table, kind)) for kind in ("scores", "regions", "manifests")] == [1, 1, 1]
    assert verify(table).notes == []


def test_a_merger_that_was_written_down_alone_is_carried_out(tmp_path: Path) -> None:
    table = str(tmp_path)
    write_run(table, 1, NAMES[:8])
    expected = rows(table)
    sources = [f"scores/run_date=2026-01-01/{name}" for name in parquet(table, "scores")]
    target = f"scores/run_date=2026-01-01/merged-{'0' * 16}.parquet"
    merger = Merger("scores", sources, target, 8, [])
    storage.write(f"{table}/{merger.journal}", document(merger))
    assert pending_mergers(table) == [merger]
    finish_compactions(table)
    assert parquet(table, "scores") == [f"merged-{'0' * 16}.parquet"]
    assert rows(table) == expected
    storage.write(f"{table}/{merger.journal}", document(replace(merger, sources=[target], target=f"{target}x", rows=7)))
    with pytest.raises(RuntimeError, match="8 rows were copied where 7 were counted"):
        finish_compactions(table)


def test_a_compaction_first_finishes_the_one_before(tmp_path: Path) -> None:
    table = str(tmp_path)
    write_run(table, 1, NAMES[:8])
    expected = rows(table)
    sources = [f"scores/run_date=2026-01-01/{name}" for name in parquet(table, "scores")]
    merger = Merger("scores", sources, f"scores/run_date=2026-01-01/merged-{'0' * 16}.parquet", 8, [])
    storage.write(f"{table}/{merger.journal}", document(merger))
    compact(table)
    assert rows(table) == expected
    assert parquet(table, "scores") == [f"merged-{'0' * 16}.parquet"]


def test_a_compaction_that_lost_its_lease_merges_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = str(tmp_path)
    write_run(table, 1, NAMES)
    before = parquet(table, "scores")

    def lost(_: Lease) -> None:
        raise UserError("another process writes to the table")

    monkeypatch.setattr(Lease, "check", lost)
    with pytest.raises(UserError, match="another process"):
        compact(table)
    assert parquet(table, "scores") == before


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


def test_rows_that_were_deleted_by_hand_are_not_waited_for(tmp_path: Path) -> None:
    write_run(str(tmp_path), 1, NAMES)
    storage.write(
        f"{tmp_path}/compactions/merged-{'0' * 16}.json",
        b'{"kind": "scores", "sources": ["scores/run_date=2025-01-01/gone.parquet"], '
        b'"target": "scores/run_date=2025-01-01/merged-0000000000000000.parquet", "rows": 5, "superseded": []}',
    )
    assert len(pending_mergers(str(tmp_path))) == 1
    finish_compactions(str(tmp_path))
    assert pending_mergers(str(tmp_path)) == []


def test_rows_beside_those_that_were_deleted_by_hand_stay(tmp_path: Path) -> None:
    table = str(tmp_path)
    write_run(table, 1, NAMES[:5])
    expected = rows(table)
    (left,) = (f"scores/run_date=2026-01-01/{name}" for name in parquet(table, "scores"))
    target = f"scores/run_date=2026-01-01/merged-{'0' * 16}.parquet"
    merger = Merger("scores", [left, "scores/run_date=2026-01-01/gone.parquet"], target, 10, [])
    storage.write(f"{table}/{merger.journal}", document(merger))
    finish_compactions(table)
    assert rows(table) == expected
    assert pending_mergers(table) == []


def test_a_damaged_journal_is_named(tmp_path: Path) -> None:
    journal = f"{tmp_path}/compactions/merged-{'0' * 16}.json"
    storage.write(journal, b'{"kind": "scores"}')
    with pytest.raises(UserError, match=f"{journal} is damaged"):
        finish_compactions(str(tmp_path))


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


@pytest.mark.long
def test_killed_at_every_call_while_others_read(tmp_path: Path) -> None:
    """Whatever instant it dies at, readers see each row once, and the next compaction ends the work."""
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["diffad_ray.table.compact", "pyarrow.parquet", "fsspec"])
    survived, kills = False, 0
    while not survived:
        kills += 1
        table = str(tmp_path / str(kills))
        write_run(table, 1, NAMES[:8], columns={"line": "press"}, failing=NAMES[6])
        write_run(table, 1, [NAMES[6]], suffix="def")
        expected = rows(table)
        with Reader(table, expected) as reader:
            process = processes.Process(target=compact_and_die, args=(table, kills))
            process.start()
            process.join()
            survived = process.exitcode == 0
            assert survived or process.exitcode == -signal.SIGKILL
            assert rows(table) == expected
            compact(table, rows_per_file=12)
        assert reader.wrong == []
        assert verify(table).problems == []
        assert rows(table) == expected
        assert [len(parquet(table, kind)) for kind in ("scores", "regions", "manifests")] == [1, 1, 2]
        assert pending_mergers(table) == []
        assert len(list(Path(table).glob("leases/*"))) == 1
    assert kills > 15, "calls were not counted"


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
