"""What a table no longer keeps: masks and manifests of runs before a day, as the file `TABLE/retention/rule.json` says.

The rule is written before anything is deleted. From then on the views show no mask for rows of such runs, and `verify`
does not miss what is gone, whether the deletion was interrupted or not.
"""

from __future__ import annotations

from dataclasses import dataclass

from diffad_ray import storage
from diffad_ray.sql import quoted
from diffad_ray.table.documents import document, parsed


@dataclass(frozen=True)
class Rule:
    """Days such as `2026-08-30`, in UTC; an empty one keeps everything.

    Attributes:
        masks_before: masks of rows whose run began before this day are no longer kept.
        masks_deleted_before: of runs before this day, all such masks have been deleted.
        manifests_before: manifests of runs that are over and began before this day are no longer kept.
    """

    masks_before: str = ""
    masks_deleted_before: str = ""
    manifests_before: str = ""


def read_rule(table: str) -> Rule:
    """The rule of a table that exists.

    Raises:
        UserError: it is damaged, or of a newer schema version.
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
    """What the names of the runs that began on a day or later do not sort before; `""` for no day.

    Example:
        >>> first_run_of("2026-08-30") <= "20260830T220000-ab12cd"
        True
    """
    return day.replace("-", "")


def kept_columns(rule: Rule) -> str:
    """SQL for all columns of `scores`, with a null as the place of a mask that is not kept."""
    if not rule.masks_before:
        return "*"
    is_kept = f"run_id >= {quoted(first_run_of(rule.masks_before))}"
    return f"* REPLACE (CASE WHEN {is_kept} THEN mask_uri END AS mask_uri)"
