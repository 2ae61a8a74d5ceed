"""Opens a list for SQL: a file or a folder of parts, text or Parquet."""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path

import duckdb

from diffad_ray.errors import UserError
from diffad_ray.lists.files import is_parquet, list_files, local_file, partitions
from diffad_ray.lists.text import SEPARATORS, Broken, write_text
from diffad_ray.sql import identifier, quoted, why
from diffad_ray.storage import FileInfo

URI_NAMES = ("uri", "image_uri", "url", "path", "file")
"Accepted names of the column of image locations."
_INDEX = "__index_level_"
"Prefix of the columns in which pandas stores its row index."
_NAMELESS = " "


@dataclass(frozen=True)
class UserList:
    """An opened list that SQL can read.

    Attributes:
        what: `manifest` or `table of labels`.
        location: location of the list.
        source: SQL expression after FROM; its rows may include ones without any value.
        columns: DuckDB types by name of the column.
        is_text: whether all values are text because the file has no types.
        broken: lines that could not be read.
        notes: sentences for the user.
    """

    what: str
    location: str
    source: str
    columns: dict[str, str]
    is_text: bool
    broken: Broken
    notes: list[str] = field(default_factory=list)

    @property
    def subject(self) -> str:
        return f"the {self.what} {self.location}"

    def column(self, accepted: Sequence[str]) -> str | None:
        """Return the list's spelling of the first accepted column name that the list has, ignoring case, or None."""
        by_name = {name.lower(): name for name in self.columns}
        return next((by_name[name] for name in accepted if name in by_name), None)


def open_list(
    location: str,
    what: str,
    connection: duckdb.DuckDBPyConnection,
    scratch: Path,
    known: Set[str],
    encoding: str | None = None,
    advice: str = "Save it as UTF-8",
) -> UserList:
    """Open a list.

    Args:
        location: location of the file, or of the folder of parts.
        what: name of the kind of list, for messages.
        connection: connection that will read `source`.
        scratch: local folder that must exist as long as the list is read.
        known: lower-case column names by which a header is recognised.
        encoding: encoding of text without a byte order mark; None takes UTF-8.
        advice: advice in the error for text of another encoding.

    Raises:
        FileNotFoundError: there is no such file, and no folder with parts.
        OSError: the list can't be fetched.
        UserError: the file is not a list, or its columns are ambiguous.
    """
    files = list_files(location)
    if not files:
        raise FileNotFoundError(f"{location} holds no parts of a {what}")
    notes: list[str] = []
    broken = Broken()
    if is_parquet(location):
        source = _parquet_source([file.uri for file in files], location, what, connection)
        columns = _described(connection, source, f"the {what} {location}")
    else:
        target = scratch / f"list-{len(list(scratch.glob('list-*')))}.parquet"
        source, names, broken = _text_source(files, location, what, target, known, encoding, advice)
        columns = dict.fromkeys(names, "VARCHAR")
    notes += _left_out(columns, connection, source)
    return UserList(what, location, source, columns, not is_parquet(location), broken, notes)


def _text_source(
    files: Sequence[FileInfo],
    location: str,
    what: str,
    target: Path,
    known: Set[str],
    encoding: str | None,
    advice: str,
) -> tuple[str, list[str], Broken]:
    """Convert text files to a Parquet file; return SQL that reads it, its column names, and the broken lines."""
    copy = target.with_suffix(".copy")
    described = (
        (local_file(file, copy), partitions(file.uri, location), f"{file.uri} is no {what} that can be read")
        for file in files
    )
    separator = "\t" if location.lower().endswith((".tsv", ".tsv.gz")) else ","
    table = write_text(described, target, separator, known, encoding, advice)
    copy.unlink(missing_ok=True)
    subject = f"the {what} {location}"
    _refuse_twice(table.names, subject)
    if table.broken.lines > table.rows:
        raise _mostly_broken(subject, table.broken, table.rows + table.broken.lines)
    # Names from a header never begin with a blank, so generated names can't clash with them.
    names = [name or f"{_NAMELESS}{k + 1}" for k, name in enumerate(table.names)]
    named = ", ".join(f"{identifier(str(k))} AS {identifier(name)}" for k, name in enumerate(names))
    source = f"(SELECT {named} FROM read_parquet({quoted(str(target))}, hive_partitioning = false))"
    return source, names, table.broken


