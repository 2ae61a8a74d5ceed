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
    output: Annotated[str, typer.Argument(help="Folder or URI of the table of scores to write to.")],
    to: Annotated[str, typer.Option(help="Format: delta.")] = "delta",
) -> None:
    """Add the runs that two Delta tables lack to them. Needs `pip install 'diffad-ray[delta]'`.

    OUTPUT gets the scores, OUTPUT-regions the regions.

    Copy: `diffad-ray export scores s3://lake/scores --to delta`
    """
    from diffad_ray.analytics.delta import export_delta, regions_beside

    if to != "delta":
        raise UserError(f"unknown format {to!r}: tables are exported to delta")
    runs = export_delta(table, output)
    there = f"{output} and {regions_beside(output)}"
    say(f"added {len(runs)} runs to {there}" if runs else f"nothing to do: {there} have all runs that have ended")
