"""Converts TOML settings files and `key=value` overrides to the settings classes; errors name the key."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError

from diffad_ray import storage
from diffad_ray.errors import UserError

S = TypeVar("S")
SECTIONS = ("detector", "training", "images", "scoring", "serving", "storage", "cluster", "nightly")


def read_settings_file(location: str) -> dict[str, dict[str, Any]]:
    """Read the sections of a TOML settings file, which may be shared by training and scoring.

    Raises:
        UserError: the file can't be read, or contains an unknown section.
    """
    try:
        text = storage.read(location).decode()
        tables = tomllib.loads(text)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"the settings file {location} can't be read: {error}") from error
    for name, table in tables.items():
        if name not in SECTIONS or not isinstance(table, dict):
            known = ", ".join(f"[{section}]" for section in SECTIONS)
            raise UserError(f"the settings file {location} holds {name!r}; it may hold the sections {known}")
    return tables


def read_settings(
    file: str | None = None,
    overrides: Sequence[str] = (),
    options: Mapping[str, Mapping[str, Any]] | None = None,
    sections: Sequence[str] = SECTIONS,
) -> dict[str, dict[str, Any]]:
    """Merge a settings file, options and overrides to values by section; later ones win, and None is no value.

    Args:
        file: location of a TOML file.
        overrides: texts such as `training.learning_rate=1e-4`.
        options: values by section, as the options of a command give them.
        sections: those that overrides may name; a file may have all of them.

    Raises:
        UserError: the file or an override is invalid.

    Example:
        >>> read_settings(options={"training": {"steps": 100, "seed": None}}, overrides=["detector.preset=tiny"])
        {'training': {'steps': 100}, 'detector': {'preset': 'tiny'}}
    """
    from_file = read_settings_file(file) if file else {}
    return merged(from_file, options or {}, parse_overrides(overrides, sections))


def parse_overrides(pairs: Sequence[str], sections: Sequence[str] = ()) -> dict[str, Any]:
    """Parse `key=value` pairs to nested tables; values are TOML, other words are text.

    Args:
        pairs: overrides such as `anomalies.share=0.3`.
        sections: allowed first parts of the keys; empty allows all.

    Raises:
        UserError: a pair can't be parsed, is not in one of the sections, or assigns a plain value to a section.

    Example:
        >>> parse_overrides(["steps=100", "anomalies.share=0.3", "preset=tiny"])
        {'steps': 100, 'anomalies': {'share': 0.3}, 'preset': 'tiny'}
    """
    merged: dict[str, Any] = {}
    for pair in pairs:
        name, separator, text = pair.partition("=")
        if not separator or not name.strip():
            raise UserError(f"{pair!r} is not of the form key=value, as in steps=2000")
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text.strip()
        *parents, leaf = name.strip().split(".")
        table = merged
        for parent in parents:
            table = table.setdefault(parent, {})
            if not isinstance(table, dict):
                raise UserError(f"{pair!r} needs {parent!r} to be a table, but it was given the value {table!r}")
        table[leaf] = value
    if sections and (unknown := merged.keys() - set(sections)):
        wanted = " or ".join(f"{section}.KEY=..." for section in sections)
        raise UserError(f"{min(unknown)!r} is no section of the settings: write {wanted}")
    for section in SECTIONS:
        if not isinstance(merged.get(section, {}), dict):
            raise UserError(f"{section!r} is a section and takes no value of its own: write {section}.KEY=...")
    return merged


def merged(*tables: Mapping[str, Any]) -> dict[str, Any]:
    """Merge tables recursively; later values replace earlier ones, except for None.

    Example:
        >>> merged({"a": 1, "b": {"c": 2}}, {"a": None, "b": {"d": 3}})
        {'a': 1, 'b': {'c': 2, 'd': 3}}
    """
    result: dict[str, Any] = {}
    for table in tables:
        for key, value in table.items():
            if isinstance(value, Mapping):
                below = result.get(key)
                result[key] = merged(below if isinstance(below, Mapping) else {}, value)
            elif value is not None:
                result[key] = value
    return result


def build(settings_class: type[S], values: Mapping[str, Any], section: str) -> S:
    """Create a settings dataclass from plain values, and check their types.

    Raises:
        UserError: keys are unknown or have invalid values; the message names them.
    """
    _refuse_unknown(settings_class, values, section)
    try:
        return TypeAdapter(settings_class).validate_python(dict(values))
    except ValidationError as error:
        problems = []
        for problem in error.errors():
            key = ".".join(str(part) for part in problem["loc"]) or section
            message = problem["msg"].removeprefix("Value error, ")
            problems.append(f"{key}: {message[:1].lower()}{message[1:]}")
        raise UserError(f"settings of [{section}]: " + "; ".join(problems)) from error


def _refuse_unknown(settings_class: type, values: Mapping[str, Any], section: str) -> None:
    fields = {field.name for field in dataclasses.fields(settings_class)}
    types = get_type_hints(settings_class)
    for key, value in values.items():
        if key not in fields:
            raise UserError(f"[{section}] has no setting {key!r}; it has {', '.join(sorted(fields))}")
        # The field may be a settings class itself, or an optional one, or hold some by names.
        is_named = get_origin(types[key]) is Mapping
        for nested in (types[key], *get_args(types[key])):
            if isinstance(value, Mapping) and isinstance(nested, type) and dataclasses.is_dataclass(nested):
                inner = {f".{name}": one for name, one in value.items()} if is_named else {"": value}
                for name, one in inner.items():
                    if isinstance(one, Mapping):
                        _refuse_unknown(nested, one, f"{section}.{key}{name}")
