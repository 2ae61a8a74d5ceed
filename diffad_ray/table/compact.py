"""Compaction: merges the many small files that scoring writes into few large ones, while readers read.

It leaves out superseded rows, sorts the rows, and gives each file all columns of the table. Afterwards any engine that
reads the plain files sees each image once, and all columns.
A merger is written down first, in a journal that names its sources and its target; then the target is created whole,
the sources are deleted, and the journal last. Each step can be taken again, so whoever finds a journal carries it out
to its end. Between creation and deletion a row is there twice; the views read one of both files.
All targets are created before the first source is deleted, because a deletion disturbs the queries that go on just
then: they have to be made again, and one short time of deletions is one such disturbance.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa

from diffad_ray import storage
from diffad_ray.errors import UserError
from diffad_ray.scratch import scratch_folder
from diffad_ray.sql import identifier, reason_of
from diffad_ray.table.layout import TABLE_METADATA, quoted
from diffad_ray.table.lease import Lease
from diffad_ray.table.parts import PARQUET_PARTS, SCORES, SUPERSEDED, part_of, run_of
from diffad_ray.table.reading import connect_bounded, declared_rows, existing, file_list, rows_in
from diffad_ray.table.runs import ended_runs
from diffad_ray.table.schema import scores_schema, write_schema
from diffad_ray.table.snapshot import Merger, paths_below, pending_mergers
from diffad_ray.table.superseded import KEY, mark_dropped

ROWS_PER_FILE = 200_000
_WRITTEN = "COMPRESSION zstd, ROW_GROUP_SIZE 30720"
"Groups a quarter of the usual size: a search by URI reads a quarter as many rows, and files grow by 1 %."


@dataclass(frozen=True)
class CompactSummary:
    """What a compaction did.

    Attributes:
        files_before, files_after: Parquet files of runs that are over.
        rows: that were copied.
        dropped: superseded rows and their regions, which were removed.
        left: files that belong to other runs.
    """

    files_before: int
    files_after: int
    rows: int
    dropped: int
    left: int


def compact(table: str | Path, rows_per_file: int = ROWS_PER_FILE) -> CompactSummary:
    """Merge small files of runs that are over into files of about `rows_per_file` rows, within their folders.

    Files of unfinished runs stay as they are: that they exist says which shards are done. Files of any size are written
    again if they have superseded rows or lack columns of the table, which are null then. Killed at any moment, it loses
    nothing: the next compaction or scoring run brings it to its end.

    Raises:
        UserError: no table, another process writes to it, or a file of it can't be read.
    """
    if rows_per_file < 1:
        raise UserError(f"rows_per_file must be 1 or more, not {rows_per_file}")
    location = existing(str(table))
    with Lease(location, "compact") as lease:
        finish_compactions(location)
        folders, left = _files_of_ended_runs(location)
        superseded = _superseded(location)
        before = after = sum(map(len, folders.values()))
        rows = dropped = 0
        try:
            for folder, paths in folders.items():
                states = _file_states(location, folder, paths, superseded)
                for merger in _mergers(folder, states, rows_per_file, superseded):
                    lease.check()
                    storage.write(f"{location}/{merger.journal}", merger.to_bytes())
                    _create(location, merger)
                    rows += merger.rows
                    dropped += sum(states[path].superseded for path in merger.sources)
                    after -= len(merger.sources) - 1
        finally:
            # After an error, too, rows must not stay double; that a lost lease is no hindrance is due to the journals.
            finish_compactions(location)
        mark_dropped(location, superseded)
        write_schema(location, scores_schema(location), is_uniform=not left)
    return CompactSummary(before, after, rows, dropped, left)


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
    storage.delete_all(sources)
    for merger in mergers:
        storage.delete(f"{table}/{merger.journal}")


def _files_of_ended_runs(table: str) -> tuple[dict[str, list[str]], int]:
    """Paths by folder of the Parquet files of runs with a record, and the number of other Parquet files."""
    ended = ended_runs(table)
    folders: dict[str, list[str]] = {}
    left = 0
    for part in (part for part in PARQUET_PARTS.values() if part.order):
        for path in paths_below(table, part.name):
            if part_of(path) is part and ((run := run_of(path)) is None or run in ended):
                folders.setdefault(path.rpartition("/")[0], []).append(path)
            else:
                left += path.endswith(".parquet")
    return folders, left


def _superseded(table: str) -> list[str]:
    """Files with the rows that ended runs supersede; no other ones are in force for rows of ended runs."""
    ended = ended_runs(table)
    return [path for path in paths_below(table, SUPERSEDED.name) if run_of(path) in ended]


@dataclass(frozen=True)
class _FileState:
    """A Parquet file: its rows, how many of them are superseded, and whether it lacks columns of the table."""

    rows: int
    superseded: int
    lacks_columns: bool

    @property
    def is_stale(self) -> bool:
        return self.superseded > 0 or self.lacks_columns


def _columns(table: str, kind: str) -> pa.Schema:
    return scores_schema(table) if kind == SCORES.name else PARQUET_PARTS[kind].columns


def _file_states(table: str, folder: str, paths: list[str], superseded: list[str]) -> dict[str, _FileState]:
    """The files of a folder, by their paths."""
    located = {path: f"{table}/{path}" for path in paths}
    files = file_list(located.values())
    kind = folder.partition("/")[0]
    wanted = set(_columns(table, kind).names)
    with connect_bounded(table) as connection:
        try:
            footers = f"SELECT file_name, num_rows FROM parquet_file_metadata({files})"
            rows = dict(connection.execute(footers).fetchall())
            named = f"SELECT file_name, list(name) FROM parquet_schema({files}) GROUP BY 1"
            names = dict(connection.execute(named).fetchall())
            replaced = {}
            if superseded and _has_superseded(kind):
                of_files = f"{rows_in(located.values()).removesuffix(')')}, filename = 'file')"
                entries = rows_in(f"{table}/{path}" for path in superseded)
                counted = f"SELECT file, count(*) FROM {of_files} SEMI JOIN {entries} AS e USING ({KEY}) GROUP BY 1"
                replaced = dict(connection.execute(counted).fetchall())
        except duckdb.Error as error:
            raise _unreadable(table, error) from error
    return {
        path: _FileState(rows[uri], replaced.get(uri, 0), not wanted <= set(names[uri]))
        for path, uri in located.items()
    }


def _has_superseded(kind: str) -> bool:
    """Whether rows of a part can be superseded: what was planned stays what it was."""
    return set(SUPERSEDED.key) <= set(PARQUET_PARTS[kind].columns.names)


def _mergers(folder: str, states: dict[str, _FileState], rows_per_file: int, superseded: list[str]) -> Iterator[Merger]:
    """Which files of a folder to merge: in the order of their names, until there are rows enough."""
    kind = folder.partition("/")[0]
    drops = superseded if _has_superseded(kind) else []

    def merger(group: list[str]) -> Merger:
        # Named by the time, so that listings that go on find it after its sources.
        target = f"{folder}/merged-{time.time_ns():016x}.parquet"
        rows = sum(states[path].rows - states[path].superseded for path in group)
        return Merger(kind, group, target, rows, drops)

    group: list[str] = []
    for path, state in states.items():
        if state.rows >= rows_per_file and not state.is_stale:
            continue
        group.append(path)
        if sum(states[member].rows for member in group) >= rows_per_file:
            yield merger(group)
            group = []
    if len(group) > 1 or any(states[path].is_stale for path in group):
        yield merger(group)


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
        columns = _columns(table, merger.kind)
        rows = declared_rows(connection, columns, files)
        if merger.superseded:
            entries = rows_in(f"{table}/{path}" for path in merger.superseded)
            rows += f" ANTI JOIN {entries} AS entries USING ({KEY})"
        names = ", ".join(map(identifier, columns.names))
        # In the table's order, since some engines want it; what else a file has is kept.
        selected = f"SELECT {names}, * EXCLUDE ({names}) FROM {rows} ORDER BY {', '.join(part.order)}"
        merge = f"COPY ({selected}) TO {quoted(str(merged))} (FORMAT parquet, {_WRITTEN}, {TABLE_METADATA})"
        ((copied,),) = connection.execute(merge).fetchall()
        if copied != merger.rows:
            raise RuntimeError(f"{copied} rows were copied where {merger.rows} were counted: {merger}")
        return merged.read_bytes()


def _unreadable(table: str, error: duckdb.Error) -> UserError:
    return UserError(
        f"a file of the table can't be read: {reason_of(error)}\n`diffad-ray verify {table}` names damaged files; move "
        "them away"
    )
