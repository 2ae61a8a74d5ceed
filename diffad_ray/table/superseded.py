"""Superseded rows: rows of earlier runs for images that a later run scores again.

When a run is planned, it is known which rows it will replace. They are written to `superseded/<run>.parquet` before
the plan. An entry is in force as soon as the new row exists. All entries of an ended run are in force; of another run,
those whose new rows are written. Readers leave these rows out. Compaction removes them and moves the entries to
`dropped/`.
"""

from __future__ import annotations

import duckdb

from diffad_ray import storage
from diffad_ray.scratch import scratch_folder
from diffad_ray.sql import connect, quoted
from diffad_ray.table.layout import TABLE_METADATA
from diffad_ray.table.parts import DROPPED, SCORES, SUPERSEDED, run_file
from diffad_ray.table.reading import has_rows, rows_in, rows_of
from diffad_ray.table.runs import Plan
from diffad_ray.table.snapshot import Snapshot

_IMAGE = "image_id, detector_fingerprint"
KEY = ", ".join(SUPERSEDED.key)


def write_superseded(connection: duckdb.DuckDBPyConnection, images: str, table: str, run_id: str) -> int:
    """Write the rows of a table that a run will supersede, before its plan is written; return their number.

    Args:
        images: SQL of the images that the run is going to score, with `image_id` and `detector_fingerprint`.
    """
    if not has_rows(table):
        return 0
    columns = f"{KEY}, status, is_anomalous, {quoted(run_id)} AS superseded_by"
    rows = f"SELECT {columns} FROM {rows_of(table, SCORES.name)} SEMI JOIN planned USING ({_IMAGE})"
    rows = f"WITH planned AS (SELECT {_IMAGE} FROM {images}) {rows}"
    return _write(connection, rows, run_file(table, SUPERSEDED.name, run_id))


def settle_superseded(plan: Plan) -> None:
    """Keep only those entries of an abandoned run whose new rows exist.

    This must happen after the missing shards of the run were closed and before its record is written.
    """
    file = run_file(plan.table, SUPERSEDED.name, plan.run_id)
    if not storage.exists(file):
        return
    with connect(plan.table) as connection:
        of_run = f"(FROM {rows_of(plan.table, SCORES.name)} WHERE run_id = {quoted(plan.run_id)})"
        kept = f"FROM {rows_in([file])} SEMI JOIN {of_run} AS new_row USING ({_IMAGE})"
        if not _write(connection, kept, file):
            storage.delete(file)


def entries_in_force(snapshot: Snapshot) -> str | None:
    """Return SQL of the superseded rows with the columns of `KEY`; None if there are none."""

    def located(paths: list[str]) -> list[str]:
        return [f"{snapshot.table}/{path}" for path in paths]

    parts = [f"SELECT {KEY} FROM {rows_in(located(snapshot.superseded))}"] if snapshot.superseded else []
    if snapshot.perhaps_superseded and snapshot.unended:
        new_rows = f"SELECT {_IMAGE}, run_id AS superseded_by FROM {rows_in(located(snapshot.unended))}"
        parts.append(
            f"SELECT {KEY} FROM {rows_in(located(snapshot.perhaps_superseded))} "
            f"SEMI JOIN ({new_rows}) USING ({_IMAGE}, superseded_by)"
        )
    return f"({' UNION ALL '.join(parts)})" if parts else None


def mark_dropped(table: str, paths: list[str]) -> None:
    """Move entries whose rows compaction has removed to `dropped/`. A process that dies meanwhile leaves both files."""
    for path in paths:
        storage.write(f"{table}/{DROPPED.name}/{path.rpartition('/')[2]}", storage.read(f"{table}/{path}"))
        storage.delete(f"{table}/{path}")


def _write(connection: duckdb.DuckDBPyConnection, rows: str, file: str) -> int:
    """Write entries in sorted order and return their number; write no file if there are none."""
    with scratch_folder() as scratch:
        local = scratch / "entries.parquet"
        copied = f"COPY (SELECT * FROM ({rows}) ORDER BY {KEY}) TO {quoted(str(local))}"
        ((count,),) = connection.execute(f"{copied} (FORMAT parquet, COMPRESSION zstd, {TABLE_METADATA})").fetchall()
        if count:
            storage.write(file, local.read_bytes())
    return int(count)
