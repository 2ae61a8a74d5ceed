"""Reads the rows of a table with DuckDB: connections, SQL of rows, and counts."""

from __future__ import annotations

import glob
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import duckdb
import pyarrow as pa

from diffad_ray import storage
from diffad_ray.errors import UserError
from diffad_ray.scratch import scratch_folder
from diffad_ray.sql import connect as connect
from diffad_ray.sql import quoted
from diffad_ray.table.parts import completed
from diffad_ray.table.runs import refuse_other_table

MOST_THREADS = 4
"Most threads of DuckDB. Each thread that sorts needs a share of the memory."
MEMORY_LIMIT = "2GB"
"Memory for joins and sorts over a whole table. DuckDB writes what needs more to the local disk."


def bound(connection: duckdb.DuckDBPyConnection, memory: str, scratch: Path) -> None:
    """Limit the memory of a connection, such as to `1GB`; DuckDB writes what needs more to the folder `scratch`."""
    connection.execute(f"SET memory_limit = {quoted(memory)}")
    connection.execute(f"SET temp_directory = {quoted(str(scratch))}")
    connection.execute(f"SET threads = {min(MOST_THREADS, os.cpu_count() or 1)}")


@contextmanager
def connect_bounded(*locations: str, listed: Iterable[str] = ()) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open a connection for tables of any size: what does not fit into the memory goes to a temporary folder."""
    with scratch_folder() as scratch, connect(*locations, listed=listed) as connection:
        bound(connection, MEMORY_LIMIT, scratch)
        yield connection


def has_rows(table: str) -> bool:
    """Return whether any run has written scores."""
    return storage.has_files(f"{table}/scores")


def existing(table: str) -> str:
    """Return the normalised location of a table.

    Raises:
        UserError: there is no table, it can't be read, or this code does not know its schema version.
    """
    table = storage.normalised(table)
    try:
        found = has_rows(table)
    except OSError as error:
        raise UserError(f"the table {table} can't be read: {error}") from error
    if not found:
        raise UserError(
            f"no table at {table}: it has no scores. Make one with "
            f"`diffad-ray score ARCHIVE --detector DETECTOR --table {table}`"
        )
    refuse_other_table(table)
    return table


def rows_of(table: str, kind: str) -> str:
    """Return SQL for all rows of `scores` or `regions` of any run; `run_date` is one of the columns.

    During a compaction, a row may occur twice with the same values in all columns.
    """
    pattern = quoted(f"{glob.escape(table)}/{kind}/run_date=*/*.parquet")
    return _dated(table, pattern, "union_by_name = true")


def file_list(files: Iterable[str]) -> str:
    """Return files as an SQL list for DuckDB. Characters that DuckDB would read as wildcards are escaped."""
    return "[" + ", ".join(quoted(glob.escape(file)) for file in files) + "]"


def rows_in(files: Iterable[str]) -> str:
    """Return SQL for the rows of Parquet files. A column that a file lacks is null in its rows."""
    return f"read_parquet({file_list(files)}, union_by_name = true, hive_partitioning = false)"


def dated_rows(table: str, paths: Iterable[str], is_uniform: bool) -> str:
    """Return SQL for the rows of files in folders by date. DuckDB skips files by conditions on the column `run_date`.

    Args:
        paths: paths within the table.
        is_uniform: whether the first file has all wanted columns. Otherwise DuckDB reads the footers of all files.
    """
    options = f"union_by_name = {str(not is_uniform).lower()}"
    return _dated(table, file_list(f"{table}/{path}" for path in paths), options)


def _dated(table: str, files: str, options: str) -> str:
    if "=" not in table:
        partition = "hive_partitioning = true, hive_types = {'run_date': DATE}"
        return f"read_parquet({files}, {partition}, {options})"
    # With hive partitioning, each `name=value` of the table's path would become a column, and would replace the column
    # of this name that the table has.
    rows = f"read_parquet({files}, hive_partitioning = false, filename = true, {options})"
    run_date = "regexp_extract(filename, 'run_date=([^/]+)/[^/]*$', 1)::DATE AS run_date"
    return f"(SELECT * EXCLUDE (filename), {run_date} FROM {rows})"


@dataclass
class RowCounts:
    """The number of rows of a run, by status, and the number of rows whose image is anomalous."""

    by_status: dict[str, int] = field(default_factory=dict)
    anomalous: int = 0

    @property
    def rows(self) -> int:
        return sum(self.by_status.values())


def count_rows(connection: duckdb.DuckDBPyConnection, scores: str) -> defaultdict[str, RowCounts]:
    """Count the rows of scores by run. The counts of a run without rows are 0.

    Args:
        scores: SQL after FROM.
    """
    counted: defaultdict[str, RowCounts] = defaultdict(RowCounts)
    figures = f"SELECT run_id, status, count(*), count(*) FILTER (is_anomalous) FROM {scores} GROUP BY ALL ORDER BY ALL"
    for run_id, status, rows, anomalous in connection.execute(figures).fetchall():
        counted[run_id].by_status[status] = rows
        counted[run_id].anomalous += anomalous
    return counted


def declared_rows(connection: duckdb.DuckDBPyConnection, columns: pa.Schema, rows: str) -> str:
    """Return SQL for rows with all declared columns. A column that no file has is null.

    Args:
        rows: SQL after FROM.
    """
    return completed(rows, connection.sql(f"SELECT * FROM {rows}").columns, sql_types(connection, columns))


def no_rows(columns: pa.Schema) -> pa.Table:
    """Return a table without rows. `Schema.empty_table` would import pandas, which takes longer than a short query."""
    return pa.Table.from_batches([], columns)


def sql_types(connection: duckdb.DuckDBPyConnection, columns: pa.Schema) -> dict[str, str]:
    """Return DuckDB's types of columns by name."""
    declared = connection.from_arrow(no_rows(columns))
    return dict(zip(declared.columns, map(str, declared.types), strict=True))
