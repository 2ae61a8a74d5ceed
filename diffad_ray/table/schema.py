"""The columns of a table, equal for all runs, so that every engine finds the same columns in every file.

`TABLE/schema.json` has the union of the columns of all runs. A run writes all of them, with nulls for columns that it
has no values for. Compaction adds missing columns to older files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa

from diffad_ray import storage
from diffad_ray.errors import UserError
from diffad_ray.sql import connect
from diffad_ray.table.documents import document, parsed
from diffad_ray.table.layout import parquet_bytes
from diffad_ray.table.parts import NO_RUN, REGIONS, SCHEMA_FILE, SCORES, SUPERSEDED, run_file
from diffad_ray.table.reading import has_rows, rows_of

_TYPES = {
    str(kind): kind
    for kind in (
        *SCORES.columns.types,
        pa.uint64(),
        pa.date32(),
        pa.time64("us"),
        pa.timestamp("us"),
        pa.binary(),
    )
}
"Types of columns by their names in the document."


@dataclass(frozen=True)
class TableSchema:
    """The content of `schema.json`.

    Attributes:
        columns: names and types of all columns of `scores` in order, without `run_date`, which the files lack.
        regions: names of the columns of `regions`.
        is_uniform: whether all files have all columns. An engine then needs the footer of one file only.
    """

    columns: dict[str, str]
    regions: list[str]
    is_uniform: bool

    @property
    def arrow(self) -> pa.Schema:
        return pa.schema([(name, _TYPES[kind]) for name, kind in self.columns.items()])


def read_schema(table: str) -> TableSchema | None:
    """Return the columns of a table; None if it has no `schema.json`.

    Raises:
        UserError: the document is damaged, or of a newer schema version.
    """
    location = f"{table}/{SCHEMA_FILE}"
    try:
        found = parsed(TableSchema, storage.read(location), location)
    except FileNotFoundError:
        return None
    if not isinstance(found.columns, Mapping) or not set(found.columns.values()) <= _TYPES.keys():
        raise UserError(f"{location} is damaged: restore it, or delete it, and the next run writes it again")
    return found


def scores_schema(table: str) -> pa.Schema:
    """Return the columns of `scores`: the declared ones, then those of users."""
    return columns_of(table, read_schema(table))


def columns_of(table: str, found: TableSchema | None) -> pa.Schema:
    """Return what `scores_schema` does, from a document that was read already."""
    known = found.arrow if found else _columns_of_files(table)
    return pa.schema([*SCORES.columns, *(field for field in known if field.name not in SCORES.columns.names)])


def _columns_of_files(table: str) -> pa.Schema:
    """Return the columns of the files, for a table that has lost its `schema.json`."""
    if not has_rows(table):
        return pa.schema([])
    with connect(table) as connection:
        found = connection.sql(f"SELECT * EXCLUDE (run_date) FROM {rows_of(table, SCORES.name)} LIMIT 0")
        columns: pa.Schema = found.to_arrow_table().schema
    return columns


def write_schema(table: str, columns: pa.Schema, is_uniform: bool) -> None:
    """Write the columns of `scores`. The caller must hold the lease of the table."""
    kinds = {field.name: str(field.type) for field in columns}
    data = document(TableSchema(kinds, REGIONS.columns.names, is_uniform))
    location = f"{table}/{SCHEMA_FILE}"
    if not (storage.exists(location) and storage.read(location) == data):
        storage.write(location, data)


def new_columns(table: str, brought: pa.Schema) -> list[str]:
    """Return the names of a run's columns that the files of earlier runs lack."""
    if not brought.names or not has_rows(table):
        return []
    known = scores_schema(table).names
    return [name for name in brought.names if name not in known]


def extend_schema(table: str, brought: pa.Schema) -> None:
    """Add the columns of a run that is being planned. The caller must hold the lease of the table.

    The first run creates the document.
    """
    found = read_schema(table)
    columns = scores_schema(table)
    new = [field for field in brought if field.name not in columns.names]
    if found is None:
        storage.write(run_file(table, SUPERSEDED.name, NO_RUN), parquet_bytes(SUPERSEDED.columns.empty_table()))
    is_begun = has_rows(table)
    was_uniform = found is not None and found.is_uniform
    # This code may declare more columns than the code that wrote the files.
    has_all = (
        found is not None and {*columns.names} <= {*found.columns} and {*REGIONS.columns.names} <= {*found.regions}
    )
    is_uniform = not is_begun or (was_uniform and has_all and not new)
    write_schema(table, pa.schema([*columns, *new]), is_uniform)
