"""Commands that give a table to other engines, and a detector to other programs."""

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
    source: Annotated[str, typer.Argument(help="Folder or URI of a table, or with --onnx of a detector.")],
    output: Annotated[
        str | None,
        typer.Argument(help="Folder or URI of the Delta table of scores; regions: OUTPUT-regions."),
    ] = None,
    to: Annotated[str, typer.Option(help="Format in which a table is exported: delta.")] = "delta",
    onnx: Annotated[
        str | None, typer.Option(metavar="FILE", help="Export a detector as one ONNX graph to this file or URI.")
    ] = None,
) -> None:
    """Add the runs that two Delta tables lack to them (extra `delta`), or write a detector as an ONNX file.

    ONNX files need the extra `onnx`.

    Copy: `diffad-ray export scores s3://lake/scores --to delta`

    Copy: `diffad-ray export detectors/part --onnx part.onnx`
    """
    if onnx is not None:
        if output is not None:
            raise UserError(f"a detector is exported to the file of --onnx ({onnx}) alone: leave {output} out")
        _export_detector(source, onnx)
        return
    if output is None:
        raise UserError(
            "name the Delta table to add the rows to, as in `diffad-ray export scores lake/scores`, or export a "
            "detector by `diffad-ray export detectors/part --onnx part.onnx`"
        )
    from diffad_ray.analytics.delta import export_delta, regions_beside

    if to != "delta":
        raise UserError(f"unknown format {to!r}: tables are exported to delta")
    runs = export_delta(source, output)
    there = f"{output} and {regions_beside(output)}"
    say(f"added {len(runs)} runs to {there}" if runs else f"nothing to do: {there} have all runs that have ended")


def _export_detector(detector: str, file: str) -> None:
    from diffad_ray.exports.onnx_file import export_onnx

    made = export_onnx(detector, file)
    say(
        f"wrote {made.location}: {made.bytes / 1e6:.1f} MB, the detector {made.detector}. onnxruntime and torch in "
        f"float32 differ by {made.score_difference:.1g} in the score of an image of noise"
    )
