"""What lies in a table's folder: the Parquet files of its runs, its masks, and what should not be there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from diffad_ray import storage
from diffad_ray.table.layout import TABLE_SCHEMA_KEY
from diffad_ray.table.parts import MASKS, NO_RUN, PARQUET_PARTS, SCHEMA_FILE, part_of, run_of
from diffad_ray.table.runs import PLAN_SUFFIX
from diffad_ray.table.snapshot import Merger
from diffad_ray.versions import TABLE_SCHEMA

READERS = 8
"Files that are read at the same time."
CHUNK = 50_000
"Masks of a listing that are held in memory."


@dataclass
class Contents:
    """Paths within a table.

    Attributes:
        parquet: of the runs that were asked for, by part.
        unknown: Parquet files that queries read and that are of no run; `foreign`: no part of a table.
        parts: what killed writers left.
    """

    parquet: dict[str, list[str]] = field(default_factory=lambda: {name: [] for name in PARQUET_PARTS})
    unknown: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    parts: list[str] = field(default_factory=list)


def list_contents(table: str, runs: set[str], mergers: list[Merger], connection: duckdb.DuckDBPyConnection) -> Contents:
    """List a table; its masks, which may be millions, become the connection's table `mask_files`.

    Args:
        runs: whose files are wanted; those of other runs that have a plan are left out.
        mergers: that are pending. Where one has its target, its sources are left out: their rows have a new place.
    """
    moved = {source for merger in mergers if storage.exists(f"{table}/{merger.target}") for source in merger.sources}
    contents = Contents(parts=list(_parts(table)))
    masks: list[str] = []
    connection.execute("CREATE TABLE mask_files (mask_uri VARCHAR)")
    for file in storage.walk(table):
        path = file.uri.removeprefix(f"{table}/")
        part = part_of(path)
        if path == SCHEMA_FILE:
            continue
        if part is None:
            contents.foreign.append(path)
        elif part is MASKS:
            masks.append(file.uri)
            if len(masks) == CHUNK:
                _add_masks(masks, connection)
        elif part.name in contents.parquet and path not in moved:
            run = run_of(path)
            if run is None or run in runs or (run == NO_RUN and not part.divided_by):
                contents.parquet[part.name].append(path)
            elif not storage.exists(f"{table}/runs/{run}{PLAN_SUFFIX}"):
                (contents.unknown if part.divided_by == "run_date" else contents.foreign).append(path)
    _add_masks(masks, connection)
    return contents


def unreadable(table: str, paths: list[str]) -> Iterator[tuple[str, str]]:
    """Paths of Parquet files that can't be decoded to their end, or not by this version of the code, and why."""

    def reason(path: str) -> str:
        data = storage.read(f"{table}/{path}")
        try:
            file = pq.ParquetFile(pa.BufferReader(data))
            schema = int((file.metadata.metadata or {}).get(TABLE_SCHEMA_KEY, 1))
            if schema > TABLE_SCHEMA:
                return f"it has the table schema {schema}, newer than {TABLE_SCHEMA}: update diffad-ray"
            for _ in file.iter_batches():
                pass
        except (pa.ArrowException, OSError) as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(READERS) as pool:
        yield from ((path, why) for path, why in zip(paths, pool.map(reason, paths), strict=True) if why)


def _add_masks(masks: list[str], connection: duckdb.DuckDBPyConnection) -> None:
    connection.register("chunk", pa.table({"mask_uri": pa.array(masks, pa.string())}))
    connection.execute("INSERT INTO mask_files FROM chunk")
    masks.clear()


def _parts(table: str) -> Iterator[str]:
    """Files that writers to a local disk publish when they are whole; hidden, so that listings leave them out."""
    if storage.is_local(table):
        for folder, _, names in os.walk(table):
            yield from (f"{folder}/{name}" for name in names if name.startswith(".") and name.endswith(".part"))
