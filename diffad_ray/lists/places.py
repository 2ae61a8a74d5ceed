"""Converts the locations written in a list to normalised locations, in Python and in SQL, for both kinds of lists."""

from __future__ import annotations

import re

from diffad_ray.images import IMAGE_SUFFIXES
from diffad_ray.lists.text import SEPARATORS
from diffad_ray.sql import identifier, quoted

_WINDOWS = r"^([A-Za-z]:[\\/]|\\|(?i:file:/+[a-z]:[\\/])|(?i:file://[^/]))"
_FILE = r"^(?i:file:/+(localhost/+)?)"
_THIS_MACHINE = r"^(?i:file://localhost/)"
WINDOWS_ADVICE = (
    "write paths relative to the list's folder, as this machine sees them (/mnt/plant/...), or URIs such as s3://..."
)


def is_windows_path(place: str) -> bool:
    r"""Return whether a location is a Windows path (`C:\x`, `\\server\x`, `file:///C:/x`) or another machine's file."""
    return re.match(_WINDOWS, place) is not None and re.match(_THIS_MACHINE, place) is None


def with_slashes(place: str) -> str:
    """Replace the backslashes of a relative location by slashes, and `file:///x` by `/x`."""
    if re.match(_FILE, place):
        return re.sub(_FILE, "/", place)
    return place if "://" in place or place.startswith(("/", "~")) else place.replace("\\", "/")


def windows_sql(place: str) -> str:
    """Return SQL for `is_windows_path` of an expression."""
    is_ours = f"regexp_matches({place}, {quoted(_THIS_MACHINE)})"
    return f"(regexp_matches({place}, {quoted(_WINDOWS)}) AND NOT {is_ours})"


def text_sql(column: str, kind: str) -> str:
    """Return SQL for a column's values as stripped text; empty text becomes null.

    Args:
        column: name of the column.
        kind: DuckDB type of the column.
    """
    name = identifier(column)
    if kind in ("DOUBLE", "FLOAT"):
        # pandas writes integer columns with missing values as floats: 1.0 and nan.
        whole = f"{name} = floor({name}) AND abs({name}) < 9e15"
        text = f"CASE WHEN isnan({name}) THEN NULL WHEN {whole} THEN {name}::BIGINT::VARCHAR ELSE {name}::VARCHAR END"
    else:
        text = f"decode({name})" if kind == "BLOB" else f"{name}::VARCHAR"
    return f"nullif(trim({text}, e' \\t\\r\\n'), '')"


def place_sql(column: str, kind: str) -> str:
    """Return SQL for the locations in a column as text, without the quotes that some tools write around them."""
    text = text_sql(column, kind)
    quotes = " OR ".join(f"({text} LIKE {quoted(f'{q}_%{q}')})" for q in ('"', "'"))
    return f"CASE WHEN {quotes} THEN trim({text}[2:-2]) ELSE {text} END"


def location_sql(place: str, folder: str) -> str:
    r"""Return SQL for the normalised location of a written one.

    Relative ones start at `folder`, with backslashes replaced by slashes; `file:///x` becomes `/x`; Windows paths stay.
    """
    scheme = f"regexp_extract({place}, '^[A-Za-z][A-Za-z0-9+.-]*://')"
    relative = f"regexp_replace(replace({place}, e'\\\\', '/'), '^(\\./+)+', '')"
    root = folder if folder.endswith("/") else f"{folder}/"
    return (
        f"CASE WHEN {windows_sql(place)} THEN {place} "
        f"WHEN regexp_matches({place}, {quoted(_FILE)}) THEN regexp_replace({place}, {quoted(_FILE)}, '/') "
        f"WHEN {scheme} <> '' THEN lower({scheme}) || substr({place}, length({scheme}) + 1) "
        f"WHEN contains({place}, '://') OR starts_with({place}, '/') THEN {place} "
        f"ELSE {quoted(root)} || {relative} END"
    )


def backslashes_sql(place: str) -> str:
    """Return SQL for whether a location is relative and contains backslashes."""
    return (
        f"(contains({place}, e'\\\\') AND NOT contains({place}, '://') AND NOT starts_with({place}, '/') "
        f"AND NOT {windows_sql(place)})"
    )


def several_sql(place: str) -> str:
    """Return SQL for whether a location is an image name followed by what looks like other columns."""
    endings = "|".join(re.escape(suffix) for suffix in sorted(IMAGE_SUFFIXES))
    separators = "".join(re.escape(separator) for separator in SEPARATORS)
    cut, ended = f"(?i)({endings})[\"' ]*[{separators}]", f"(?i)({endings})$"
    return f"(regexp_matches({place}, {quoted(cut)}) AND NOT regexp_matches({place}, {quoted(ended)}))"
