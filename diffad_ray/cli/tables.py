"""Commands around a table: asked, drawn, checked, compacted and pruned."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from diffad_ray.cli.shared import (
    AsJson,
    console,
    print_json,
    say,
    stderr,
)
from diffad_ray.errors import UserError


def query(
    table: Annotated[str, typer.Argument(help="Folder or URI of the table.")],
    sql: Annotated[
        str | None, typer.Argument(help="Query over scores, regions, verdicts and all_verdicts; none: a summary.")
    ] = None,
    output_format: Annotated[
        str | None,
        typer.Option("--format", help="table, tsv, csv, json or parquet. [default: table; tsv in a pipe]"),
    ] = None,
    output: Annotated[str | None, typer.Option(help="File to write to; its ending may choose the format.")] = None,
    group_by: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="Column that names the part, such as serial: adds the view parts."),
    ] = None,
) -> None:
    """Query a table of scores with SQL (DuckDB), or show its summary.

    Copy: `diffad-ray query scores "SELECT image_uri, score FROM scores ORDER BY score DESC LIMIT 20"`

    Copy: `diffad-ray query scores --group-by serial "FROM parts WHERE decision = 'reject' ORDER BY tail_probability"`
    """
    from diffad_ray.analytics.parts import WORST_PARTS, images_without_part
    from diffad_ray.analytics.query import query as run
    from diffad_ray.analytics.query import query_to_file
    from diffad_ray.analytics.summary import summarise
    from diffad_ray.reports.rows import print_rows
    from diffad_ray.reports.terminal import print_summary

    if group_by is not None:
        left_out = images_without_part(table, group_by)
        if left_out.images:
            say(str(left_out), stderr)
        sql = sql or WORST_PARTS
    if sql is None:
        summaries = summarise(table)
        if output_format == "json":
            print_json([asdict(summary) for summary in summaries])
        else:
            print_summary(summaries, console)
        return
    if output_format is None:
        in_terminal = "table" if console.is_terminal else "tsv"
        output_format = in_terminal if output is None else Path(output).suffix.removeprefix(".")
    if output is not None:
        query_to_file(table, sql, output, output_format, group_by=group_by)
    elif output_format == "table":
        print_rows(run(table, sql, group_by=group_by), console)
    else:
        _to_stdout(lambda place: query_to_file(table, sql, place, output_format, group_by=group_by))


def _to_stdout(write: Callable[[str], None]) -> None:
    """Give stdout what a function writes to a place. A pipe gets it as it comes.

    Where stdout is a file, DuckDB would open it anew and empty it, also if the shell appends to it (`>>`) or other
    commands have written to it before.
    """
    from diffad_ray.scratch import scratch_folder

    if not stat.S_ISREG(os.fstat(1).st_mode):
        write("/dev/stdout")
        return
    with scratch_folder() as scratch, open(1, "wb", closefd=False) as stdout:
        write(str(scratch / "result"))
        with (scratch / "result").open("rb") as result:
            shutil.copyfileobj(result, stdout)


def picture(
    table: Annotated[str, typer.Argument(help="Folder or URI of the table.")],
    detector: Annotated[str, typer.Option(help="Folder or URI of the detector that scored it.")],
    output: Annotated[str, typer.Option(help="PNG file to write.")] = "worst.png",
    images: Annotated[int, typer.Option(min=1, max=50, help="How many of the worst images.")] = 10,
) -> None:
    """Draw the worst images of a table: image, reconstruction, anomaly map, and what was marked.

    Copy: `diffad-ray picture scores --detector detectors/part --output worst.png`
    """
    from diffad_ray.reports.gallery import draw_gallery, worst_images

    worst = worst_images(table, detector, images)
    for reason in worst.left_out:
        say(f"left out: {reason}", stderr)
    title = f"worst {len(worst.images)} of {table}"
    if worst.left_out:
        title += f", without {len(worst.left_out)} that can't be shown"
    draw_gallery({title: worst.images}, output)
    say(f"wrote {output}")


def overlay(
    table: Annotated[str, typer.Argument(help="Folder or URI of the table.")],
    image: Annotated[str, typer.Argument(help="URI of the image, its file name, or its image_id.")],
    output: Annotated[str, typer.Option(help="PNG file or URI to write.")] = "overlay.png",
) -> None:
    """Draw what was found in an image onto it: outline, box and peak of each region, from the table alone.

    Copy: `diffad-ray overlay scores 000123.png --output overlay.png`
    """
    from diffad_ray.reports.overlay import check_png, write_png
    from diffad_ray.reports.overlay import overlay as run

    check_png(output)
    write_png(run(table, image), output)
    say(f"wrote {output}")


def runs(
    table: Annotated[str, typer.Argument(help="Folder or URI of the table.")],
    as_json: AsJson = False,
) -> None:
    """List the runs of a table: what they scored, and whether they go on, were interrupted, or ended.

    Copy: `diffad-ray runs scores`
    """
    from diffad_ray.analytics.history import runs as run
    from diffad_ray.reports.terminal import print_runs

    states = run(table)
    if as_json:
        print_json([asdict(state) for state in states])
    else:
        print_runs(states, console)


def verify(
    table: Annotated[str, typer.Argument(help="Folder or URI of the table.")],
    masks: Annotated[str, typer.Option(metavar="N|all", help="Masks to open, spread evenly.")] = "1000",
    as_json: AsJson = False,
) -> None:
    """Check that a table holds what its runs planned and recorded. Exit code 1 where it does not.

    Copy: `diffad-ray verify scores`
    """
    from diffad_ray.reports.terminal import print_verification
    from diffad_ray.table.verify import verify as run

    if masks != "all" and not masks.isdecimal():
        raise UserError(f"--masks takes a number or all, not {masks!r}")
    found = run(table, None if masks == "all" else int(masks))
    if as_json:
        print_json(asdict(found))
    else:
        print_verification(found, console)
    if found.problems:
        raise typer.Exit(1)


def compact(
    table: Annotated[str, typer.Argument(help="Folder or URI of the table.")],
    rows_per_file: Annotated[int, typer.Option(min=1, help="Rows that a file should have.")] = 200_000,
    as_json: AsJson = False,
) -> None:
    """Merge the small files of runs that are over into large ones; queries go on meanwhile, and get faster.

    Copy: `diffad-ray compact scores`
    """
    from diffad_ray.reports.terminal import print_compaction
    from diffad_ray.table.compact import compact as run

    summary = run(table, rows_per_file)
    if as_json:
        print_json(asdict(summary))
    else:
        print_compaction(summary, console)


def prune(
    table: Annotated[str, typer.Argument(help="Folder or URI of the table.")],
    masks_days: Annotated[int | None, typer.Option(min=0, help="Delete masks of runs older than this.")] = None,
    manifests_days: Annotated[int | None, typer.Option(min=0, help="Delete manifests of runs older than this.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count only.")] = False,
    as_json: AsJson = False,
) -> None:
    """Delete the masks and manifests of old runs; scores and regions are never deleted.

    Copy: `diffad-ray prune scores --masks-days 90`
    """
    from diffad_ray.reports.terminal import print_pruning
    from diffad_ray.table.prune import prune as run

    if masks_days is None and manifests_days is None:
        raise UserError("give --masks-days or --manifests-days, the days for which they are kept")
    summary = run(table, masks_days=masks_days, manifests_days=manifests_days, dry_run=dry_run)
    if as_json:
        print_json(asdict(summary))
    else:
        print_pruning(summary, dry_run, console)
