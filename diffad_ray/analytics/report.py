"""Results for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    import pyarrow as pa

    from diffad_ray.analytics.summary import DetectorSummary
    from diffad_ray.detectors.bundle import Bundle
    from diffad_ray.evaluation.evaluate import Evaluation
    from diffad_ray.scoring.pipeline import RunRecord

MOST_ROWS = 100
MOST_REASONS = 10


def print_training(bundle: Bundle, location: str, console: Console) -> None:
    """The closing words of a training."""
    facts, calibration, settings = bundle.facts, bundle.calibration, bundle.detector.settings
    lines = [
        f"{bundle.name} {bundle.fingerprint}",
        f"  trained {facts['settings']['steps']} steps on {facts['images']} images in {facts['seconds']} s "
        f"({facts['mode']}), losses in {location}/training/losses.png",
        f"  threshold {calibration.threshold:.4f}: {calibration.false_alarm_rate:.1%} of good parts may score higher, "
        f"judged by {calibration.images} held-back images; scores in {settings.precision}",
    ]
    if problems := facts["unreadable"]:
        lines.append(f"  {len(problems)} images could not be read and were left out:")
        lines += [f"    {uri}: {reason}" for uri, reason in list(problems.items())[:MOST_REASONS]]
    lines.append(f"Next: diffad-ray score ARCHIVE --detector {location} --table TABLE")
    console.print("\n".join(lines), highlight=False, soft_wrap=True, markup=False)


def print_run(record: RunRecord, console: Console) -> None:
    """The closing words of a scoring run."""

    def say(text: str) -> None:
        console.print(text, highlight=False, soft_wrap=True)

    if record.images == 0:
        say(f"Nothing to do: the table has all {record.skipped} images under this detector ({record.fingerprint}).")
    else:
        counts = ", ".join(f"{count} {status}" for status, count in record.by_status.items())
        rate = record.images / record.seconds if record.seconds else 0.0
        say(f"[bold]{record.images} images[/] in {record.seconds:.0f} s ({rate:.1f} images/s): {counts}")
        say(f"  {record.anomalous} anomalous, {record.skipped} scored before, {record.other_files} other files")
        if record.resumed:
            say("  finished the run that was interrupted; the rate counts its earlier images too")
        if record.modes:
            say(f"  networks ran in {', '.join(record.modes)}")
    say(f"  table {record.table}, run {record.run_id}")
    say(f"Next: diffad-ray query {record.table}")


def print_summary(summaries: Sequence[DetectorSummary], console: Console) -> None:
    """Images, failures, defect rate, score quantiles and the worst images, a detector at a time."""
    for summary in summaries:
        rate = "no score" if summary.defect_rate is None else f"{summary.defect_rate:.2%} defect rate"
        times = f"{summary.first:%Y-%m-%d %H:%M} to {summary.last:%Y-%m-%d %H:%M} UTC"
        console.print(
            f"\n[bold]{escape(summary.detector)}[/] {summary.fingerprint}   {summary.images} images, "
            f"{summary.anomalous} anomalous, {rate}   {times}",
            highlight=False,
            soft_wrap=True,
        )
        if summary.failures:
            table = Table("images", "status", "reason", title="Without a score", title_justify="left", box=None)
            for status, reason, count in summary.failures:
                table.add_row(str(count), status, escape(reason))
            console.print(table)
        if summary.quantiles:
            names = {0.0: "lowest", 0.5: "median", 1.0: "highest"}
            quantiles = Table(title="Scores", title_justify="left", box=None)
            for level in summary.quantiles:
                quantiles.add_column(names.get(level, f"{level:.0%}"), justify="right")
            quantiles.add_row(*(f"{value:.4f}" for value in summary.quantiles.values()))
            console.print(quantiles)
        worst = Table("score", "tail", "regions", title="Worst images", title_justify="left", box=None)
        worst.add_column("image", overflow="fold")
        for row in summary.worst:
            mark = "[red]" if row["is_anomalous"] else "[default]"
            tail = f"{row['tail_probability']:.2g}"
            worst.add_row(f"{mark}{row['score']:.4f}[/]", tail, str(row["region_count"]), escape(row["image_uri"]))
        console.print(worst)


def print_evaluation(evaluation: Evaluation, console: Console) -> None:
    """Figures by kind of defect."""
    columns = ("kind", "images", "image AUROC", "image AP", "pixel AUROC", "pixel AP", "precision", "recall")
    table = Table(*columns, box=None)
    for kind, figures in evaluation.figures.items():
        values = (
            figures.image_auroc,
            figures.image_ap,
            figures.pixel_auroc,
            figures.pixel_ap,
            figures.precision,
            figures.recall,
        )
        shown = ["-" if value is None else f"{value:.4f}" for value in values]
        table.add_row(escape(kind), str(figures.images), *shown)
    console.print(table)
    overall = next(iter(evaluation.figures.values()))
    alarms = "-" if overall.false_alarm_rate is None else f"{overall.false_alarm_rate:.2%}"
    console.print(
        f"{evaluation.good} good images, false alarms {alarms} at threshold {evaluation.threshold:.4f}; "
        f"pixels at {evaluation.image_size} x {evaluation.image_size}",
        highlight=False,
        soft_wrap=True,
    )
    for uri, reason in evaluation.unreadable.items():
        console.print(f"left out {escape(uri)}: {escape(reason)}", highlight=False, soft_wrap=True)


def print_rows(rows: pa.Table, console: Console) -> None:
    """A query's result; at most the first 100 rows."""
    table = Table(*map(escape, rows.column_names), box=None)
    for row in rows.slice(0, MOST_ROWS).to_pylist():
        table.add_row(*(f"{v:.6g}" if isinstance(v, float) else escape(str(v)) for v in row.values()))
    console.print(table)
    if len(rows) > MOST_ROWS:
        console.print(f"... {len(rows) - MOST_ROWS} rows more: add a LIMIT, or write them all with --output rows.csv")
