"""The views `scores`, `regions`, `verdicts` and `all_verdicts` of a table.

`scores` and `regions` have each image once, with its last row. They read the files of a snapshot, and leave out
superseded rows by an anti-join. If there are no superseded rows, a view is a plain scan, so that filters and
projections reach the files.
`scores` judges by the thresholds in force, and has a column more than the files: `decision`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import duckdb
import pyarrow as pa

from diffad_ray import storage
from diffad_ray.errors import UserError
from diffad_ray.sql import reason_of
from diffad_ray.table.decisions import DECISION, judged_columns
from diffad_ray.table.parts import REGIONS, SCORES, SUPERSEDED, VERDICTS, completed
from diffad_ray.table.reading import connect, dated_rows, existing, no_rows, sql_types
from diffad_ray.table.retention import kept_columns, read_rule
from diffad_ray.table.schema import columns_of, read_schema
from diffad_ray.table.snapshot import take_snapshot
from diffad_ray.table.superseded import KEY, entries_in_force
from diffad_ray.table.thresholds import in_force
from diffad_ray.table.verdicts import create_verdicts

ATTEMPTS = 6
"Number of attempts to read a table while its files are compacted."
REGION_DATE = "region_date"
"Name of the partition column in the view `regions`. With the name `run_date`, joins with `scores` would be ambiguous."

Result = TypeVar("Result")


def open_table(table: str) -> duckdb.DuckDBPyConnection:
    """Open a connection with the views `scores`, the last row of each image, `regions`, the regions of these rows,
    `verdicts`, the last verdict of each image that people have judged, and `all_verdicts`, all that they said.

    Raises:
        UserError: the table does not exist.
        duckdb.Error: a file can't be read, or was removed after it was listed.
    """
    table = existing(table)
    # The schema is read before the files are listed. Later files may have more columns, but never fewer.
    found = read_schema(table)
    is_uniform = found is not None and found.is_uniform
    columns = {SCORES.name: columns_of(table, found), REGIONS.name: REGIONS.columns}
    try:
        snapshot = take_snapshot(table)
    except FileNotFoundError as error:
        raise duckdb.IOException(f"FileNotFoundError: {error}") from error
    entries = entries_in_force(snapshot)
    connection = connect(table, listed=[f"{table}/{part.name}" for part in (SCORES, REGIONS, SUPERSEDED, VERDICTS)])
    chosen = ""
    if entries:
        connection.execute(f"CREATE VIEW superseded AS FROM {entries}")
        chosen = f"ANTI JOIN superseded USING ({KEY})"
    shown = {SCORES.name: shown_columns(table), REGIONS.name: f"* RENAME (run_date AS {REGION_DATE})"}
    for part in (SCORES, REGIONS):
        files = snapshot.files[part.name]
        rows = dated_rows(table, files, is_uniform) if files else None
        create_view(connection, part.name, columns[part.name], rows, chosen, shown[part.name])
    create_verdicts(connection, (f"{table}/{path}" for path in snapshot.files[VERDICTS.name]))
    return connection


def shown_columns(table: str) -> str:
    """Return SQL after SELECT: the columns of `scores` by the retention rule and the thresholds in force."""
    judged = judged_columns(in_force(table))
    decision = judged.pop(DECISION)
    changed = kept_columns(read_rule(table)) | judged
    replaced = ", ".join(f"{sql} AS {name}" for name, sql in changed.items())
    return f"{f'* REPLACE ({replaced})' if replaced else '*'}, {decision} AS {DECISION}"


def create_view(
    connection: duckdb.DuckDBPyConnection,
    name: str,
    columns: pa.Schema,
    rows: str | None,
    chosen: str = "",
    shown: str = "*",
) -> None:
    """Create the view of a part with all its columns.

    Args:
        columns: columns of its files.
        rows: SQL after FROM; None if there are no files, which gives a view without rows.
        chosen: SQL after the rows.
        shown: SQL after SELECT.
    """
    if rows is None:
        connection.register(f"no_{name}", no_rows(columns.append(pa.field("run_date", pa.date32()))))
        rows = f"no_{name}"

    def create(rows: str) -> None:
        connection.execute(f"CREATE OR REPLACE VIEW {name} AS SELECT {shown} FROM {rows} {chosen}")

    create(rows)
    # The catalogue has the columns of the view. DESCRIBE on the rows would read the footers of all files again.
    present = "SELECT column_name FROM duckdb_columns() WHERE table_name = ?"
    names = [name for (name,) in connection.execute(present, [name]).fetchall()]
    whole = completed(rows, names, sql_types(connection, columns))
    if whole != rows:
        create(whole)


def lacks_file(table: str, error: duckdb.Error) -> bool:
    """Return whether a query may have failed because a file was removed after it was listed."""
    # For a file on an object store, the error has no class of its own and does not name the file.
    return (isinstance(error, duckdb.IOException) and table in str(error)) or "FileNotFoundError" in str(error)


def read_views(table: str, use: Callable[[duckdb.DuckDBPyConnection], Result]) -> Result:
    """Return the result of `use` on the views of a table; repeat it if a file was removed meanwhile.

    A query lists the files and then reads them. A compaction may delete a file in between, after it has written the
    rows to a larger file. A new connection lists the larger file.

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
    """Do what `read_views` does, for queries of this package: DuckDB's errors become a UserError.

    Raises:
        UserError: there is no table, or it can't be read.
    """
    try:
        return read_views(table, use)
    except duckdb.Error as error:
        raise UserError(
            f"the table {table} can't be read: {reason_of(error)}. `diffad-ray verify {table}` names damaged files"
        ) from error
