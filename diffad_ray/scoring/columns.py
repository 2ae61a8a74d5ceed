"""Types of the columns that manifests and templates bring along: few kinds, and from night to night the table's own.

Tools write a column of one meaning with different types: whole numbers with a gap are doubles, a column without any
value has no type. A table has one type for a column, as not every engine reads two.
"""

from __future__ import annotations

from collections.abc import Set
from typing import Any, NamedTuple

import duckdb
import pyarrow as pa

from diffad_ray.errors import UserError
from diffad_ray.sql import identifier
from diffad_ray.table.layout import SCORES
from diffad_ray.table.parts import completed
from diffad_ray.table.reading import sql_types
from diffad_ray.table.schema import scores_schema


class _Kind(NamedTuple):
    """How values are stored: the type in SQL and in Arrow."""

    sql: str
    arrow: pa.DataType


_WHOLE = _Kind("BIGINT", pa.int64())
_NUMBER = _Kind("DOUBLE", pa.float64())
_TEXT = _Kind("VARCHAR", pa.string())
_MOMENT = _Kind("TIMESTAMP", pa.timestamp("us"))
_STORED = {
    **dict.fromkeys(("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER"), _WHOLE),
    **dict.fromkeys(("FLOAT", "DOUBLE"), _NUMBER),
    **dict.fromkeys(("VARCHAR", "UUID"), _TEXT),
    **dict.fromkeys(("TIMESTAMP", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS"), _MOMENT),
    "UBIGINT": _Kind("UBIGINT", pa.uint64()),
    "TIMESTAMP WITH TIME ZONE": _Kind("TIMESTAMP WITH TIME ZONE", pa.timestamp("us", "UTC")),
    "BOOLEAN": _Kind("BOOLEAN", pa.bool_()),
    "DATE": _Kind("DATE", pa.date32()),
    "TIME": _Kind("TIME", pa.time64("us")),
    "BLOB": _Kind("BLOB", pa.binary()),
    '"NULL"': _WHOLE,
}
"By DuckDB's types of what is read. The last one is that of columns without any value."
_NUMBERS = (
    "TINYINT",
    "SMALLINT",
    "INTEGER",
    "BIGINT",
    "UTINYINT",
    "USMALLINT",
    "UINTEGER",
    "UBIGINT",
    "FLOAT",
    "DOUBLE",
)
_TIMES = ("DATE", "TIMESTAMP", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS", "TIMESTAMP WITH TIME ZONE")


def stored_type(value: str, kind: str, origin: str, name: str) -> tuple[pa.DataType, str]:
    """The Arrow type in which a column is stored, and the SQL of its values.

    Args:
        value: SQL of a value; `kind`: its type in DuckDB.
        origin: what gives the column, for messages.

    Raises:
        UserError: the table takes no such type.
    """
    stored = _TEXT if kind.startswith("ENUM") else _STORED.get(kind)
    if stored is None:
        raise UserError(
            f"{origin} gives the column {name!r} values of the type {kind}, which the table does not take: write "
            "numbers, text, true and false, dates or moments, or leave the column out"
        )
    return stored.arrow, value if stored.sql == kind else f"CAST({value} AS {stored.sql})"


class Fitted(NamedTuple):
    """Rows whose columns have the types that the table has: SQL, the columns, and what the user should know."""

    rows: str
    columns: pa.Schema
    notes: list[str]


class _Change(NamedTuple):
    """How a column becomes one of the table's type: SQL of its values, and of whether one is lost by it."""

    value: str
    is_lost: str


def fit_columns(
    connection: duckdb.DuckDBPyConnection,
    rows: str,
    columns: pa.Schema,
    brought: Set[str],
    untyped: Set[str],
    table: str,
) -> Fitted:
    """Give columns the types that a table has for them, where every value stays what it is. A column without values
    that the table lacks is left out, as nobody knows its type yet.

    Args:
        rows: SQL of a table that has the columns.
        brought: names of columns that a manifest brings along.
        untyped: those of them that are text because the manifest has no types.

    Raises:
        UserError: a column would need two types.
    """
    known = scores_schema(table)
    if not columns.names:
        return _with_all(Fitted(rows, columns, []), known, connection)
    before = _schema(connection, known.empty_table())
    now = _schema(connection, rows)
    counted = ", ".join(f"count({_value(name, now[name].sql)})" for name in columns.names)
    counts = dict(zip(columns.names, connection.execute(f"SELECT {counted} FROM {rows}").fetchone() or (), strict=True))
    changes: dict[str, _Change | None] = {}
    dropped = []
    for name in columns.names:
        if name not in before:
            if not counts[name] and name in brought and now[name].arrow != pa.string():
                dropped.append(name)
        elif now[name] != before[name]:
            changes[name] = _change(name, now[name].sql, before[name].sql, bool(counts[name]), name in untyped)
    _refuse_lost(connection, rows, changes, before, now, table)
    if not changes and not dropped:
        return _with_all(Fitted(rows, columns, []), known, connection)
    replaced = ", ".join(f"{change.value} AS {identifier(name)}" for name, change in changes.items() if change)
    excluded = ", ".join(map(identifier, dropped))
    fitted = (
        "(SELECT *" + (f" EXCLUDE ({excluded})" if excluded else "") + (f" REPLACE ({replaced})" if replaced else "")
    )
    fields = [
        pa.field(field.name, before[field.name].arrow) if field.name in changes else field
        for field in columns
        if field.name not in dropped
    ]
    notes = [f"the column {name} has no values and is left out" for name in dropped]
    return _with_all(Fitted(f"{fitted} FROM {rows})", pa.schema(fields), notes), known, connection)


def _with_all(fitted: Fitted, known: pa.Schema, connection: duckdb.DuckDBPyConnection) -> Fitted:
    """The rows with all columns of the table, null where this run brings no values; new ones are the last."""
    users = [field for field in known if field.name not in SCORES.names]
    lacking = pa.schema([field for field in users if field.name not in fitted.columns.names])
    new = [field for field in fitted.columns if field.name not in known.names]
    types = sql_types(connection, lacking) if lacking.names else {}
    return fitted._replace(rows=completed(fitted.rows, [], types), columns=pa.schema([*users, *new]))


def _schema(connection: duckdb.DuckDBPyConnection, rows: str | pa.Table) -> dict[str, _Kind]:
    """The types of the columns of some rows."""
    found = connection.sql(f"SELECT * FROM {rows} LIMIT 0") if isinstance(rows, str) else connection.from_arrow(rows)
    arrow = found.to_arrow_table().schema
    return {
        name: _Kind(str(kind), field.type) for name, kind, field in zip(found.columns, found.types, arrow, strict=True)
    }


def _value(name: str, kind: str) -> str:
    """SQL: a value of a column; null where it is no number."""
    column = identifier(name)
    return f"CASE WHEN NOT isnan({column}) THEN {column} END" if kind in ("FLOAT", "DOUBLE") else column


def _change(name: str, kind: str, wanted: str, has_values: bool, is_untyped: bool) -> _Change | None:
    """How a column takes the table's type; None where the types have nothing in common."""
    value = _value(name, kind)
    if not has_values:
        return _Change(f"CAST(NULL AS {wanted})", "false")
    cast = f"TRY_CAST({value} AS {wanted})"
    if any(kind in family and wanted in family for family in (_NUMBERS, _TIMES)):
        return _Change(cast, f"{value} IS NOT NULL AND CAST({cast} AS {kind}) IS DISTINCT FROM {value}")
    if is_untyped and wanted in (*_NUMBERS, *_TIMES, "BOOLEAN"):
        # 007 is a name and no number.
        back = f"{cast}::VARCHAR" if wanted in _NUMBERS and wanted not in ("FLOAT", "DOUBLE") else value
        return _Change(cast, f"{value} IS NOT NULL AND ({cast} IS NULL OR {back} <> {value})")
    return None


def _refuse_lost(
    connection: duckdb.DuckDBPyConnection,
    rows: str,
    changes: dict[str, _Change | None],
    before: dict[str, _Kind],
    now: dict[str, _Kind],
    table: str,
) -> None:
    """Raise UserError for a column that can't take the table's type."""
    examples: dict[str, Any] = dict.fromkeys(changes)
    possible = {name: change for name, change in changes.items() if change}
    if possible:
        lost = [
            f"CAST(min({identifier(name)}) FILTER ({change.is_lost}) AS VARCHAR)" for name, change in possible.items()
        ]
        examples |= dict(
            zip(possible, connection.execute(f"SELECT {', '.join(lost)} FROM {rows}").fetchone() or (), strict=True)
        )
    for name, change in changes.items():
        if change is None or examples[name] is not None:
            shown = "" if examples[name] is None else f" ({examples[name]})"
            raise UserError(
                f"the column {name!r} is {before[name].arrow} in the table {table} and would be {now[name].arrow} "
                f"now{shown}: call it otherwise in the template or manifest"
            )
