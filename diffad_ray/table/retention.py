"""The retention rule of a table, `TABLE/retention/rule.json`: masks and manifests of older runs are not kept.

The rule is written before anything is deleted. From then on, the views have null as the mask of such rows, and `verify`
does not expect the files, whether the deletion was interrupted or not.
"""

from __future__ import annotations

from dataclasses import dataclass

from diffad_ray import storage
from diffad_ray.sql import quoted
from diffad_ray.table.documents import document, parsed


@dataclass(frozen=True)
class Rule:
    """Days in UTC, such as `2026-08-30`; an empty day keeps everything.

    Attributes:
        masks_before: masks of runs that began before this day are not kept.
        masks_deleted_before: all such masks of runs before this day are deleted.
        manifests_before: manifests of ended runs that began before this day are not kept.
    """

    masks_before: str = ""
    masks_deleted_before: str = ""
    manifests_before: str = ""


def read_rule(table: str) -> Rule:
    """Return the rule of a table; an empty rule if it has none.

    Raises:
        UserError: the file is damaged, or of a newer schema version.
    """
    location = _location(table)
    try:
        return parsed(Rule, storage.read(location), location)
    except FileNotFoundError:
        return Rule()


def write_rule(table: str, rule: Rule) -> None:
    storage.write(_location(table), document(rule))


def _location(table: str) -> str:
    return f"{table}/retention/rule.json"


def first_run_of(day: str) -> str:
    """Return a text that sorts before the IDs of all runs of a day and later; `""` for no day.

    Example:
        >>> first_run_of("2026-08-30") <= "20260830T220000-ab12cd"
        True
    """
    return day.replace("-", "")


def kept_columns(rule: Rule) -> dict[str, str]:
    """Return SQL of the columns of `scores` that the rule changes, by name: `mask_uri` is null if it is not kept."""
    if not rule.masks_before:
        return {}
    is_kept = f"run_id >= {quoted(first_run_of(rule.masks_before))}"
    return {"mask_uri": f"CASE WHEN {is_kept} THEN mask_uri END"}
