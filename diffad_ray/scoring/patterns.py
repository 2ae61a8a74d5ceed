"""Patterns of paths: globs choose images and detectors; templates make columns from the parts of a path."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import duckdb
import pyarrow as pa

from diffad_ray.errors import UserError
from diffad_ray.sql import quoted
from diffad_ray.table.parts import RESERVED_PREFIXES, SCORES

_GLOB_PART = re.compile(r"\*\*/|\*\*|\*|\?|\[!?[^\]]+\]")
_FIELD = re.compile(r"\{([^{}:]*)(?::([^{}]*))?\}")
_NAME = re.compile(r"[a-z_][a-z0-9_]*")
_TIME_OF_DAY = re.compile(r"%[HIMSfpsc]")
TAKEN = frozenset(SCORES.columns.names) | {"run_date", "uri", "version", "bytes", "modified", "path", "parts"}
TAKEN |= {"shard", "id", "data", "seconds", "network_mode", "anomaly_map", "map_width"}
"""Column names that users may not give, because the table or the pipeline uses them. A name that is added here must
begin with one of `RESERVED_PREFIXES`, because users may have any other name already."""


def glob_regex(pattern: str) -> str:
    """Return a glob as a regular expression (RE2 and Python) for whole paths.

    `*` and `?` match within a folder, `**` matches across folders, and `[abc]` and `[!abc]` are sets. A pattern without
    a slash matches file names in all folders.

    Raises:
        UserError: a set in it is invalid.
    """
    anywhere = "" if "/" in pattern or pattern.startswith("**") else "(?:.*/)?"
    expression = f"(?s){anywhere}{_globbed(pattern)}"
    try:
        re.compile(expression)
    except re.error as error:
        raise UserError(f"the pattern {pattern!r} is no glob: {error}") from error
    return expression


def _globbed(pattern: str) -> str:
    """Return the regular expression of a glob."""
    expression, start = "", 0
    for part in _GLOB_PART.finditer(pattern):
        glob = part.group()
        expression += re.escape(pattern[start : part.start()])
        if glob.startswith("["):
            expression += "[^" + glob[2:] if glob[1] == "!" else glob
        else:
            expression += {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}[glob]
        start = part.end()
    return expression + re.escape(pattern[start:])


def matches_any(path: str, patterns: Sequence[str]) -> str:
    """Return SQL that is true if the column `path` matches one of the globs."""
    return "(" + " OR ".join(f"regexp_full_match({path}, {quoted(glob_regex(p))})" for p in patterns) + ")"


def enters(include: Sequence[str], exclude: Sequence[str]) -> Callable[[str], bool]:
    """Return a function that tells by a folder's path below the archive whether it may contain chosen images.

    A folder is refused only if a glob of `exclude` matches everything in it, or no glob of `include` can match anything
    in it.
    """
    wholes = []
    for pattern in exclude:
        while pattern.endswith("**/*"):  # it matches the same as `**`
            pattern = pattern.removesuffix("/*")
        if pattern.endswith("**"):
            # A path that such a glob matches is also matched with any text appended.
            wholes.append(re.compile(glob_regex(pattern)))
    parts = [_folder_parts(pattern) for pattern in include]

    def may_hold(folder: str) -> bool:
        if any(whole.fullmatch(f"{folder}/") for whole in wholes):
            return False
        names = folder.split("/")
        return not parts or any(_may_hold(names, of_folders) for of_folders in parts)

    return may_hold


def _folder_parts(pattern: str) -> list[re.Pattern[str] | None]:
    """Return expressions for the folder names of the paths that a glob matches, the outermost first.

    None at the end means that any folders may follow, or that the names are not certain.
    """
    *folders, _ = pattern.split("/")
    if not folders:
        return [None]
    parts: list[re.Pattern[str] | None] = []
    for folder in folders:
        if "**" in folder or "[" in folder:  # a set may match a slash
            return [*parts, None]
        parts.append(re.compile(f"(?s){_globbed(folder)}"))
    return [*parts, None] if "**" in pattern or "[" in pattern else parts


def _may_hold(names: Sequence[str], parts: Sequence[re.Pattern[str] | None]) -> bool:
    for place, name in enumerate(names):
        if place == len(parts):
            return False
        part = parts[place]
        if part is None:
            return True
        if not part.fullmatch(name):
            return False
    return True


@dataclass(frozen=True)
class TemplateColumn:
    """A column that a template gives.

    Attributes:
        type: its Arrow type.
        sql: SQL of its value; null if the text does not fit `form`.
        text: SQL of the text of the part; null if the path does not fit.
        form: format of strptime; empty for a column of text.
    """

    name: str
    type: pa.DataType
    sql: str
    text: str
    form: str = ""


@dataclass(frozen=True)
class PathTemplate:
    """A template such as `{line}/{camera}/{captured_at:%Y%m%d-%H%M%S}.png`, ready for SQL.

    A field stands for a part of the path without a slash. A field with a format of strptime becomes a date, or a moment
    in UTC if the format has a time of day. `{}` stands for a part that becomes no column. Globs may stand between.
    """

    expression: str
    fields: tuple[str, ...]
    columns: tuple[TemplateColumn, ...]

    @classmethod
    def parse(cls, template: str) -> PathTemplate:
        """Parse a template.

        Raises:
            UserError: the name of a field is invalid, taken or repeated, or its format is not one of strptime.
        """
        expression, start = "(?s)", 0
        fields: list[str] = []
        columns: list[TemplateColumn] = []
        for found in _FIELD.finditer(template):
            name, form = found.groups()
            expression += _globbed(template[start : found.start()])
            start = found.end()
            if not name:
                expression += "[^/]+"
                continue
            if name in fields:
                raise UserError(f"the template {template!r} names {name!r} twice")
            check_column(name, f"the template {template!r}")
            fields.append(name)
            expression += "([^/]+)"
            columns.append(_column(name, form))
        expression += _globbed(template[start:])
        if not fields:
            raise UserError(f"the template {template!r} has no field: write one like {{line}}/{{camera}}/{{name}}")
        return cls(expression, tuple(fields), tuple(columns))

    def parts_sql(self, path: str) -> str:
        """Return SQL of a struct with the text of each field; the texts are empty if the path does not fit."""
        return f"regexp_extract({path}, {quoted(f'^{self.expression}$')}, [{', '.join(map(quoted, self.fields))}])"


def check_column(name: str, origin: str) -> None:
    """Check that users may add a column of this name to the table.

    Raises:
        UserError: the name is taken or reserved, or some engines need quotes for it.
    """
    if name in TAKEN:
        raise UserError(f"{origin} gives a column {name!r}, a name that is taken already: take another one")
    if name.startswith(RESERVED_PREFIXES):
        (prefix,) = (prefix for prefix in RESERVED_PREFIXES if name.startswith(prefix))
        raise UserError(
            f"{origin} gives a column {name!r}, and names that begin with {prefix} are reserved for columns of the "
            f"table: take another one, such as plant_{name}"
        )
    if not _NAME.fullmatch(name):
        possible = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
        is_free = possible not in TAKEN and not possible.startswith(RESERVED_PREFIXES)
        such = f", such as {possible}" if _NAME.fullmatch(possible) and is_free else ""
        raise UserError(f"{origin} gives a column {name!r}: take small letters, digits and _ for its name{such}")


def _column(name: str, form: str | None) -> TemplateColumn:
    text = f"nullif(parts.\"{name}\", '')"
    if not form:
        return TemplateColumn(name, pa.string(), text, text)
    _check_form(name, form)
    moment = f"try_strptime({text}, {quoted(form)})"
    if _TIME_OF_DAY.search(form):
        kind, value = pa.timestamp("us", "UTC"), f"{moment}::TIMESTAMP AT TIME ZONE 'UTC'"
    else:
        kind, value = pa.date32(), f"{moment}::DATE"
    return TemplateColumn(name, kind, value, text, form)


def _check_form(name: str, form: str) -> None:
    """Raise UserError if strptime of DuckDB does not know a format."""
    problem = "" if "%" in form else "has no %"
    try:
        with duckdb.connect() as connection:
            connection.execute(f"SELECT try_strptime('', {quoted(form)})")
    except duckdb.Error:
        problem = "is none of strptime"
    if problem:
        raise UserError(
            f"no images can be chosen by the template, as its format {form!r} of {name} {problem}: write one such as "
            "%Y-%m-%d or %Y%m%d-%H%M%S"
        )
