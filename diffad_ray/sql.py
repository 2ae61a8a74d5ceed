"""Common use of DuckDB: connections, quoting in SQL, and error messages for users."""

from __future__ import annotations

import re

import duckdb

from diffad_ray import storage

_HINTS = re.compile(r"\n\n(?:For more info|Possible solutions|At:)|\nTraceback|\n\n?At:\n|\nExtension \"")
_KIND = re.compile(r"^(?:[A-Z][A-Za-z]* )+(?:Error|Exception): ")


def connect(*locations: str) -> duckdb.DuckDBPyConnection:
    """Open a DuckDB connection, in UTC, that can read and write at these locations."""
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    remote = {location.partition("://")[0]: location for location in locations if not storage.is_local(location)}
    for location in remote.values():
        connection.register_filesystem(storage.filesystem(location))
    return connection


def quoted(text: str) -> str:
    """Quote a text as an SQL literal.

    Example:
        >>> quoted("it's")
        "'it''s'"
    """
    return "'" + text.replace("'", "''") + "'"


def identifier(name: str) -> str:
    """Quote any name of a column as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def why(error: duckdb.Error) -> str:
    """Return why a statement of ours failed and what to do, since DuckDB's own message quotes internal SQL."""
    text = str(error)
    if isinstance(error, duckdb.OutOfMemoryException) or "No space left" in text:
        return "the memory or the temporary folder is full: let TMPDIR name a folder with more space"
    if "FileNotFoundError" in text or "No files found" in text:
        return "a file of it is not there any more: start again"
    if "PermissionError" in text or "Permission denied" in text or "Credentials" in text:
        return "access is refused: check the permissions of its files, or the credentials in the environment"
    if any(word in text for word in ("magic bytes", "arquet", "TProtocol", "Snappy", "ZSTD", "thrift", "page")):
        return "a file of it is no Parquet file or is damaged: write it again"
    if isinstance(error, duckdb.IOException | duckdb.HTTPException):
        return "the disk or store gave no answer that can be used: start again"
    return f"its contents are not as they must be ({type(error).__name__})"


def reason_of(error: Exception) -> str:
    """Return why a statement of the user failed, in one paragraph: DuckDB's message without its hints."""
    text = _HINTS.split(str(error))[0]
    lines = [line for line in text.splitlines() if line.strip(" ^")]
    return _KIND.sub("", " ".join(" ".join(lines).split()))
