"""Commands around a table: written, asked, drawn, checked and compacted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from diffad_ray.cli.check import check_first
from diffad_ray.cli.shared import (
    AsJson,
    CheckAlone,
    Cpus,
    Gpus,
    Overrides,
    Settings,
    console,
    print_json,
    say,
    stderr,
)
from diffad_ray.cli.unfold import unfold
from diffad_ray.errors import UserError


@dataclass
class ChoiceOptions:
    """Which images of the archive are scored, and by which detector."""

    detector: Annotated[str | None, typer.Option(help="Folder or URI of the detector.")] = None
    route: Annotated[
        list[str] | None,
        typer.Option(metavar="GLOB=DETECTOR", help="Another detector for paths that match. Repeatable."),
    ] = None
    include: Annotated[list[str] | None, typer.Option(metavar="GLOB", help="Only these paths. Repeatable.")] = None
    exclude: Annotated[list[str] | None, typer.Option(metavar="GLOB", help="Not these paths. Repeatable.")] = None
    since: Annotated[str | None, typer.Option(help="Only images changed since: 2026-11-20, 36h, 7d.")] = None
    sample: Annotated[float | None, typer.Option(help="A random share of the images, such as 0.05.")] = None
    limit: Annotated[int | None, typer.Option(help="Only the first so many images of the archive.")] = None
    force: Annotated[bool, typer.Option(help="Score images again that the table has.")] = False

    def settings(self) -> dict[str, Any]:
        """As `make_task` takes them."""
        own = {name: value for name, value in asdict(self).items() if name not in ("detector", "route", "force")}
        return own | {"routes": _routes(self.route or ())}


@dataclass
class RowOptions:
    """What becomes of an image."""

    template: Annotated[
        str | None, typer.Option(help="Columns from paths: '{line}/{camera}/{date:%Y-%m-%d}/{name}'.")
    ] = None
    retry: Annotated[
        str | None, typer.Option(metavar="STATUS,...", help="Try images again that ended so: missing,failed.")
    ] = None
    masks: Annotated[str | None, typer.Option(help="PNG masks of: all, anomalous, none. [default: anomalous]")] = None
    threshold: Annotated[float | None, typer.Option(help="Replaces the detector's threshold.")] = None

    def settings(self) -> dict[str, Any]:
        """As `make_task` takes them."""
        retry = [status.strip() for status in self.retry.split(",")] if self.retry else None
        return asdict(self) | {"retry": retry}


@dataclass
class ClusterOptions:
    """What a run asks of the cluster."""

    gpus: Gpus = None
    cpus: Cpus = None
    actors: Annotated[int | None, typer.Option(min=1, help="Processes that hold the detector.")] = None
    check: CheckAlone = False

    def settings(self) -> dict[str, Any]:
        """As `make_task` takes them."""
        return {"gpus": self.gpus, "cpus": self.cpus, "actors": self.actors}


@unfold
def score(
    archive: Annotated[str, typer.Argument(help="Folder or URI of images, manifest of URIs, or S3 inventory.")],
    table: Annotated[str, typer.Option(help="Folder or URI of the table to write to.")],
    choice: ChoiceOptions,
    rows: RowOptions,
    cluster: ClusterOptions,
    settings: Settings = None,
    override: Overrides = None,
    as_json: AsJson = False,
    compact_after: Annotated[bool, typer.Option("--compact", help="Merge the table's files afterwards.")] = False,
) -> None:
    """Score an archive into a table, a row an image. An interrupted run is finished by the same command.

    Copy: `diffad-ray score s3://plant/line1 --detector s3://plant/detectors/part --table s3://plant/scores`
    """
    from diffad_ray.preflight.check import check_scoring
    from diffad_ray.reports.terminal import print_run
    from diffad_ray.scoring.pipeline import run_task
    from diffad_ray.scoring.task import make_task
    from diffad_ray.table.upkeep import reasons_to_compact

    task = make_task(
        archive,
        table,
        choice.detector,
        force=choice.force,
        settings={**choice.settings(), **rows.settings(), **cluster.settings()},
        settings_file=settings,
        overrides=override or (),
    )
    if check_first(cluster.check, as_json, lambda tell: check_scoring(task, tell)):
        return
    finished = run_task(task, show_progress=True)
    if as_json:
        assert finished.record is not None, "a run that ended without an error has a record"
        print_json({"plan": asdict(finished.plan), "record": asdict(finished.record)})
    else:
        print_run(finished, console)
    if compact_after:
        compact(table)
    elif not as_json and (reasons := reasons_to_compact(finished.plan.table)):
        say(f"The table has {' and '.join(reasons)}. Next: diffad-ray compact {table}, or score with --compact")


def _routes(texts: Sequence[str]) -> dict[str, str]:
    """Detectors by the globs that lead to them."""
    pairs = [text.rpartition("=") for text in texts]
    if wrong := ["".join(pair) for pair in pairs if not all(pair)]:
        raise UserError(f"--route {wrong[0]!r} is not of the form GLOB=DETECTOR, as in 'line1/**=detectors/line1'")
    return {pattern: place for pattern, _, place in pairs}


def query(
    table: Annotated[str, typer.Argument(help="Folder or URI of the table.")],
    sql: Annotated[str | None, typer.Argument(help="Query over the views scores and regions; none: a summary.")] = None,
    output_format: Annotated[
        str | None,
        typer.Option("--format", help="table, tsv, csv, json or parquet. [default: table; tsv in a pipe]"),
    ] = None,
    output: Annotated[str | None, typer.Option(help="File to write to; its ending may choose the format.")] = None,
) -> None:
    """Query a table of scores with SQL (DuckDB), or show its summary.

    Copy: `diffad-ray query scores "SELECT image_uri, score FROM scores ORDER BY score DESC LIMIT 20"`
    """
    from diffad_ray.analytics.query import query as run
    from diffad_ray.analytics.query import query_to_file
    from diffad_ray.analytics.summary import summarise
    from diffad_ray.reports.rows import print_rows
    from diffad_ray.reports.terminal import print_summary

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
    if output is not None or output_format != "table":
        query_to_file(table, sql, output or "/dev/stdout", output_format)
    else:
        print_rows(run(table, sql), console)


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
