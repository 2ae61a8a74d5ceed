"""Rows of a manifest that can't be understood, or should not be there: counted, shown with an example, or refused."""

from __future__ import annotations

from typing import NamedTuple

import duckdb

from diffad_ray.errors import UserError
from diffad_ray.lists.places import WINDOWS_ADVICE, backslashes_sql, several_sql, windows_sql
from diffad_ray.lists.reading import UserList
from diffad_ray.sql import quoted

_SIGNED = r"(?i)[?&](X-Amz-Signature|X-Goog-Signature|sig|Signature)="
_PASSWORD = r"(?i)^[a-z0-9+.-]+://[^/@]*:[^/@]*@"
_NAMED = "given IS NOT NULL"
"SQL: whether a row has a URI."


class _Doubt(NamedTuple):
    """Rows that are not as they should be.

    Attributes:
        rows: SQL: whether a row is one of them.
        of: SQL: whether it is one of those among which they are counted.
        example: SQL: what to show of it.
        says: the sentence of a note, from their number, the number of all, and the example.
        then: what becomes of them; `advice`: what to do where most rows are such, in the message that refuses them.
    """

    rows: str
    of: str
    example: str
    says: str
    then: str
    advice: str
    always: bool = False
    "Whether one of them is reason enough to refuse."
    never: bool = False
    "Whether even all of them are none."


def judge_rows(
    listed: UserList, columns: dict[str, str | None], rows: str, connection: duckdb.DuckDBPyConnection
) -> list[str]:
    """Notes on the rows that are not as they should be.

    Raises:
        UserError: most of them, or what must not be at all.
    """
    doubts = _doubts(columns)
    counts = ", ".join(
        f"count(*) FILTER ({d.rows}), count(*) FILTER ({d.of}), min({d.example}) FILTER ({d.rows})" for d in doubts
    )
    (row,) = connection.execute(f"SELECT {counts} FROM ({rows}) WHERE NOT is_blank").fetchall()
    notes = []
    for k, doubt in enumerate(doubts):
        count, total, example = row[3 * k : 3 * k + 3]
        if not count:
            continue
        said = doubt.says.format(count=count, total=total, example=example)
        if doubt.always or (2 * count > total and not doubt.never):
            raise UserError(f"{listed.location}: {said}: {doubt.advice}")
        notes.append(f"{said}{doubt.then}")
    if listed.broken.lines:
        notes.append(
            f"{listed.broken.lines} lines of the manifest could not be read and are left out, such as "
            f"{listed.broken.first}"
        )
    return notes


def _doubts(columns: dict[str, str | None]) -> list[_Doubt]:
    found = [*_secrets(), *_places(columns)]
    if columns["bytes"] is not None:
        found.append(_unread("size_text", "bytes", columns["bytes"], "no numbers of bytes", "write whole numbers"))
    if columns["modified"] is not None:
        advice = "write them as 2026-11-20T22:00:00+01:00 or as seconds since 1970"
        found.append(_unread("moment_text", "modified", columns["modified"], "no moments", advice))
    return found


def _secrets() -> list[_Doubt]:
    """URIs that carry credentials; one is enough to refuse the manifest, and none is shown."""
    advice = "whoever reads the table could use them. Give plain URIs (s3://bucket/key), and credentials through the "
    advice += "environment"
    return [
        _Doubt(
            f"regexp_matches(uri, {quoted(pattern)})",
            _NAMED,
            "''",
            f"{{count}} of its URIs are {kind}",
            "",
            advice,
            True,
        )
        for pattern, kind in ((_SIGNED, "signed"), (_PASSWORD, "with a password"))
    ]


def _places(columns: dict[str, str | None]) -> list[_Doubt]:
    """Rows without a URI, and URIs that are probably not what was meant."""
    return [
        _Doubt(
            "given IS NULL",
            "true",
            "others",
            "{count} of {total} rows of the manifest have no URI, such as the one of {example}",
            ": they are left out",
            f"fill the column {columns['uri']}, or call the one of the URIs `uri`",
        ),
        _Doubt(
            several_sql("given"),
            _NAMED,
            "given",
            "{count} of {total} URIs of the manifest look like several columns, such as {example}",
            "",
            "separate the columns by what separates the names in the first line, and name all of them there",
        ),
        _Doubt(
            windows_sql("given"),
            _NAMED,
            "given",
            "{count} of {total} URIs of the manifest are Windows paths, such as {example}",
            ": this machine can't read them, so they get the status missing",
            WINDOWS_ADVICE,
        ),
        _Doubt(
            backslashes_sql("given"),
            _NAMED,
            "given",
            "{count} URIs of the manifest have backslashes, such as {example}",
            ": they are taken for slashes",
            "",
            never=True,
        ),
        _Doubt(
            "regexp_matches(given, '[\\r\\n]')",
            _NAMED,
            "given",
            "{count} URIs of the manifest hold a line end, such as {example!r}",
            ": a quote that opens there may close too late, and hide the rows between",
            "",
            never=True,
        ),
    ]


def _unread(text: str, column: str, name: str, what: str, advice: str) -> _Doubt:
    says = f"{{count}} of {{total}} values of {name} are {what} that can be read, such as {{example}}"
    then = ": they count as unknown"
    given = f"{text} IS NOT NULL"
    return _Doubt(f"({given} AND {column} IS NULL)", given, text, says, then, f"{advice}, or leave the column out")