def _mostly_broken(subject: str, broken: Broken, lines: int) -> UserError:
    return UserError(
        f"{subject} has {broken.lines} of {lines} lines with more fields than its header; {broken.first}. Separate all "
        "lines by what separates the header, and put values that hold it in double quotes"
    )


def _parquet_source(files: Sequence[str], location: str, what: str, connection: duckdb.DuckDBPyConnection) -> str:
    """Return SQL that reads Parquet files, with their Hive partition columns."""
    # Names are escaped, because DuckDB would interpret some characters as wildcards.
    listed = "[" + ", ".join(quoted(glob.escape(file)) for file in files) + "]"
    subject = f"the {what} {location}"
    try:
        for name, count in Counter(_top_names(connection, quoted(glob.escape(files[0])))).items():
            if count > 1:
                raise UserError(f"{subject} has the column {name} twice: call one of them otherwise")
    except duckdb.Error as error:
        raise UserError(f"{subject} can't be read: {why(error)}") from error
    options = "hive_partitioning = false, union_by_name = true"
    names = dict.fromkeys(name for file in files for name in partitions(file, location))
    if not names:
        return f"read_parquet({listed}, {options})"
    below = f"substr(filename, {len(location) + 1})"
    values = [
        f"nullif(url_decode(regexp_extract({below}, {quoted(f'/{_literal(name)}=([^/]*)/')}, 1)), "
        f"'__HIVE_DEFAULT_PARTITION__') AS {identifier(name)}"
        for name in names
    ]
    return f"(SELECT * EXCLUDE (filename), {', '.join(values)} FROM read_parquet({listed}, {options}, filename = true))"


def _literal(text: str) -> str:
    """Escape text for a regular expression of DuckDB."""
    return "".join(c if c.isalnum() or c == "_" else f"\\x{{{ord(c):X}}}" for c in text)


def _top_names(connection: duckdb.DuckDBPyConnection, file: str) -> list[str]:
    """Return the lower-case names of a Parquet file's top-level columns."""
    rows = connection.execute(f"SELECT name, coalesce(num_children, 0) FROM parquet_schema({file})").fetchall()
    names: list[str] = []
    inner = 0
    for name, children in rows[1:]:
        if not inner:
            names.append(name.lower())
            inner = children
        else:
            inner += children - 1
    return names


def _described(connection: duckdb.DuckDBPyConnection, source: str, subject: str) -> dict[str, str]:
    try:
        return {row[0]: row[1] for row in connection.execute(f"DESCRIBE SELECT * FROM {source}").fetchall()}
    except duckdb.Error as error:
        raise UserError(f"{subject} can't be read: {why(error)}") from error


def _refuse_twice(names: Sequence[str], subject: str) -> None:
    for name, count in Counter(name.lower() for name in names if name).items():
        if count > 1:
            raise UserError(f"{subject} has the column {name} twice: call one of them otherwise")


def _left_out(columns: dict[str, str], connection: duckdb.DuckDBPyConnection, source: str) -> list[str]:
    """Remove nameless columns, such as the row index of pandas; return a note for each that has values."""
    notes = []
    for name in [name for name in columns if name.startswith((_NAMELESS, _INDEX))]:
        del columns[name]
        shown = identifier(name)
        ((count, example),) = connection.execute(f"SELECT count({shown}), min({shown}) FROM {source}").fetchall()
        if count:
            which = f"the column {name}" if name.strip() == name else f"column {name.strip()}, which has no name,"
            notes.append(f"{which} is left out; it holds {count} values, such as {example}")
    return notes


def several_in_one(names: Iterable[str]) -> str | None:
    """Return the first column name that contains a separator, and so looks like several columns, or None."""
    return next((name for name in names if any(separator in name for separator in SEPARATORS)), None)
