"""A manifest as an archive: the images that a list names, and what the list says that can't be understood."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import duckdb
import pyarrow as pa

from diffad_ray import storage
from diffad_ray.errors import UserError
from diffad_ray.lists.places import location_sql, place_sql, text_sql
from diffad_ray.lists.reading import URI_NAMES, UserList, open_list, several_in_one
from diffad_ray.scoring.columns import stored_type
from diffad_ray.scoring.doubts import judge_rows
from diffad_ray.scoring.patterns import check_column
from diffad_ray.sql import identifier, quoted

NAMES = {
    "uri": URI_NAMES,
    "version": ("version", "image_version", "etag", "e_tag"),
    "bytes": ("bytes", "image_bytes", "size"),
    "modified": ("modified", "image_modified", "last_modified"),
}
"What a manifest may call the columns that we know."
ENCODING_ADVICE = (
    "Save it as UTF-8, or name its encoding: `--set scoring.manifest_encoding=cp1252` is that of Windows in the West"
)
SAMPLE = 20
"Images of a manifest that are looked for before a run begins."
_EPOCH = r"[0-9]{9,19}([.][0-9]+)?"
"Seconds since 1970, or thousandths, millionths or billionths of them, of 1973 or later."


class Manifest(NamedTuple):
    """A list of images as an archive.

    Attributes:
        query: SQL of the images.
        columns: those that it brings along; `untyped`: of these, those that are text because the file has no types.
        notes: what the user should know, in sentences.
    """

    query: str
    columns: dict[str, pa.DataType]
    untyped: frozenset[str]
    notes: list[str]


def open_manifest(
    location: str, connection: duckdb.DuckDBPyConnection, scratch: Path, encoding: str | None = None
) -> Manifest:
    """Open a manifest; relative URIs are taken from its folder.

    Raises:
        FileNotFoundError: it is not there.
        OSError: it can't be fetched.
        UserError: it is no table of URIs, or most of it can't be understood.
    """
    known = {name for names in NAMES.values() for name in names}
    listed = open_list(location, "manifest", connection, scratch, known, encoding, ENCODING_ADVICE)
    columns = {column: listed.column(accepted) for column, accepted in NAMES.items()}
    if columns["uri"] is None and len(listed.columns) == 1:
        (columns["uri"],) = listed.columns
    if columns["uri"] is None or columns["uri"] == several_in_one([columns["uri"]]):
        raise _no_uri(listed)
    extra = [name for name in listed.columns if name not in columns.values()]
    types = {}
    selected = []
    for name in extra:
        check_column(name, f"the manifest {location}")
        types[name], cast = stored_type(identifier(name), listed.columns[name], f"the manifest {location}", name)
        selected.append(f"{cast} AS {identifier(name)}")
    rows = _rows(listed, columns, selected)
    notes = [*listed.notes, *judge_rows(listed, columns, rows, connection)]
    kept = ", ".join(["uri", "version", "coalesce(bytes, 0) AS bytes", "modified", *map(identifier, extra)])
    path = "regexp_replace(uri, '^[a-z0-9+.-]+://[^/]*/|^/', '') AS path"
    query = f"SELECT {kept}, {path} FROM ({rows}) WHERE uri IS NOT NULL"
    return Manifest(query, types, frozenset(extra) if listed.is_text else frozenset(), notes)


def _no_uri(listed: UserList) -> UserError:
    shown = ", ".join(listed.columns)
    if (name := several_in_one(listed.columns)) is not None and len(listed.columns) == 1:
        return UserError(
            f"{listed.subject} has one column, {name}: separate its columns by commas, and put no quotes around whole "
            "lines"
        )
    advice = "call the one of the URIs `uri`"
    if listed.is_text and any(value.startswith("/") or "." in value for value in listed.columns):
        advice += "; its first line must hold the names of the columns"
    return UserError(f"{listed.subject} has the columns {shown}: {advice}")


def _rows(listed: UserList, columns: dict[str, str | None], extra: Sequence[str]) -> str:
    """SQL: a row for each of the list's, with what it says of the columns that we know as text (`given`, `size_text`,
    `moment_text`), and what is understood of it (`uri`, `version`, `bytes`, `modified`)."""
    kinds = listed.columns

    def text(column: str) -> str:
        name = columns[column]
        return "NULL::VARCHAR" if name is None else text_sql(name, kinds[name])

    uri, modified = columns["uri"], columns["modified"]
    assert uri is not None
    is_moment = modified is not None and kinds[modified].startswith(("TIMESTAMP", "DATE"))
    moment = f"{identifier(modified or '')}::TIMESTAMP" if is_moment else "NULL::TIMESTAMP"
    if modified is not None and kinds[modified] == "TIMESTAMP WITH TIME ZONE":
        moment = identifier(modified)
    texts = [f"{place_sql(uri, kinds[uri])} AS given", f"coalesce({text('version')}, '') AS version"]
    texts += [f"nullif(lower({text('bytes')}), 'nan') AS size_text", f"{text('modified')} AS moment_text"]
    texts += [f"{moment} AS moment", f"{_blank(listed)} AS is_blank", f"{_others(listed, uri)} AS others", *extra]
    number = "TRY_CAST(size_text AS DOUBLE)"
    size = f"CASE WHEN {number} >= 0 AND {number} < 9e15 AND {number} = floor({number}) THEN {number}::BIGINT END"
    read = f"coalesce(moment::TIMESTAMPTZ, {_moment_sql('moment_text')})"
    in_time = f"{read} BETWEEN TIMESTAMPTZ '1900-01-01' AND TIMESTAMPTZ '2200-01-01'"
    place = location_sql("given", posixpath.dirname(listed.location))
    return (
        f"SELECT *, {place} AS uri, {size} AS bytes, CASE WHEN {in_time} THEN {read} END AS modified "
        f"FROM (SELECT {', '.join(texts)} FROM {listed.source})"
    )


def _blank(listed: UserList) -> str:
    """SQL: whether a line of text holds nothing; Parquet has no lines."""
    return " AND ".join(f"{identifier(name)} IS NULL" for name in listed.columns) if listed.is_text else "false"


def _others(listed: UserList, uri: str) -> str:
    """SQL: what a row without a URI is known by."""
    values = [f"{identifier(name)}::VARCHAR" for name in listed.columns if name != uri]
    return f"left(concat_ws(', ', {', '.join(values)}), 200)" if values else "'no other value'"


def _moment_sql(text: str) -> str:
    """SQL: the moment that a text means: ISO 8601, in UTC where it names no zone, or a number of seconds since 1970."""
    number = f"TRY_CAST({text} AS DOUBLE)"
    unit = f"CASE WHEN {number} < 1e11 THEN 1 WHEN {number} < 1e14 THEN 1e3 WHEN {number} < 1e17 THEN 1e6 ELSE 1e9 END"
    return (
        f"CASE WHEN regexp_full_match({text}, {quoted(_EPOCH)}) THEN to_timestamp({number} / {unit}) "
        f"ELSE TRY_CAST({text} AS TIMESTAMPTZ) END"
    )


def refuse_absent(connection: duckdb.DuckDBPyConnection, rows: str, manifest: str) -> None:
    """Raise UserError if of a few images, spread over those that are to be scored, none is on this machine.

    Args:
        rows: SQL of a table with the column `image_uri`; what is on other machines is not looked for.
    """
    local = f"SELECT image_uri FROM {rows} WHERE NOT contains(image_uri, '://')"
    found = connection.execute(f"{local} USING SAMPLE reservoir({SAMPLE} ROWS) REPEATABLE (1)").fetchall()
    places = sorted(uri for (uri,) in found)
    if places and all(map(_is_absent, places)):
        raise UserError(
            f"the manifest {manifest}: none of {len(places)} images that were looked for is there, such as "
            f"{places[0]}. Relative URIs start at the manifest's folder, {posixpath.dirname(manifest)}: write them so, "
            "or as whole paths"
        )


def _is_absent(place: str) -> bool:
    try:
        return not storage.exists(place)
    except OSError:
        return False  # who may not look does not know
