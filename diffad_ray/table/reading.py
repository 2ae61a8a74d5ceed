"""Reads the table: a DuckDB connection at its location, and the views that queries see."""

from __future__ import annotations

import glob
import os
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import duckdb

from diffad_ray import storage
from diffad_ray.errors import UserError
from diffad_ray.scratch import scratch_folder
from diffad_ray.sql import connect as connect
from diffad_ray.sql import quoted
from diffad_ray.table.parts import REGIONS, SCORES, Part, completed
from diffad_ray.table.retention import kept_columns, read_rule
from diffad_ray.table.runs import refuse_newer_table

ATTEMPTS = 6
"At reading a table whose files are being compacted."
MOST_THREADS = 4
"Of DuckDB: each one that sorts needs its share of the memory."
MEMORY_LIMIT = "2GB"
"Of joins and sorts over a whole table; what needs more spills to the local disk."

_HINTS = re.compile(r"\n\n(?:For more info|Possible solutions|At:)|\nTraceback|\n\n?At:\n|\nExtension \"")
_KIND = re.compile(r"^(?:[A-Z][A-Za-z]* )+(?:Error|Exception): ")

Result = TypeVar("Result")


def bound(connection: duckdb.DuckDBPyConnection, memory: str, scratch: Path) -> None:
    """Let a connection hold so much memory, such as `1GB`; what needs more goes to a folder."""
    connection.execute(f"SET memory_limit = {quoted(memory)}")
    connection.execute(f"SET temp_directory = {quoted(str(scratch))}")
    connection.execute(f"SET threads = {min(MOST_THREADS, os.cpu_count() or 1)}")


@contextmanager
def connect_bounded(*locations: str) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection for work on a table of any size: what does not fit into memory goes to a temporary folder."""
    with scratch_folder() as scratch, connect(*locations) as connection:
        bound(connection, MEMORY_LIMIT, scratch)
        yield connection


def has_rows(table: str) -> bool:
    """Whether any run has written scores."""
    return storage.has_files(f"{table}/scores")


def existing(table: str) -> str:
    """The normalised location of a table.

    Raises:
        UserError: there is none, it can't be read, or it is of a newer schema version than this code knows.
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
    refuse_newer_table(table)
    return table


def rows_of(table: str, kind: str) -> str:
    """SQL for all rows of `scores` or `regions`, whatever run wrote them; `run_date` is a column.

    While a compaction goes on, rows may come twice, alike in every column.
    """
    pattern = quoted(f"{glob.escape(table)}/{kind}/run_date=*/*.parquet")
    if "=" not in table:
        return f"read_parquet({pattern}, hive_partitioning = true, union_by_name = true)"
    # Every `name=value` of the path would become a column, and take the place of the table's own of that name.
    rows = f"read_parquet({pattern}, hive_partitioning = false, union_by_name = true, filename = true)"
    run_date = "regexp_extract(filename, 'run_date=([^/]+)/[^/]*$', 1)::DATE AS run_date"
    return f"(SELECT * EXCLUDE (filename), {run_date} FROM {rows})"


def file_list(files: Iterable[str]) -> str:
    """Files as an SQL list for DuckDB's readers, which would take some characters of a name for wildcards."""
    return "[" + ", ".join(quoted(glob.escape(file)) for file in files) + "]"


def rows_in(files: Iterable[str]) -> str:
    """SQL for the rows of given Parquet files; columns that some of them lack are null there."""
    return f"read_parquet({file_list(files)}, union_by_name = true, hive_partitioning = false)"


@dataclass
class RowCounts:
    """How many rows of scores a run has: `by_status`, and of them `anomalous`."""

    by_status: dict[str, int] = field(default_factory=dict)
    anomalous: int = 0

    @property
    def rows(self) -> int:
        return sum(self.by_status.values())


def count_rows(connection: duckdb.DuckDBPyConnection, scores: str) -> defaultdict[str, RowCounts]:
    """Rows of scores by run, 0 for a run that has none; `scores` is what follows FROM."""
    counted: defaultdict[str, RowCounts] = defaultdict(RowCounts)
    figures = f"SELECT run_id, status, count(*), count(*) FILTER (is_anomalous) FROM {scores} GROUP BY ALL ORDER BY ALL"
    for run_id, status, rows, anomalous in connection.execute(figures).fetchall():
        counted[run_id].by_status[status] = rows
        counted[run_id].anomalous += anomalous
    return counted


