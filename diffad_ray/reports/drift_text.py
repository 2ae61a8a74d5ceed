"""Drift for the terminal: a line for each group with its state, and the reasons of those that are not fine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from diffad_ray.errors import counted, percent

if TYPE_CHECKING:
    from diffad_ray.analytics.drift import Drift, GroupDrift

TREND = 7
"Last days of the chart that are shown."


def print_drift(found: Drift, console: Console) -> None:
    """Print the groups, the most urgent first."""
    if not found.groups:
        console.print(f"no image was given to a detector in {found.period}", highlight=False)
        return
    table = Table(box=None, title=f"{found.period}", title_justify="left")
    for name in ("detector", *found.by, "state", "since"):
        table.add_column(escape(name))
    for name in ("images", f"beyond alpha, last {TREND} days", "limits", "brightness", "contrast", "sharpness"):
        table.add_column(name, justify="right")
    for group in found.groups:
        values = [group.detector, *map(str, group.group.values()), group.state, str(group.since or "")]
        mark = "[bold]" if group.needs_action else "[default]"
        table.add_row(*(f"{mark}{escape(cell)}[/]" for cell in [*values, str(group.images), *_chart(group)]))
    console.print(table)
    for group in found.groups:
        if group.reasons:
            text = f"{described(group)}: {group.state}. {' '.join(group.reasons)}"
            console.print(escape(text), highlight=False, soft_wrap=True)
    if found.silent:
        detector, group_values, day = found.silent[-1]
        name = ", ".join([detector, *(f"{key} {value}" for key, value in group_values.items())])
        few = f"{counted(len(found.silent), 'group')} without an image on the last day, such as {name} (last: {day})"
        console.print(escape(few), highlight=False, soft_wrap=True)


def described(group: GroupDrift) -> str:
    """Return the name of a group, such as `part, camera left`."""
    return ", ".join([group.detector, *(f"{name} {value}" for name, value in group.group.items())])


def _chart(group: GroupDrift) -> list[str]:
    last = group.days[-1]
    trend = " ".join(
        "-" if day.tail_share is None else percent(day.tail_share) + "!" * day.is_outside for day in group.days[-TREND:]
    )
    limits = "" if last.lower is None or last.upper is None else f"{percent(last.lower)} to {percent(last.upper)}"
    levels = (last.brightness, last.contrast, last.sharpness)
    return [trend, limits, *("" if level is None else f"{level:.4g}" for level in levels)]
