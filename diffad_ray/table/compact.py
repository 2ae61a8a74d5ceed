"""Compaction: merges the many small files that scoring writes into few large files, while queries run.

Compaction leaves out superseded rows, sorts the rows, and gives each file all columns of the table. Afterwards every
engine that reads the plain files sees each image once, with all columns.
A merger is first written to a journal, which names its sources and its target. Then the target is created in one write,
the sources are deleted, and the journal is deleted last. Each of these steps can be repeated, so a process that finds a
journal completes its merger. After the creation and before the deletion, a row is in two files, of which the views read
one.
All targets are created before the first source is deleted. A query that meets a deleted file must be repeated, and this
order keeps the time of deletions short.
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
"""Row groups have a quarter of the usual size. A search by URI then reads a quarter of the rows, and files are 1 %
larger."""


@dataclass(frozen=True)
class CompactSummary:
    """What a compaction did.

    Attributes:
        files_before, files_after: number of Parquet files of ended runs.
        rows: number of rows that were copied.
        dropped: number of superseded rows, and of regions of such rows, that were removed.
        left: number of files of other runs.
    """

    files_before: int
    files_after: int
    rows: int
    dropped: int
    left: int


def compact(table: str | Path, rows_per_file: int = ROWS_PER_FILE) -> CompactSummary:
    """Merge small files of ended runs into files of about `rows_per_file` rows, within each folder.

    Files of unfinished runs are not changed, because their existence marks the shards that are done. A file of any size
    is written again if it has superseded rows or lacks columns of the table; such columns are then null. If compaction
    is killed, nothing is lost, and the next compaction or scoring run completes it.

    Raises:
        UserError: there is no table, another process writes to it, or a file of it can't be read.
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
            # After an error, too, no row may stay in two files. This needs no lease, because the journals allow each
            # step to be repeated.
            finish_compactions(location)
        mark_dropped(location, superseded)
        write_schema(location, scores_schema(location), is_uniform=not left)
    return CompactSummary(before, after, rows, dropped, left)


def mergeable_files(table: str) -> int:
    """Count the Parquet files that a compaction may merge with another file of the same folder.

    Raises:
        UserError: there is no table.
    """
    folders, _ = _files_of_ended_runs(existing(table))
    return sum(len(paths) for paths in folders.values() if len(paths) > 1)


def finish_compactions(table: str) -> None:
    """Complete the mergers of compactions that were killed. The caller holds the lease of the table.

    Raises:
        UserError: a file can't be read. Its merger is given up, and no row is lost.
    """
    mergers = [merger for merger in pending_mergers(table) if _create(table, merger)]
    sources = [f"{table}/{path}" for merger in mergers for path in merger.sources]
    storage.delete_all(sources)
    for merger in mergers:
        storage.delete(f"{table}/{merger.journal}")


def _files_of_ended_runs(table: str) -> tuple[dict[str, list[str]], int]:
    """Return the Parquet files of runs with a record, by folder, and the number of other Parquet files."""
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
    """Return the files that list the rows which ended runs supersede. Only these are in force for rows of ended
    runs."""
    ended = ended_runs(table)
    return [path for path in paths_below(table, SUPERSEDED.name) if run_of(path) in ended]


@dataclass(frozen=True)
class _FileState:
    """The number of rows of a Parquet file, the number of superseded ones, and whether the file lacks columns."""

    rows: int
    superseded: int
    lacks_columns: bool

    @property
    def is_stale(self) -> bool:
        return self.superseded > 0 or self.lacks_columns


def _columns(table: str, kind: str) -> pa.Schema:
    return scores_schema(table) if kind == SCORES.name else PARQUET_PARTS[kind].columns


def _file_states(table: str, folder: str, paths: list[str], superseded: list[str]) -> dict[str, _FileState]:
    """Return the states of the files of a folder by path."""
    located = {path: f"{table}/{path}" for path in paths}
    files = file_list(located.values())
    kind = folder.partition("/")[0]
    wanted = set(_columns(table, kind).names)
    with connect_bounded(table, listed=[f"{table}/{folder}", f"{table}/{SUPERSEDED.name}"]) as connection:
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
    """Return whether rows of a part can be superseded. Rows of manifests, for example, never are."""
    return set(SUPERSEDED.key) <= set(PARQUET_PARTS[kind].columns.names)


def _mergers(folder: str, states: dict[str, _FileState], rows_per_file: int, superseded: list[str]) -> Iterator[Merger]:
    """Group the files of a folder, in the order of their names, until each group has enough rows."""
    kind = folder.partition("/")[0]
    drops = superseded if _has_superseded(kind) else []

    def merger(group: list[str]) -> Merger:
        # The name holds the time, so that a listing in progress meets the target after its sources.
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
    """Create the target of a merger unless it exists; return false if its sources are gone."""
    if storage.exists(f"{table}/{merger.target}"):
        return True
    try:
        merged = _merge(table, merger)
    except duckdb.Error as error:
        # The merger is given up before anything was merged.
        storage.delete(f"{table}/{merger.journal}")
        if all(storage.exists(f"{table}/{path}") for path in merger.sources):
            raise _unreadable(table, error) from error
        # A person deleted files of the table.
        return False
    # The name belongs to this merger. If the file exists already, another process that had been suspended wrote the
    # same rows to it.
    storage.create(f"{table}/{merger.target}", merged)
    return True


def _merge(table: str, merger: Merger) -> bytes:
    """Return the target file. Sorting uses the disk, so that only the compressed file must fit into the memory."""
    part = PARQUET_PARTS[merger.kind]
    files = rows_in(f"{table}/{path}" for path in merger.sources)
    folders = {path.rpartition("/")[0] for path in (*merger.sources, *merger.superseded)}
    listed = [f"{table}/{folder}" for folder in folders]
    with scratch_folder() as scratch, connect_bounded(table, listed=listed) as connection:
        merged = scratch / "merged.parquet"
        columns = _columns(table, merger.kind)
        rows = declared_rows(connection, columns, files)
        if merger.superseded:
            entries = rows_in(f"{table}/{path}" for path in merger.superseded)
            rows += f" ANTI JOIN {entries} AS entries USING ({KEY})"
        names = ", ".join(map(identifier, columns.names))
        # The columns have the table's order, because some engines need it. Other columns of a file are kept.
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
