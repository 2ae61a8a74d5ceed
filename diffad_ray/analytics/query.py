"""`query`: SQL over a table of scores."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import duckdb

from diffad_ray import storage
from diffad_ray.analytics.parts import create_parts
from diffad_ray.errors import UserError
from diffad_ray.scratch import scratch_folder
from diffad_ray.sql import reason_of
from diffad_ray.table.layout import quoted
from diffad_ray.table.views import open_table, read_views

if TYPE_CHECKING:
    import pyarrow as pa

FORMATS = {
    "csv": "FORMAT csv, HEADER",
    "tsv": r"FORMAT csv, HEADER, DELIMITER '\t'",
    "json": "FORMAT json, ARRAY true",
    "parquet": "FORMAT parquet",
}


def query(table: str | Path, sql: str, *, group_by: str | None = None) -> pa.Table:
    """The result of a query over the views `scores`, `regions` and `verdicts`, as an Arrow table.

    Args:
        group_by: a column that is the same for all images of a part, such as `serial`; the query may then read the view
            `parts` too, see `create_parts`.

    Raises:
        UserError: there is no table or no such column, or the query is wrong.
    """
    statement = _single(sql)
    try:
        return read_views(str(table), lambda connection: _result(connection, statement, group_by).to_arrow_table())
    except duckdb.Error as error:
        raise UserError(_explained(error)) from error


def query_to_file(
    table: str | Path, sql: str, output: str | Path, output_format: str, *, group_by: str | None = None
) -> None:
    """Write a query's result to a file or URI, as `csv`, `tsv`, `json` or `parquet`; see `query`.

    Raises:
        UserError: another format, no table or no such column, a wrong query, or no permission to write.
    """
    if output_format not in FORMATS:
        raise UserError(f"unknown format {output_format!r}: take one of {', '.join(FORMATS)}")
    statement = _single(sql)
    location = str(output)
    if not storage.is_local(location):
        with scratch_folder() as scratch:
            _copy(table, statement, str(scratch / "result"), output_format, group_by)
            try:
                storage.write(location, (scratch / "result").read_bytes())
            except OSError as error:
                raise UserError(f"the result can't be written: {error}") from error
        return
    location = location.removeprefix("file://")
    if not Path(location).parent.is_dir():
        raise UserError(f"the result can't be written to {location}: there is no folder {Path(location).parent}")
    _copy(table, statement, location, output_format, group_by)


def _copy(table: str | Path, statement: str, file: str, output_format: str, group_by: str | None) -> None:
    """Write a statement's result to a local file or stream."""

    def copy(connection: duckdb.DuckDBPyConnection) -> None:
        # DuckDB finds the variable by its name; as text within COPY, some statements are not taken.
        result_of_query = _result(connection, statement, group_by)  # noqa: F841
        connection.execute(f"COPY (FROM result_of_query) TO {quoted(file)} ({FORMATS[output_format]})")

    try:
        if Path(file).is_relative_to("/dev"):
            # A stream cannot take back what it gave out, so there is no second attempt.
            copy(open_table(str(table)))
        else:
            read_views(str(table), copy)
    except duckdb.Error as error:
        raise UserError(_explained(error)) from error


def _result(connection: duckdb.DuckDBPyConnection, statement: str, group_by: str | None) -> duckdb.DuckDBPyRelation:
    if group_by is not None:
        create_parts(connection, group_by)
    found = connection.sql(statement)
    if found is None:
        raise UserError("the query gives no rows: write a SELECT")
    return found


def _single(sql: str) -> str:
    """The one statement of a query, without the semicolons and comments behind it.

    Raises:
        UserError: there is none, or several.
    """
    try:
        statements = duckdb.extract_statements(sql)
    except duckdb.Error as error:
        raise UserError(_explained(error)) from error
    if not statements:
        raise UserError('the query is empty: write something like "SELECT status, count(*) FROM scores GROUP BY 1"')
    if len(statements) > 1:
        raise UserError(f"the query has {len(statements)} statements, divided by semicolons: give one at a time")
    text = sql.encode()
    end = len(text)
    for start, kind in reversed(duckdb.tokenize(sql)):
        if kind != duckdb.token_type.comment and text[start:end].strip() != b";":
            break
        end = start
    return text[:end].decode()


def _explained(error: duckdb.Error) -> str:
    reason = reason_of(error)
    if "extension" in reason and ("install" in reason or "download" in reason):
        reason = "it needs an extension of DuckDB, which is not there; files beside the table are not for queries"
    views = "The views are scores, regions, verdicts and all_verdicts; `DESCRIBE scores` lists the columns"
    return f"the query failed: {reason}\n{views}"
