"""Commands that give a table to other engines."""

from __future__ import annotations

from typing import Annotated

import typer

from diffad_ray.cli.shared import say
from diffad_ray.errors import UserError


def ddl(
    table: Annotated[str, typer.Argument(help="Folder or URI of the table.")],
    engine: Annotated[str, typer.Option(help="athena, trino, spark, duckdb or bigquery.")],
) -> None:
    """Print the SQL that creates a table in another engine, with the views scores, regions and verdicts.

    Copy: `diffad-ray ddl s3://plant/scores --engine athena`
    """
    from diffad_ray.analytics.ddl import ddl as run

    print(run(table, engine))


def views(
    table: Annotated[str, typer.Argument(help="Folder or URI of the table.")],
    output: Annotated[str, typer.Argument(help="DuckDB database file to write.")],
) -> None:
    """Write a DuckDB database of views and macros that read a table, for dashboards and notebooks.

    Copy: `diffad-ray views scores plant.duckdb`
    """
    from diffad_ray.analytics.database import write_database

    write_database(table, output)
    views_of_file = "views scores, regions, verdicts and all_verdicts"
    say(f"wrote {output}: {views_of_file}, macros worst, defect_rate, image and regions_of")


def export(
    table: Annotated[str, typer.Argument(help="Folder or URI of the table.")],
    output: Annotated[str, typer.Argument(help="Folder or URI of the table to write to.")],
    to: Annotated[str, typer.Option(help="Format: delta.")] = "delta",
) -> None:
    """Add the runs that a Delta table lacks to it. Needs `pip install 'diffad-ray[delta]'`.

    Copy: `diffad-ray export scores s3://lake/scores --to delta`
    """
    from diffad_ray.analytics.delta import export_delta

    if to != "delta":
        raise UserError(f"unknown format {to!r}: tables are exported to delta")
    runs = export_delta(table, output)
    say(f"added {len(runs)} runs to {output}" if runs else f"nothing to do: {output} has all runs that have ended")
