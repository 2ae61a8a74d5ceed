"""`query`: SQL over a table of scores."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import duckdb

from diffad_ray.errors import UserError
from diffad_ray.scoring.table import open_table, quoted

if TYPE_CHECKING:
    import pyarrow as pa

FORMATS = {"csv": "FORMAT csv, HEADER", "json": "FORMAT json, ARRAY true", "parquet": "FORMAT parquet"}


def query(table: str | Path, sql: str) -> pa.Table:
    """The result of a query over the views `scores` and `regions`, as an Arrow table.

    Raises:
        UserError: there is no table, or the query is wrong.
    """
    connection = open_table(str(table))
    try:
        return connection.sql(_single(sql)).to_arrow_table()
    except duckdb.Error as error:
        raise UserError(_explained(error)) from error


def query_to_file(table: str | Path, sql: str, output: str | Path, output_format: str) -> None:
    """Write a query's result to a local file, as `csv`, `json` or `parquet`.

    Raises:
        UserError: another format, no table, a wrong query, or no permission to write.
    """
    if output_format not in FORMATS:
        raise UserError(f"unknown format {output_format!r}: take one of {', '.join(FORMATS)}")
    connection = open_table(str(table))
    try:
        connection.execute(f"COPY ({_single(sql)}) TO {quoted(str(output))} ({FORMATS[output_format]})")
    except duckdb.Error as error:
        raise UserError(_explained(error)) from error


def _single(sql: str) -> str:
    statement = sql.strip().rstrip(";").strip()
    if not statement:
        raise UserError('the query is empty: write something like "SELECT status, count(*) FROM scores GROUP BY 1"')
    return statement


def _explained(error: duckdb.Error) -> str:
    return f"the query failed: {error}\nThe views are scores and regions; `DESCRIBE scores` lists the columns"
