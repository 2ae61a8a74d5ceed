"""The command that compares two detectors before one takes the place of the other."""

from __future__ import annotations

from typing import Annotated

import typer

from diffad_ray.cli.shared import AsJson, console, print_json, say, stderr

LOST = 2
"Exit code if the new detector loses a confirmed defect: a person must act before it is used."


def compare(
    table: Annotated[str, typer.Argument(help="Folder or URI of the table.")],
    detectors: Annotated[
        tuple[str, str],
        typer.Option(metavar="OLD NEW", help="Names of two detectors, or beginnings of their fingerprints."),
    ],
    by: Annotated[str, typer.Option(metavar="COLUMN,...", help="Columns that make groups.")] = "",
    group_by: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Compare parts; the column, such as serial, names the part.")
    ] = None,
    same_alerts: Annotated[
        bool, typer.Option("--same-alerts", help="Choose NEW's threshold so that it gives as many alerts as OLD.")
    ] = False,
    out: Annotated[str | None, typer.Option(help="HTML page to write, a file or URI.")] = None,
    as_json: AsJson = False,
) -> None:
    """Compare two detectors over the images that both scored. Exit code 2 if NEW loses a confirmed defect.

    Copy: `diffad-ray compare scores --detectors part part-2 --by line --out compare.html`
    """
    from diffad_ray.analytics.compare import compare as run
    from diffad_ray.reports.comparison_text import print_comparison

    columns = [column.strip() for column in by.split(",") if column.strip()]
    found = run(table, *detectors, by=columns, group_by=group_by, same_alerts=same_alerts)
    if out is not None:
        from diffad_ray.reports.comparison_page import write_page

        write_page(found, out)
        say(f"wrote {out}", stderr)
    if as_json:
        print_json(found.to_json())
    else:
        print_comparison(found, console)
    if found.defects.lost:
        raise typer.Exit(LOST)
