"""`demo`: the whole way on generated images, and what a plant's engineer would want to see of it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from diffad_ray.analytics.query import query
from diffad_ray.analytics.report import Question, report
from diffad_ray.analytics.summary import summarise
from diffad_ray.bundles.bundle import Bundle
from diffad_ray.cluster import connect, cores
from diffad_ray.demo import days
from diffad_ray.demo.archive import IMAGE_SIZE, DemoArchive, make_archive
from diffad_ray.demo.surfaces import DEFECTS, PRODUCTS
from diffad_ray.errors import UserError
from diffad_ray.evaluation.metrics import at_threshold, auroc, average_precision
from diffad_ray.labels.datasets import GOOD
from diffad_ray.reports.gallery import draw_gallery, worst_images
from diffad_ray.reports.report_page import write_page
from diffad_ray.reports.report_page.sentences import headlines
from diffad_ray.reports.terminal import print_summary
from diffad_ray.scoring.pipeline import score
from diffad_ray.training.train import train

STEPS = 200
BATCH = 8
NETWORK_SIDE = 64
SHOWN = 6
MARKER = "demo-archive"
"A folder with a file of this name was made by the demonstration, so it may be deleted for the next one."


def run_demo(output: Path, *, images: int, steps: int | None, seed: int, console: Console) -> None:
    """Generate, train, score, compare with the truth, and draw; everything goes below `output`.

    Raises:
        UserError: `output` holds something else than an earlier demonstration.
    """
    started = time.monotonic()

    def say(text: str) -> None:
        console.print(f"[dim]{time.monotonic() - started:5.0f} s[/]  {text}", highlight=False, soft_wrap=True)

    output = _fresh_folder(output)
    archive = make_archive(output, images, seed)
    say(f"made {len(archive.truth)} images of {len(PRODUCTS)} products and {len(archive.broken)} broken files")
    table = output / "table"

    def train_one(product: str) -> Bundle:
        return train(
            archive.normals(product),
            output / "detectors" / product,
            settings={
                "detector": {"preset": "tiny", "image_size": NETWORK_SIDE},
                "training": {
                    "steps": steps or STEPS,
                    "batch_size": BATCH,
                    "ema_decay": 0.98,
                    "held_back": 0.3,
                    # For so few images, trials of other runtimes would take longer than they save.
                    "scoring_runtime": "torch",
                    "seed": seed,
                },
            },
            cpus_per_worker=max(1, cores() // len(PRODUCTS)),
            show_progress=product == next(iter(PRODUCTS)),
        )

    # Side by side: two small trainings use the cores better than one after the other.
    connect()
    with ThreadPoolExecutor(len(PRODUCTS)) as pool:
        for bundle in pool.map(train_one, PRODUCTS):
            facts = bundle.facts
            losses = f"noise {facts['losses']['noise']:.3f}, focal {facts['losses']['focal']:.4f}"
            say(f"trained [bold]{bundle.name}[/] on {facts['images']} images of good parts ({losses})")
    for product in PRODUCTS:
        _, record = score(archive.archive(product), detector=output / "detectors" / product, table=table)
        assert record is not None
        counts = ", ".join(f"{count} {status}" for status, count in record.by_status.items())
        say(f"scored [bold]{product}[/]: {record.images} images, {counts}")
    print_summary(summarise(table, worst=5), console)
    _print_truth(archive, table, console)
    worst = {p: worst_images(table, output / "detectors" / p, SHOWN).images for p in PRODUCTS}
    draw_gallery(worst, output / "worst.png")
    _report_days(output, seed, console, say)
    console.print()
    say("done. Look at, and try:")
    _print_next(output, table, console)


def _print_next(output: Path, table: Path, console: Console) -> None:
    """Print what to look at, and what to type next."""
    for line in (
        f"{output / 'report.html'}",
        f"{output / 'worst.png'}",
        f"diffad-ray query {table}",
        f"diffad-ray report {output / 'days-table'} --since {days.SHOWN}d --day-column date --out report.html",
        f'diffad-ray query {table} "SELECT detector, status, count(*), avg(score) FROM scores GROUP BY ALL"',
    ):
        console.print(f"  {line}", highlight=False, soft_wrap=True, markup=False)


def _report_days(output: Path, seed: int, console: Console, say: Callable[[str], None]) -> None:
    """Score some days of a small plant, and report on the last ones: three planted stories."""
    images = days.make_days(output / "days", IMAGE_SIZE, seed)
    table = output / "days-table"
    score(output / "days", detector=output / "detectors" / days.PRODUCT, table=table, template=days.TEMPLATE)
    found = report(table, Question(since=f"{days.SHOWN}d", day_column="date"))
    write_page(found, str(output / "report.html"))
    say(f"scored {images} images of {days.DAYS} days, and reported on the last {days.SHOWN}:")
    for one in headlines(found):
        console.print(f"  - {one.text}", highlight=False, markup=False)


def _fresh_folder(output: Path) -> Path:
    output = output.absolute()
    if output.exists() and any(output.iterdir()):
        if not (output / MARKER).exists():
            raise UserError(f"{output} holds files that no demo made: choose another folder with --output")
        shutil.rmtree(output)
    try:
        output.mkdir(parents=True, exist_ok=True)
        (output / MARKER).write_text("made by `diffad-ray demo`; the next demo deletes this folder\n")
    except OSError as error:
        raise UserError(f"{output} can't be written: {error}") from error
    return output


def _print_truth(archive: DemoArchive, table: Path, console: Console) -> None:
    """Figures against the known truth, on images that no training saw."""
    rows = query(table, "SELECT image_uri, detector, score, threshold FROM scores WHERE status = 'ok'").to_pylist()
    shown = Table("product", "defect", "images", "image AUROC", "image AP", "recall", "false alarms", box=None)
    shown.title, shown.title_justify = "Against the known truth", "left"
    for product in PRODUCTS:
        mine = [row for row in rows if row["detector"] == product]
        kinds = np.array([archive.truth[row["image_uri"]] for row in mine])
        scores = np.array([row["score"] for row in mine])
        for kind in ("all", *DEFECTS[product]):
            chosen = np.ones(len(kinds), dtype=bool) if kind == "all" else (kinds == GOOD) | (kinds == kind)
            labels = kinds[chosen] != GOOD
            judged = at_threshold(scores[chosen], labels, mine[0]["threshold"])
            area, precision = auroc(scores[chosen], labels), average_precision(scores[chosen], labels)
            figures = [area, precision, judged.recall, judged.false_alarm_rate]
            shown.add_row(
                f"[bold]{product}[/]" if kind == "all" else "",
                kind,
                str(labels.sum()),
                *("-" if value is None else f"{value:.3f}" for value in figures),
            )
    console.print()
    console.print(shown)
