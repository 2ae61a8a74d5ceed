"""Places that a list names: from text as people and tools write it to locations of ours, in SQL and for both kinds of
lists."""

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
    r"""Whether a place is a path of Windows (`C:\x`, `\\server\x`, `file:///C:/x`) or a file of another machine."""
    return re.match(_WINDOWS, place) is not None and re.match(_THIS_MACHINE, place) is None


def with_slashes(place: str) -> str:
    """A place with slashes for the backslashes of relative ones, and `file:///x` as the path that it is."""
    if re.match(_FILE, place):
        return re.sub(_FILE, "/", place)
    return place if "://" in place or place.startswith(("/", "~")) else place.replace("\\", "/")


def windows_sql(place: str) -> str:
    """SQL: `is_windows_path` of an expression."""
    is_ours = f"regexp_matches({place}, {quoted(_THIS_MACHINE)})"
    return f"(regexp_matches({place}, {quoted(_WINDOWS)}) AND NOT {is_ours})"


def text_sql(column: str, kind: str) -> str:
    """SQL: a column's values as text, without blanks around them; null where nothing is left.

    Args:
        kind: its type in DuckDB.
    """
    name = identifier(column)
    if kind in ("DOUBLE", "FLOAT"):
        # pandas makes whole numbers of a column with a gap 1.0 and nan.
        whole = f"{name} = floor({name}) AND abs({name}) < 9e15"
        text = f"CASE WHEN isnan({name}) THEN NULL WHEN {whole} THEN {name}::BIGINT::VARCHAR ELSE {name}::VARCHAR END"
    else:
        text = f"decode({name})" if kind == "BLOB" else f"{name}::VARCHAR"
    return f"nullif(trim({text}, e' \\t\\r\\n'), '')"


def place_sql(column: str, kind: str) -> str:
    """SQL: the places of a column as text, without the quotes that some tools leave around them."""
    text = text_sql(column, kind)
    quotes = " OR ".join(f"({text} LIKE {quoted(f'{q}_%{q}')})" for q in ('"', "'"))
    return f"CASE WHEN {quotes} THEN trim({text}[2:-2]) ELSE {text} END"


def location_sql(place: str, folder: str) -> str:
    r"""SQL: the location that a place means.

    Relative ones start at the folder, with slashes for backslashes; `file:///x` is `/x`; what is Windows' own stays.
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
    """SQL: whether a place is relative and has backslashes."""
    return (
        f"(contains({place}, e'\\\\') AND NOT contains({place}, '://') AND NOT starts_with({place}, '/') "
        f"AND NOT {windows_sql(place)})"
    )


def several_sql(place: str) -> str:
    """SQL: whether a place is the name of an image, followed by what seems to be other columns."""
    endings = "|".join(re.escape(suffix) for suffix in sorted(IMAGE_SUFFIXES))
    separators = "".join(re.escape(separator) for separator in SEPARATORS)
    cut, ended = f"(?i)({endings})[\"' ]*[{separators}]", f"(?i)({endings})$"
    return f"(regexp_matches({place}, {quoted(cut)}) AND NOT regexp_matches({place}, {quoted(ended)}))"
