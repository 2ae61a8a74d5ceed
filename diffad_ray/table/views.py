"""The views `scores` and `regions`: what queries see of a table.

Each image is there once, with its last row: the files are those of a snapshot, and superseded rows are left out by an
anti-join with the few that there are. Where there are none, a view is a plain scan, so that filters and projections
reach the files.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import duckdb
import pyarrow as pa

from diffad_ray import storage
from diffad_ray.errors import UserError
from diffad_ray.table.parts import REGIONS, SCORES, completed
from diffad_ray.table.reading import connect, dated_rows, existing, reason_of, sql_types
from diffad_ray.table.retention import kept_columns, read_rule
from diffad_ray.table.schema import read_schema, scores_schema
from diffad_ray.table.snapshot import take_snapshot
from diffad_ray.table.superseded import KEY, entries_in_force

ATTEMPTS = 6
"At reading a table whose files are being compacted."
REGION_DATE = "region_date"
"The partition of a region in its view: with the name of the scores' column, joins of both would be ambiguous."

Result = TypeVar("Result")


def open_table(table: str) -> duckdb.DuckDBPyConnection:
    """Connect, with the views `scores` and `regions`: the last row of each image, and that row's regions.

    Raises:
        UserError: there is no table.
        duckdb.Error: a file can't be read, or went away after it was listed.
    """
    table = existing(table)
    # Before the files are listed: those that come later may have more columns, and never fewer.
    found = read_schema(table)
    is_uniform = found is not None and found.is_uniform
    columns = {SCORES.name: scores_schema(table), REGIONS.name: REGIONS.columns}
    try:
        snapshot = take_snapshot(table)
    except FileNotFoundError as error:
        raise duckdb.IOException(f"FileNotFoundError: {error}") from error
    entries = entries_in_force(snapshot)
    connection = connect(table)
    chosen = ""
    if entries:
        connection.execute(f"CREATE VIEW superseded AS FROM {entries}")
        chosen = f"ANTI JOIN superseded USING ({KEY})"
    shown = {SCORES.name: kept_columns(read_rule(table)), REGIONS.name: f"* RENAME (run_date AS {REGION_DATE})"}
    for part in (SCORES, REGIONS):
        files = snapshot.files[part.name]
        rows = dated_rows(table, files, is_uniform) if files else None
        create_view(connection, part.name, columns[part.name], rows, chosen, shown[part.name])
    return connection


def create_view(
    connection: duckdb.DuckDBPyConnection,
    name: str,
    columns: pa.Schema,
    rows: str | None,
    chosen: str = "",
    shown: str = "*",
) -> None:
    """Create the view of a part with all columns that it should have.

    Args:
        columns: of its files.
        rows: what follows FROM; None where there are no files, and the view has no rows.
        chosen: what follows the rows in SQL; `shown`: what follows SELECT.
    """
    if rows is None:
        connection.register(f"no_{name}", columns.append(pa.field("run_date", pa.date32())).empty_table())
        rows = f"no_{name}"

    def create(rows: str) -> None:
        connection.execute(f"CREATE OR REPLACE VIEW {name} AS SELECT {shown} FROM {rows} {chosen}")

    create(rows)
    # The catalogue knows the columns of a view; to ask for those of the rows would read the ends of all files again.
    present = "SELECT column_name FROM duckdb_columns() WHERE table_name = ?"
    names = [name for (name,) in connection.execute(present, [name]).fetchall()]
    whole = completed(rows, names, sql_types(connection, columns))
    if whole != rows:
        create(whole)


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
