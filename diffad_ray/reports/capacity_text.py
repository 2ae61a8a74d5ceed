"""What scoring an archive takes, for the terminal."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from diffad_ray.errors import counted, percent

if TYPE_CHECKING:
    from diffad_ray.capacity.capacity import Capacity
    from diffad_ray.capacity.formulas import Forecast
    from diffad_ray.capacity.trial import Rate


def print_capacity(found: Capacity, console: Console) -> None:
    """What was measured, and a column for each number of images."""
    trial, node = found.trial, found.node
    has = counted(node.cpus, "CPU") + (f" and {counted(node.gpus, 'GPU')}" if node.gpus else "")
    lines = [
        f"{found.archive}: {found.listed:,} images, {found.new:,} of them new, listed in {found.list_seconds:.1f} s",
        f"trial: {trial.images:,} images in {trial.seconds:.0f} s on one {trial.device.upper()} actor, "
        + ", ".join(f"{count} {status}" for status, count in trial.by_status.items()),
        f"  an image has {trial.costs.file_bytes / 1e3:,.1f} kB, "
        f"{percent(trial.costs.mask_share)} get a mask of {trial.costs.mask_bytes / 1e3:.1f} kB",
        *(
            f"  {name:<7} {_milliseconds(getattr(trial, name))}"
            for name in ("fetch", "decode", "load", "detect", "commit")
        ),
        f"a node like this machine ({has}): {found.node_rate:,.1f} images/s; the run has {found.hours:.1f} hours",
        *(f"note: {note}" for note in found.notes),
    ]
    console.print("\n".join(map(escape, lines)), highlight=False, soft_wrap=True)
    rows: dict[str, Callable[[Forecast], str]] = {
        "nodes": lambda f: f"{f.nodes:,}",
        "actors": lambda f: f"{f.actors:,}",
        "hours": lambda f: f"{f.hours:.2f}",
        "network of a node, Mbit/s": lambda f: f"{f.megabits:,.1f}",
        "cost": lambda f: "-" if f.cost is None else f"{f.cost:,.2f}",
        "reads from the store": lambda f: f"{f.reads:,}",
        "writes to the store": lambda f: f"{f.writes:,}",
        "rows": lambda f: f"{f.images:,}",
        "files": lambda f: f"{f.files:,}",
        "table, GB": lambda f: f"{f.table_bytes / 1e9:,.3f}",
        "masks, GB": lambda f: f"{f.mask_bytes / 1e9:,.3f}",
        "memory of the driver, GB": lambda f: f"{f.driver_bytes / 1e9:.2f}",
    }
    table = Table("images", *(f"{f.images:,}" for f in found.forecasts), box=None)
    for column in table.columns[1:]:
        column.justify = "right"
    for name, text in rows.items():
        table.add_row(name, *map(text, found.forecasts))
    console.print(table)
    for f in found.forecasts:
        for problem in f.problems:
            console.print(f"{f.images:,} images: {problem}", highlight=False, soft_wrap=True, markup=False)


def _milliseconds(rate: Rate) -> str:
    return f"{1000 * rate.mean:9.3f} ms an image (shards from {1000 * rate.low:.3f} to {1000 * rate.high:.3f})"
