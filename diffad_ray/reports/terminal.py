"""Results for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from diffad_ray.errors import counted, percent
from diffad_ray.evaluation.figures import METRICS

if TYPE_CHECKING:
    from diffad_ray.analytics.history import RunState
    from diffad_ray.analytics.summary import DetectorSummary
    from diffad_ray.evaluation.ablate import Ablation
    from diffad_ray.evaluation.result import Evaluation
    from diffad_ray.preflight.check import Checkup
    from diffad_ray.table.compact import CompactSummary
    from diffad_ray.table.prune import PruneSummary
    from diffad_ray.table.runs import Run
    from diffad_ray.table.verify import Verification

MOST_REASONS = 10
WIDE = 1000


def print_run(run: Run, console: Console) -> None:
    """The closing words of a scoring run."""
    plan, record = run.plan, run.record
    assert record is not None
    # In a log, lines of several runs stand side by side.
    prefix = "" if console.is_terminal or not plan.images else f"run {plan.run_id} "

    def say(text: str) -> None:
        console.print(prefix + text, highlight=False, soft_wrap=True)

    if plan.images == 0:
        say(f"Nothing to do: the table has all {plan.skipped} images under the same detector.")
    else:
        counts = ", ".join(f"{count} {status}" for status, count in record.by_status.items())
        rate = record.images / record.seconds if record.seconds else 0.0
        say(f"[bold]{counted(record.images, 'image')}[/] in {record.seconds:.0f} s ({rate:.1f} images/s): {counts}")
        say(f"  {record.anomalous} anomalous, {plan.skipped} scored before, {plan.other_files} other files")
        if record.resumed:
            say("  finished the run that was interrupted; the rate counts its earlier images too")
        if len(plan.detectors) > 1:
            say("  " + ", ".join(f"{escape(d.name or 'no detector')} {d.images}" for d in plan.detectors))
        if record.modes:
            say(f"  networks ran in {', '.join(record.modes)}")
    for check in record.gates:
        style = "bold red" if check.is_broken else "green"
        for sentence in check.sentences:
            say(f"  [{style}]gate[/] {escape(sentence)}")
    for note in (*plan.notes, *record.findings):
        say(f"  [yellow]note[/] {escape(note)}")
    say(f"  table {escape(plan.table)}" + (f", run {plan.run_id}" if plan.images else ""))
    prefix = ""
    sql = "SELECT image_uri, score FROM scores WHERE is_anomalous ORDER BY score DESC LIMIT 20"
    say(escape(f'Next: diffad-ray query {plan.table} "{sql}"'))


def print_summary(summaries: Sequence[DetectorSummary], console: Console) -> None:
    """Images, failures, defect rate, score quantiles and the worst images, a detector at a time."""
    for summary in summaries:
        rate = "no score" if summary.defect_rate is None else f"{percent(summary.defect_rate)} defect rate"
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
                quantiles.add_column(names.get(level, percent(level)), justify="right")
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
    """Figures by product and kind of defect, those of images first; undefined ones are "-"."""
    images = Table("Images", "", box=None)
    for column in ("AUROC", "95 %", "AP", "F1-max*", "precision", "recall", "F1", "false alarms"):
        images.add_column(column, justify="right")
    pixels = Table("Pixels", "", box=None)
    for column in ("AUROC", "AP", "F1-max*", "AUPRO"):
        pixels.add_column(column, justify="right")
    for name, figures in evaluation.rows():
        low, high = figures.intervals.get("image_auroc", (None, None))
        bounds = "-" if low is None else f"{low:.3f} - {high:.3f}"
        shown = [_figure(getattr(figures, metric)) for metric in METRICS]
        images.add_row(escape(name), str(figures.images), shown[0], bounds, *shown[1:7])
        pixels.add_row(escape(name), str(figures.images), *shown[7:])
    # However narrow the terminal, figures cut off are none.
    wide = Console(file=console.file, width=WIDE, color_system=console.color_system)  # type: ignore[arg-type]
    wide.print(images)
    if any(figures.pixel_auroc is not None for _, figures in evaluation.rows()):
        wide.print()
        wide.print(pixels)
    threshold = "the threshold of each" if evaluation.threshold is None else f"threshold {evaluation.threshold:.4f}"
    size = {
        "whole": f"; pixels at {evaluation.image_size} x {evaluation.image_size}",
        "tiles": "; pixels at the size of the images",
    }.get(evaluation.view or "", "")
    lines = [
        f"{evaluation.good} good images; precision, recall, F1 and false alarms at {threshold}{size}",
        "* an oracle: F1 at the threshold that the labels would choose",
        *(f"[yellow]note[/] {escape(note)}" for note in evaluation.notes),
    ]
    left_out = [f"left out {escape(uri)}: {escape(why)}" for uri, why in evaluation.unreadable.items()]
    if len(left_out) > MOST_REASONS:
        left_out = [*left_out[:MOST_REASONS], f"... and {len(left_out) - MOST_REASONS} more: --json names them all"]
    console.print("\n".join(lines + left_out), highlight=False, soft_wrap=True)


def print_ablation(ablation: Ablation, console: Console) -> None:
    """The variants of an ablation, a block a group."""
    table = Table("setting", "", box=None)
    for column in ("image AUROC", "AP", "pixel AUROC", "AP", "AUPRO", "error of good", "network calls", "images/s"):
        table.add_column(column, justify="right")
    for group, variants in ablation.groups().items():
        for number, variant in enumerate(variants):
            accuracy = (variant.image_auroc, variant.image_ap, variant.pixel_auroc, variant.pixel_ap, variant.aupro)
            prices = f"{variant.normal_error:.5f}", f"{variant.network_calls:g}", f"{variant.images_per_second:.3g}"
            table.add_row("" if number else group, variant.name, *map(_figure, accuracy), *prices)
        table.add_section()
    wide = Console(file=console.file, width=WIDE, color_system=console.color_system)  # type: ignore[arg-type]
    wide.print(table)
    console.print(
        f"{ablation.images} test images; error: mean square of image minus reconstruction of good ones, in [0, 1]; "
        f"images/s without reading, of tiles where the detector sees tiles, on {ablation.device}",
        *ablation.notes,
        sep="\n",
        highlight=False,
        soft_wrap=True,
    )


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def print_runs(states: Sequence[RunState], console: Console) -> None:
    """The runs of a table, a line each."""
    colours = {"running": "cyan", "interrupted": "yellow", "finished": "default", "abandoned": "default"}
    table = Table("run", "started (UTC)", "state", "detectors", "images", "by status", box=None)
    table.add_column("anomalous", justify="right")
    for column in ("seconds", "images/s", "core-s", "GPU-s"):
        table.add_column(column, justify="right")
    table.add_column("archive")
    for state in states:
        images = f"{state.images}" if state.state == "finished" else f"{state.images} of {state.planned}"
        table.add_row(
            state.run_id,
            state.started,
            f"[{colours[state.state]}]{state.state}[/]",
            escape(", ".join(name or "none" for name in state.detectors)),
            images,
            ", ".join(f"{count} {status}" for status, count in state.by_status.items()),
            str(state.anomalous),
            *(
                "-" if figure is None else f"{figure:.{digits}f}"
                for figure, digits in (
                    (state.seconds, 0),
                    (state.images_per_second, 1),
                    (state.core_seconds, 0),
                    (state.gpu_seconds, 0),
                )
            ),
            escape(state.archive),
        )
    # However narrow the terminal, a run is a line: names cut off could not be copied.
    Console(file=console.file, width=WIDE).print(table)


def print_compaction(summary: CompactSummary, console: Console) -> None:
    """What a compaction did."""
    console.print(
        f"{summary.files_before} files are {summary.files_after} now, {summary.rows} rows were copied, "
        f"{summary.dropped} superseded ones removed; "
        f"{summary.left} files of unfinished runs were left as they are",
        highlight=False,
        soft_wrap=True,
    )


def print_pruning(summary: PruneSummary, is_foreseen: bool, console: Console) -> None:
    """What a pruning did, or would do."""
    verb = "would be deleted" if is_foreseen else "were deleted"
    kinds = (("masks", summary.masks, summary.masks_before), ("manifests", summary.manifests, summary.manifests_before))
    for name, count, before in kinds:
        if before:
            console.print(f"{count} {name} of runs before {before} {verb}", highlight=False, soft_wrap=True)


def print_checkup(found: Checkup, console: Console) -> None:
    """What a check found: a line a node, and a line a problem."""
    verdict = f"[red]{counted(len(found.problems), 'problem')}[/]" if found.problems else "[green]no problems[/]"
    lines = [f"check: {counted(len(found.nodes), 'node')}, {verdict}, {found.seconds:.0f} s"]
    for node in found.nodes:
        answers = node.answers
        if answers is None:
            lines.append(f"  {escape(node.name)}, {node.has}: no answer")
            continue
        parts = [f"{name} {seconds:.2f} s" for name, seconds in answers.seconds.items()]
        on = f" on {answers.device}" if answers.device else ""
        room = f"{answers.disk / 1e9:.0f} GB of disk and {answers.memory / 1e9:.0f} GB of memory free"
        lines.append(f"  {escape(node.name)}, {node.has}: {', '.join(parts)}{escape(on)}; {room}")
    lines += [f"  [red]problem[/] {escape(problem.where)}: {escape(problem.what)}" for problem in found.problems]
    console.print("\n".join(lines), highlight=False, soft_wrap=True)


def print_verification(found: Verification, console: Console) -> None:
    """What was checked, and each problem in a line."""
    opened = "all opened" if found.masks_opened == found.masks else f"{found.masks_opened} of them opened"
    verdict = "[red]problems found[/]" if found.problems else "[green]no problems[/]"
    lines = [
        f"{escape(found.table)}: {verdict}",
        f"  {found.rows} rows of {found.runs} runs, {found.files} Parquet files, {found.masks} masks ({opened})",
    ]
    lines += [f"  [red]{problem.kind}[/]: {escape(problem.message)}" for problem in found.problems]
    lines += [f"  note, {note.kind}: {escape(note.message)}" for note in found.notes]
    console.print("\n".join(lines), highlight=False, soft_wrap=True)
