"""`query`: SQL over a table of scores."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import duckdb

from diffad_ray.errors import UserError
from diffad_ray.table.layout import quoted
from diffad_ray.table.reading import open_table, read_views

if TYPE_CHECKING:
    import pyarrow as pa

FORMATS = {"csv": "FORMAT csv, HEADER", "json": "FORMAT json, ARRAY true", "parquet": "FORMAT parquet"}


def query(table: str | Path, sql: str) -> pa.Table:
    """The result of a query over the views `scores` and `regions`, as an Arrow table.

    Raises:
        UserError: there is no table, or the query is wrong.
    """
    statement = _single(sql)
    try:
        return read_views(str(table), lambda connection: connection.sql(statement).to_arrow_table())
    except duckdb.Error as error:
        raise UserError(_explained(error)) from error


def query_to_file(table: str | Path, sql: str, output: str | Path, output_format: str) -> None:
    """Write a query's result to a local file, as `csv`, `json` or `parquet`.

    Raises:
        UserError: another format, no table, a wrong query, or no permission to write.
    """
    if output_format not in FORMATS:
        raise UserError(f"unknown format {output_format!r}: take one of {', '.join(FORMATS)}")
    copy = f"COPY ({_single(sql)}) TO {quoted(str(output))} ({FORMATS[output_format]})"
    try:
        if Path(output).is_relative_to("/dev"):
            # A stream cannot take back what it gave out, so there is no second attempt.
            open_table(str(table)).execute(copy)
        else:
            read_views(str(table), lambda connection: connection.execute(copy))
    except duckdb.Error as error:
        raise UserError(_explained(error)) from error


def _single(sql: str) -> str:
    statement = sql.strip().rstrip(";").strip()
    if not statement:
        raise UserError('the query is empty: write something like "SELECT status, count(*) FROM scores GROUP BY 1"')
    return statement


def _explained(error: duckdb.Error) -> str:
    return f"the query failed: {error}\nThe views are scores and regions; `DESCRIBE scores` lists the columns"
