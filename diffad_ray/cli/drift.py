"""The command that says whether what is normal has moved."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from diffad_ray.cli.shared import AsJson, console, print_json


def drift(
    table: Annotated[str, typer.Argument(help="Folder or URI of the table.")],
    since: Annotated[str, typer.Option(help="First date, or days: 2026-11-01, 30d.")] = "30d",
    until: Annotated[str | None, typer.Option(help="Last date. [default: that of the last rows]")] = None,
    by: Annotated[str, typer.Option(metavar="COLUMN,...", help="Columns that make groups, beside the detector.")] = "",
    day_column: Annotated[str, typer.Option(help="Column of days or moments.")] = "run_date",
    as_json: AsJson = False,
) -> None:
    """Say whether what is normal has moved, and why: camera, light, lot or defects. Exit code 2 where you must act.

    Copy: `diffad-ray drift scores --by camera`
    """
    from diffad_ray.analytics.drift import drift as run
    from diffad_ray.reports.drift_text import print_drift

    found = run(table, since, until, [name.strip() for name in by.split(",") if name.strip()], day_column)
    if as_json:
        print_json(asdict(found) | {"needs_action": found.needs_action})
    else:
        print_drift(found, console)
    if found.needs_action:
        raise typer.Exit(2)
