"""The command that measures a machine, and a detector on it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from diffad_ray.cli.shared import AsJson, console, print_json


def bench(
    detector: Annotated[str | None, typer.Argument(help="Folder or URI of a detector. [default: none]")] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads on a CPU; an actor of scoring has one.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Measure the peaks of this machine, and how near to them each stage of a detector comes.

    Copy: `diffad-ray bench detectors/part`
    """
    from diffad_ray.bench.bench import bench as run
    from diffad_ray.reports.bench_text import print_bench

    found = run(detector, threads=threads)
    if as_json:
        print_json(asdict(found))
    else:
        print_bench(found, console)
