"""A compaction that was killed, or lost its lease: the next one finishes what it began."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hand_made_table import write_run
from test_compact import NAMES, Reader, parquet, rows

from diffad_ray import UserError, storage
from diffad_ray.table.compact import compact, finish_compactions
from diffad_ray.table.documents import document
from diffad_ray.table.lease import Lease
from diffad_ray.table.snapshot import Merger, pending_mergers
from diffad_ray.table.verify import verify


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
