"""JSON documents of a table, read back by any version of this code, newer or older than their writer."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any, TypeVar

from diffad_ray import storage
from diffad_ray.errors import UserError
from diffad_ray.versions import OLDEST_TABLE_SCHEMA, TABLE_SCHEMA

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

D = TypeVar("D", bound="DataclassInstance")
READERS = 8
"Number of documents that are read at the same time."
_SCHEMA = "table_schema"
"The entry with the schema version of the code that wrote a document; documents without it are of version 1."


def document(values: DataclassInstance) -> bytes:
    """A dataclass as JSON, with the schema version of this code."""
    return json.dumps({_SCHEMA: TABLE_SCHEMA, **asdict(values)}, indent=1).encode()


def parsed(kind: type[D], data: bytes, location: str, **known: Any) -> D:
    """A dataclass from its JSON; what it does not know is left out, what it lacks takes its default.

    Args:
        location: of the document, for messages.
        known: values that stand for those in the document.

    Raises:
        UserError: its writer has a newer schema version than this code knows, it is damaged, or it lacks what this
            version needs.
    """
    try:
        values = json.loads(data) | known
        # Before anything else is looked at: what a newer document lacks or holds is no damage.
        refuse_newer(values.get(_SCHEMA, 1), location)
        return kind(**{field.name: values[field.name] for field in fields(kind) if field.name in values})
    except (ValueError, TypeError) as error:
        raise UserError(
            f"{location} is damaged, or written by another version of diffad-ray ({error}): update diffad-ray where "
            "it is older, or move the file away"
        ) from error


def read_documents(table: str, part: str, kind: type[D]) -> list[D]:
    """Return all documents of a part of a table in the order of their names; none if the part does not exist.

    Raises:
        UserError: the table can't be read, a document is damaged, or it is of a newer schema version.
    """

    def read(uri: str) -> D:
        return parsed(kind, storage.read(uri), uri)

    try:
        files = sorted(file.uri for file in storage.walk(f"{table}/{part}"))
        with ThreadPoolExecutor(READERS) as pool:
            return list(pool.map(read, files))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"the table {table} can't be read: {error}") from error


def refuse_newer(schema: int, location: str) -> None:
    """Raise UserError if something of a table has a newer schema version than this code knows."""
    if schema > TABLE_SCHEMA:
        raise UserError(
            f"{location} has the table schema {schema}, and this diffad-ray knows none newer than {TABLE_SCHEMA}: "
            "update diffad-ray"
        )


def refuse_unreleased(schema: int, location: str) -> None:
    """Raise UserError if something of a table was written by a version before the first release."""
    if schema < OLDEST_TABLE_SCHEMA:
        raise UserError(
            f"{location} has the table schema {schema}, of a version that was never released; this diffad-ray reads "
            f"{OLDEST_TABLE_SCHEMA} and newer ones: score the archive into a new table"
        )


def schema_of(data: bytes) -> int:
    """The schema version of a document, whatever else it holds; this code's where it is damaged."""
    try:
        return int(json.loads(data).get(_SCHEMA, 1))
    except (ValueError, TypeError, AttributeError):
        return TABLE_SCHEMA
