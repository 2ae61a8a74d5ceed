"""The command line: a command a verb, each calling the function of the same name."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from diffad_ray.errors import UserError
from diffad_ray.networks.presets import PRESETS

app = typer.Typer(
    name="diffad-ray",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Finds defects in archives of inspection images: train on good parts, score an archive, query the table.",
)
console = Console()
INTERRUPTED = 130
"Exit code after Ctrl-C."

Settings = Annotated[str | None, typer.Option("--settings", help="TOML settings file; options win over it.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Any setting; wins over all. Repeatable.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


@app.command()
def train(
    normals: Annotated[str, typer.Argument(help="Folder or URI of images of good parts.")],
    detector: Annotated[str, typer.Option(help="Folder or URI to write the detector to.")],
    preset: Annotated[str | None, typer.Option(help=f"Network sizes: {', '.join(PRESETS)}. [default: small]")] = None,
    image_size: Annotated[int | None, typer.Option(help="Side in pixels that networks see. [default: 128]")] = None,
    steps: Annotated[int | None, typer.Option(help="Training steps. [default: 2000]")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images a step, all workers together. [default: 16]")] = None,
    textures: Annotated[str | None, typer.Option(help="Folder or URI of textures for pseudo-anomalies.")] = None,
    kind: Annotated[str, typer.Option(help="Kind of detector.")] = "diffusion-ad",
    workers: Annotated[int, typer.Option(help="Ray Train workers; 0 trains without Ray.")] = 1,
    cpus_per_worker: Annotated[int | None, typer.Option(help="CPUs of a worker. [default: its share of cores]")] = None,
    settings: Settings = None,
    override: Overrides = None,
    fresh: Annotated[bool, typer.Option(help="Start over instead of going on.")] = False,
) -> None:
    """Train a detector on images of good parts. An interrupted training goes on by the same command.

    Copy: `diffad-ray train parts/good --detector detectors/part --preset small --steps 2000`
    """
    from diffad_ray.analytics.report import print_training
    from diffad_ray.training.train import train as run

    bundle = run(
        normals,
        detector,
        kind=kind,
        preset=preset,
        image_size=image_size,
        steps=steps,
        batch_size=batch_size,
        textures=textures,
        workers=workers,
        cpus_per_worker=cpus_per_worker,
        settings_file=settings,
        overrides=override or (),
        fresh=fresh,
        show_progress=True,
    )
    print_training(bundle, detector, console)


@app.command()
def score(
    archive: Annotated[str, typer.Argument(help="Folder or URI of images, manifest of URIs, or S3 inventory.")],
    table: Annotated[str, typer.Option(help="Folder or URI of the table to write to.")],
    detector: Annotated[str | None, typer.Option(help="Folder or URI of the detector.")] = None,
    route: Annotated[
        list[str] | None,
        typer.Option(metavar="GLOB=DETECTOR", help="Another detector for paths that match. Repeatable."),
    ] = None,
    include: Annotated[list[str] | None, typer.Option(metavar="GLOB", help="Only these paths. Repeatable.")] = None,
    exclude: Annotated[list[str] | None, typer.Option(metavar="GLOB", help="Not these paths. Repeatable.")] = None,
    since: Annotated[str | None, typer.Option(help="Only images changed since: 2026-11-20, 36h, 7d.")] = None,
    sample: Annotated[float | None, typer.Option(help="A random share of the images, such as 0.05.")] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first so many images of the archive.")] = None,
    template: Annotated[
        str | None, typer.Option(help="Columns from paths: '{line}/{camera}/{date:%Y-%m-%d}/{name}'.")
    ] = None,
    retry: Annotated[
        str | None, typer.Option(metavar="STATUS,...", help="Try images again that ended so: missing,failed.")
    ] = None,
    masks: Annotated[str | None, typer.Option(help="PNG masks of: all, anomalous, none. [default: anomalous]")] = None,
    threshold: Annotated[float | None, typer.Option(help="Replaces the detector's threshold.")] = None,
    actors: Annotated[int | None, typer.Option(min=1, help="Processes that hold the detector.")] = None,
    force: Annotated[bool, typer.Option(help="Score images again that the table has.")] = False,
    settings: Settings = None,
    override: Overrides = None,
) -> None:
    """Score an archive into a table, a row an image. An interrupted run is finished by the same command.

    Copy: `diffad-ray score s3://plant/line1 --detector detectors/part --table s3://plant/scores`
    """
    from diffad_ray.analytics.report import print_run
    from diffad_ray.scoring.pipeline import score as run

    pairs = [text.rpartition("=") for text in route or ()]
    if wrong := ["".join(pair) for pair in pairs if not all(pair)]:
        raise UserError(f"--route {wrong[0]!r} is not of the form GLOB=DETECTOR, as in 'line1/**=detectors/line1'")
    finished = run(
        archive,
        table=table,
        detector=detector,
        routes={pattern: place for pattern, _, place in pairs},
        include=include,
        exclude=exclude,
        since=since,
        sample=sample,
        limit=limit,
        template=template,
        retry=[status.strip() for status in retry.split(",")] if retry else None,
        masks=masks,
        threshold=threshold,
        actors=actors,
        force=force,
        settings_file=settings,
        overrides=override or (),
        show_progress=True,
    )
    print_run(finished, console)


@app.command()
def evaluate(
    detector: Annotated[str | None, typer.Argument(help="Folder or URI of the detector.")] = None,
    dataset: Annotated[
        str | None, typer.Argument(help="Labelled images: MVTec AD, MPDD, BTAD, VisA, DAGM 2007, or a table of labels.")
    ] = None,
    table: Annotated[str | None, typer.Option(help="Folder or URI of a table: take its scores, open no image.")] = None,
    labels: Annotated[str | None, typer.Option(help="With --table: CSV or Parquet file with uri and label.")] = None,
    threshold: Annotated[float | None, typer.Option(help="Replaces the detector's threshold.")] = None,
    html: Annotated[str | None, typer.Option(help="File or URI of a page to write: curves, figures, images.")] = None,
    as_json: AsJson = False,
) -> None:
    """Compare a detector, or the scores of a table, with labels: AUROC, AP, AUPRO, figures at the threshold.

    Copy: `diffad-ray evaluate detectors/part parts --html part.html`

    Copy: `diffad-ray evaluate --table scores --labels labels.csv`
    """
    from diffad_ray.analytics.report import print_evaluation
    from diffad_ray.evaluation.evaluate import evaluate as run
    from diffad_ray.evaluation.scored_table import evaluate_table

    if table is not None and labels is not None and dataset is None:
        found = evaluate_table(table, labels, detector=detector, threshold=threshold)
    elif table is None and labels is None and detector is not None and dataset is not None:
        found = run(detector, dataset, threshold=threshold, show_progress=True)
    else:
        raise UserError("give DETECTOR and DATASET, or --table and --labels (and DETECTOR, where several have scored)")
    # Before the page: a place that can't be written must not cost the figures.
    if as_json:
        _print_json(asdict(found))
    else:
        print_evaluation(found, console)
    if html is not None:
        from diffad_ray.analytics.evaluation_page import write_page

        write_page(found, html, detector)
        Console(stderr=True).print(f"wrote {html}", highlight=False, soft_wrap=True)


@app.command()
def query(
    table: Annotated[str, typer.Argument(help="Folder or URI of the table.")],
    sql: Annotated[str | None, typer.Argument(help="Query over the views scores and regions; none: a summary.")] = None,
    output_format: Annotated[str, typer.Option("--format", help="table, csv, json or parquet.")] = "table",
    output: Annotated[str | None, typer.Option(help="File to write to; its ending may choose the format.")] = None,
) -> None:
    """Query a table of scores with SQL (DuckDB), or show its summary.

    Copy: `diffad-ray query scores "SELECT image_uri, score FROM scores ORDER BY score DESC LIMIT 20"`
    """
    from diffad_ray.analytics.query import query as run
    from diffad_ray.analytics.query import query_to_file
    from diffad_ray.analytics.report import print_rows, print_summary
    from diffad_ray.analytics.summary import summarise

    if sql is None:
        summaries = summarise(table)
        if output_format == "json":
            _print_json([asdict(summary) for summary in summaries])
        else:
            print_summary(summaries, console)
        return
    if output is not None and output_format == "table":
        output_format = Path(output).suffix.removeprefix(".")
    if output is not None or output_format != "table":
        query_to_file(table, sql, output or "/dev/stdout", output_format)
    else:
        print_rows(run(table, sql), console)


@app.command()
def picture(
    table: Annotated[str, typer.Argument(help="Folder or URI of the table.")],
    detector: Annotated[str, typer.Option(help="Folder or URI of the detector that scored it.")],
    output: Annotated[str, typer.Option(help="PNG file to write.")] = "worst.png",
    images: Annotated[int, typer.Option(min=1, max=50, help="How many of the worst images.")] = 10,
) -> None:
    """Draw the worst images of a table: image, reconstruction, anomaly map, and what was marked.

    Copy: `diffad-ray picture scores --detector detectors/part --output worst.png`
    """
    from diffad_ray.analytics.gallery import draw_gallery, worst_images

    worst = worst_images(table, detector, images)
    draw_gallery({f"worst {len(worst)} of {table}": worst}, output)
    console.print(f"wrote {output}", highlight=False, soft_wrap=True)


@app.command()
def overlay(
    table: Annotated[str, typer.Argument(help="Folder or URI of the table.")],
    image: Annotated[str, typer.Argument(help="URI of the image, its file name, or its image_id.")],
    output: Annotated[str, typer.Option(help="PNG file or URI to write.")] = "overlay.png",
) -> None:
    """Draw what was found in an image onto it: outline, box and peak of each region, from the table alone.

    Copy: `diffad-ray overlay scores 000123.png --output overlay.png`
    """
    from diffad_ray.analytics.overlay import overlay as run
    from diffad_ray.analytics.overlay import write_png

    write_png(run(table, image), output)
    console.print(f"wrote {output}", highlight=False, soft_wrap=True)


@app.command()
def runs(
    table: Annotated[str, typer.Argument(help="Folder or URI of the table.")],
    as_json: AsJson = False,
) -> None:
    """List the runs of a table: what they scored, and whether they go on, were interrupted, or ended.

    Copy: `diffad-ray runs scores`
    """
    from diffad_ray.analytics.history import runs as run
    from diffad_ray.analytics.report import print_runs

    states = run(table)
    if as_json:
        _print_json([asdict(state) for state in states])
    else:
        print_runs(states, console)


@app.command()
def verify(
    table: Annotated[str, typer.Argument(help="Folder or URI of the table.")],
    masks: Annotated[str, typer.Option(metavar="N|all", help="Masks to open, spread evenly.")] = "1000",
    as_json: AsJson = False,
) -> None:
    """Check that a table holds what its runs planned and recorded. Exit code 1 where it does not.

    Copy: `diffad-ray verify scores`
    """
    from diffad_ray.analytics.report import print_verification
    from diffad_ray.table.verify import verify as run

    if masks != "all" and not masks.isdecimal():
        raise UserError(f"--masks takes a number or all, not {masks!r}")
    found = run(table, None if masks == "all" else int(masks))
    if as_json:
        _print_json(asdict(found))
    else:
        print_verification(found, console)
    if found.problems:
        raise typer.Exit(1)


@app.command()
def compact(
    table: Annotated[str, typer.Argument(help="Folder or URI of the table.")],
    rows_per_file: Annotated[int, typer.Option(min=1, help="Rows that a file should have.")] = 200_000,
) -> None:
    """Merge the small files of runs that are over into large ones; queries go on meanwhile, and get faster.

    Copy: `diffad-ray compact scores`
    """
    from diffad_ray.analytics.report import print_compaction
    from diffad_ray.table.compact import compact as run

    print_compaction(run(table, rows_per_file), console)


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("demo-output"),
    images: Annotated[int, typer.Option(help="Images in the archive.")] = 400,
    steps: Annotated[int | None, typer.Option(help="Training steps a product.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the archive and the trainings.")] = 0,
) -> None:
    """Show everything on generated images: two products, two detectors, an archive, figures and a picture.

    Copy: `diffad-ray demo --output demo-output`
    """
    from diffad_ray.demo.demo import run_demo

    run_demo(output, images=images, steps=steps, seed=seed, console=console)


@app.command()
def import_checkpoint(
    checkpoint: Annotated[str, typer.Argument(help="File or URI of a checkpoint of the released DiffusionAD.")],
    detector: Annotated[str, typer.Option(help="Folder or URI to write the detector to.")],
    normals: Annotated[str | None, typer.Option(help="Folder or URI of normal images that set the threshold.")] = None,
    image_size: Annotated[int | None, typer.Option(help="Side in pixels, for a file that does not say.")] = None,
    t_small: Annotated[int | None, typer.Option(help="Lower noise step. [default: the file's, else 200]")] = None,
    t_big: Annotated[int | None, typer.Option(help="Higher noise step. [default: the file's, else 400]")] = None,
) -> None:
    """Make a detector of a checkpoint of the released DiffusionAD code; nothing in the file is run.

    Copy: `diffad-ray import-checkpoint params-best.pt --detector detectors/part --normals parts/good`
    """
    from diffad_ray.training.import_checkpoint import import_checkpoint as run

    if normals is None:
        raise UserError("a checkpoint has no threshold: give --normals FOLDER with images of good parts that set one")
    bundle = run(
        checkpoint,
        detector,
        normals=normals,
        image_size=image_size,
        t_small=t_small,
        t_big=t_big,
        show_progress=True,
    )
    calibration, unreadable = bundle.calibration, bundle.facts["unreadable"]
    lines = [
        f"{bundle.name} {bundle.fingerprint}",
        f"  threshold {calibration.threshold:.4f}: {calibration.false_alarm_rate:.1%} of good parts may score higher, "
        f"judged by {calibration.images} images",
        *(f"  could not be read: {uri}: {reason}" for uri, reason in unreadable.items()),
        f"Next: diffad-ray score ARCHIVE --detector {detector} --table TABLE",
    ]
    console.print("\n".join(lines), highlight=False, soft_wrap=True, markup=False)


@app.command()
def contact_sheet(
    normals: Annotated[str, typer.Argument(help="Folder or URI of images of good parts.")],
    output: Annotated[str, typer.Option(help="PNG file or URI to write.")],
    textures: Annotated[str | None, typer.Option(help="Folder or URI of textures for pseudo-anomalies.")] = None,
    image_size: Annotated[int | None, typer.Option(help="Side in pixels that networks see. [default: 128]")] = None,
    count: Annotated[int, typer.Option(min=1, help="Samples to show.")] = 8,
    seed: Annotated[int, typer.Option(help="Seed of the images and anomalies.")] = 0,
    override: Overrides = None,
) -> None:
    """Draw what the networks are taught: rows of a normal image, its pseudo-anomaly and the mask.

    Copy: `diffad-ray contact-sheet parts/good --output sheet.png`
    """
    from diffad_ray.analytics.contact_sheet import contact_sheet as run
    from diffad_ray.analytics.overlay import write_png

    sheet = run(normals, textures=textures, image_size=image_size, count=count, seed=seed, overrides=override or ())
    write_png(sheet, output)
    console.print(f"wrote {output}", highlight=False, soft_wrap=True)


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=1, default=str))


def main() -> None:
    """Run the command line; errors that the user can mend, and refusals of disks and stores, end with one message and
    exit code 2."""
    try:
        app()
    except BrokenPipeError:
        # Whoever read our output, such as `head`, has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (UserError, OSError) as error:
        message = Text.assemble(("Error: ", "bold red"), str(error))
        Console(stderr=True).print(message, soft_wrap=True)
        sys.exit(2)
    except SystemExit as end:
        if end.code == INTERRUPTED:
            print("Interrupted. The same command goes on where this one stopped.", file=sys.stderr)
        raise


if __name__ == "__main__":
    main()
