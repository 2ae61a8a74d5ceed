"""Compaction: merges the many small files that scoring writes into few large ones, while readers read.

A merger is written down first, in a journal that names its sources and its target; then the target is created whole,
the sources are deleted, and the journal last. Each step can be taken again, so whoever finds a journal carries it out
to its end. Between creation and deletion a row is there twice, alike in every column; the views show it once.
All targets are created before the first source is deleted, because a deletion disturbs the queries that go on just
then: they have to be made again, and one short time of deletions is one such disturbance.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import duckdb

from diffad_ray import storage
from diffad_ray.errors import UserError
from diffad_ray.scratch import scratch_folder
from diffad_ray.table.documents import document, parsed
from diffad_ray.table.layout import TABLE_SCHEMA_KEY, quoted
from diffad_ray.table.lease import Lease
from diffad_ray.table.parts import PARQUET_PARTS, part_of, run_of
from diffad_ray.table.reading import connect_bounded, declared_rows, existing, file_list, reason_of, rows_in
from diffad_ray.table.runs import read_runs
from diffad_ray.versions import TABLE_SCHEMA

ROWS_PER_FILE = 200_000
_METADATA = f"{{{quoted(TABLE_SCHEMA_KEY.decode())}: '{TABLE_SCHEMA}'}}"
DELETIONS = 16
"At the same time: on object stores each one waits for an answer."


@dataclass(frozen=True)
class Merger:
    """Which files become which one: paths within the table, because tables are moved; `rows` in each of both."""

    kind: str
    sources: list[str]
    target: str
    rows: int

    @property
    def journal(self) -> str:
        return f"compactions/{Path(self.target).stem}.json"


@dataclass(frozen=True)
class CompactSummary:
    """Parquet files of runs that are over, before and after; `rows` were copied, `left` files belong to other runs."""

    files_before: int
    files_after: int
    rows: int
    left: int


def compact(table: str | Path, rows_per_file: int = ROWS_PER_FILE) -> CompactSummary:
    """Merge small files of runs that are over into files of about `rows_per_file` rows, within their folders.

    Files of unfinished runs stay as they are: that they exist says which shards are done. Rows are copied as they are;
    a column that only some files have is null for the rows of the others. Killed at any moment, it loses nothing: the
    next compaction or scoring run brings it to its end.

    Raises:
        UserError: no table, another process writes to it, or a file of it can't be read.
    """
    if rows_per_file < 1:
        raise UserError(f"rows_per_file must be 1 or more, not {rows_per_file}")
    location = existing(str(table))
    with Lease(location, "compact") as lease:
        finish_compactions(location)
        folders, left = _files_of_ended_runs(location)
        before = after = sum(map(len, folders.values()))
        rows = 0
        try:
            for folder, paths in folders.items():
                for merger in _mergers(location, folder, paths, rows_per_file):
                    lease.check()
                    storage.write(f"{location}/{merger.journal}", document(merger))
                    _create(location, merger)
                    rows += merger.rows
                    after -= len(merger.sources) - 1
        finally:
            # After an error, too, rows must not stay double; that a lost lease is no hindrance is due to the journals.
            finish_compactions(location)
    return CompactSummary(before, after, rows, left)


def mergeable_files(table: str) -> int:
    """How many Parquet files share a folder with others that a compaction may merge them with.

    Raises:
        UserError: there is no table.
    """
    folders, _ = _files_of_ended_runs(existing(table))
    return sum(len(paths) for paths in folders.values() if len(paths) > 1)


def finish_compactions(table: str) -> None:
    """Carry out what killed compactions left to do; for the holder of the table's lease.

    Raises:
        UserError: a file can't be read; what was left to do with it is forgotten, nothing is lost.
    """
    mergers = [merger for merger in pending_mergers(table) if _create(table, merger)]
    sources = [f"{table}/{path}" for merger in mergers for path in merger.sources]
    with ThreadPoolExecutor(DELETIONS) as pool:
        list(pool.map(storage.delete, sources))
    for merger in mergers:
        storage.delete(f"{table}/{merger.journal}")


def pending_mergers(table: str) -> list[Merger]:
    """What a compaction has still to do, be it under way or killed."""
    journals = [f"{table}/{path}" for path in _paths(table, "compactions")]
    return [parsed(Merger, storage.read(journal), journal) for journal in journals]


def _paths(table: str, folder: str) -> list[str]:
    """Paths within the table of the files below a folder, sorted."""
    try:
        return sorted(file.uri.removeprefix(f"{table}/") for file in storage.walk(f"{table}/{folder}"))
    except FileNotFoundError:
        return []


def _files_of_ended_runs(table: str) -> tuple[dict[str, list[str]], int]:
    """Paths by folder of the Parquet files of runs with a record, and the number of other Parquet files."""
    ended = {run.plan.run_id for run in read_runs(table) if run.record}
    folders: dict[str, list[str]] = {}
    left = 0
    for part in (part for part in PARQUET_PARTS.values() if part.order):
        for path in _paths(table, part.name):
            if part_of(path) is part and ((run := run_of(path)) is None or run in ended):
                folders.setdefault(path.rpartition("/")[0], []).append(path)
            else:
                left += path.endswith(".parquet")
    return folders, left


def _mergers(table: str, folder: str, paths: list[str], rows_per_file: int) -> Iterator[Merger]:
    """Which files of a folder to merge: in the order of their names, until there are rows enough."""
    if len(paths) < 2:
        return
    files = file_list(f"{table}/{path}" for path in paths)
    with connect_bounded(table) as connection:
        try:
            footers = f"SELECT file_name, num_rows FROM parquet_file_metadata({files})"
            rows = dict(connection.execute(footers).fetchall())
        except duckdb.Error as error:
            raise _unreadable(table, error) from error
    group: list[str] = []
    grouped = 0
    for path in paths:
        count = rows[f"{table}/{path}"]
        if count < rows_per_file:
            group.append(path)
            grouped += count
        if len(group) > 1 and (grouped >= rows_per_file or path == paths[-1]):
            target = f"{folder}/merged-{secrets.token_hex(8)}.parquet"
            yield Merger(folder.partition("/")[0], group, target, grouped)
            group, grouped = [], 0


def _create(table: str, merger: Merger) -> bool:
    """Create the target of a merger, if it is not there; false where that can't be done any more."""
    if storage.exists(f"{table}/{merger.target}"):
        return True
    try:
        merged = _merge(table, merger)
    except duckdb.Error as error:
        # Nothing has been merged, and nothing will be.
        storage.delete(f"{table}/{merger.journal}")
        if all(storage.exists(f"{table}/{path}") for path in merger.sources):
            raise _unreadable(table, error) from error
        # Someone deleted rows by hand.
        return False
    # A name of its own: where it is taken, by a compactor who woke up, the same rows are in it.
    storage.create(f"{table}/{merger.target}", merged)
    return True


def _merge(table: str, merger: Merger) -> bytes:
    """The target's file; sorting spills to disk, so only the file itself, compressed, must fit into memory."""
    part = PARQUET_PARTS[merger.kind]
    files = rows_in(f"{table}/{path}" for path in merger.sources)
    with scratch_folder() as scratch, connect_bounded(table) as connection:
        merged = scratch / "merged.parquet"
        rows = declared_rows(connection, part, files)
        written = f"FORMAT parquet, COMPRESSION zstd, KV_METADATA {_METADATA}"
        merge = f"COPY (SELECT * FROM {rows} ORDER BY {', '.join(part.order)}) TO {quoted(str(merged))} ({written})"
        ((copied,),) = connection.execute(merge).fetchall()
        if copied != merger.rows:
            raise RuntimeError(f"{copied} rows were copied where {merger.rows} were counted: {merger}")
        return merged.read_bytes()


def _unreadable(table: str, error: duckdb.Error) -> UserError:
    return UserError(
        f"a file of the table can't be read: {reason_of(error)}\n`diffad-ray verify {table}` names damaged files; move "
        "them away"
    )