def open_table(table: str) -> duckdb.DuckDBPyConnection:
    """Connect, with the views `scores` and `regions`: the last row of each image, and that row's regions.

    An image that failed and was scored again by a later run has rows of both, and each run's regions.

    Raises:
        UserError: there is no table.
    """
    table = existing(table)
    connection = connect(table)
    last = "QUALIFY row_number() OVER (PARTITION BY image_id, detector_fingerprint ORDER BY scored_at DESC, run_id) = 1"
    create_view(connection, table, SCORES, last, kept_columns(read_rule(table)))
    of_scores = f"SEMI JOIN scores USING ({', '.join(SCORES.key)})"
    once = f"QUALIFY row_number() OVER (PARTITION BY {', '.join(REGIONS.key)}) = 1"
    create_view(connection, table, REGIONS, f"{of_scores} {once}")
    return connection


def reason_of(error: Exception) -> str:
    """Why a query failed, in one paragraph: what DuckDB says, without the class of its error and its hints."""
    text = _HINTS.split(str(error))[0]
    lines = [line for line in text.splitlines() if line.strip(" ^")]
    return _KIND.sub("", " ".join(" ".join(lines).split()))


def create_view(connection: duckdb.DuckDBPyConnection, table: str, part: Part, chosen: str, columns: str = "*") -> None:
    """Create the view of a part, called as it is, with all columns that the part declares; of a table that was written
    before the part existed, a view without rows.

    Args:
        chosen: what follows the rows in SQL; it may name columns of schema version 1 only.
        columns: what follows SELECT; it may name those only, too.
    """

    def create(rows: str) -> None:
        connection.execute(f"CREATE OR REPLACE VIEW {part.name} AS SELECT {columns} FROM {rows} {chosen}")

    if part.since > 1 and not storage.has_files(f"{table}/{part.name}"):
        connection.register(f"no_{part.name}", part.columns.empty_table())
        create(f"no_{part.name}")
        return
    rows = rows_of(table, part.name)
    create(rows)
    # The catalogue knows the columns of a view; to ask for those of the rows would read the ends of all files again.
    names = "SELECT column_name FROM duckdb_columns() WHERE table_name = ?"
    present = [name for (name,) in connection.execute(names, [part.name]).fetchall()]
    whole = completed(rows, part, present, _types(connection, part))
    if whole != rows:
        create(whole)


def declared_rows(connection: duckdb.DuckDBPyConnection, part: Part, rows: str) -> str:
    """SQL for rows of a part with all columns that it declares: null where no file has one; `rows` follows FROM."""
    present = connection.sql(f"SELECT * FROM {rows}").columns
    return completed(rows, part, present, _types(connection, part))


def _types(connection: duckdb.DuckDBPyConnection, part: Part) -> dict[str, str]:
    """DuckDB's types of a part's columns."""
    declared = connection.from_arrow(part.columns.empty_table())
    return dict(zip(declared.columns, map(str, declared.types), strict=True))


def lacks_file(table: str, error: duckdb.Error) -> bool:
    """Whether a query may have failed because a file of the table went away after it was listed."""
    # Of a file on an object store, the error has no class of its own, and does not say which one.
    return (isinstance(error, duckdb.IOException) and table in str(error)) or "FileNotFoundError" in str(error)


def read_views(table: str, use: Callable[[duckdb.DuckDBPyConnection], Result]) -> Result:
    """What `use` makes of a table's views; it is called again if it did not get to its end.

    A query lists the files first and reads them then. A compaction may delete one in between, having put its rows into
    a larger file, which a new connection lists.

    Raises:
        UserError: there is no table.
        duckdb.Error: the query is wrong, or a file stays unreadable.
    """
    for attempt in range(ATTEMPTS - 1):
        try:
            with open_table(table) as connection:
                return use(connection)
        except duckdb.Error as error:
            if not lacks_file(storage.normalised(table), error):
                raise
            time.sleep(0.1 * 2**attempt)
    with open_table(table) as connection:
        return use(connection)


def ask_views(table: str, use: Callable[[duckdb.DuckDBPyConnection], Result]) -> Result:
    """`read_views` for queries of ours, which can't be wrong.

    Raises:
        UserError: there is no table, or it can't be read.
    """
    try:
        return read_views(table, use)
    except duckdb.Error as error:
        raise UserError(
            f"the table {table} can't be read: {reason_of(error)}. `diffad-ray verify {table}` names damaged files"
        ) from error
