"""`capacity`: what scoring an archive by a given time takes: a listing, a trial, and the formulas."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import torch

from diffad_ray.capacity.formulas import Forecast, Node, forecast, node_rate
from diffad_ray.capacity.trial import Trial, run_trial
from diffad_ray.cluster import cores
from diffad_ray.errors import UserError
from diffad_ray.scoring.plan import compare
from diffad_ray.scoring.selection import select_images
from diffad_ray.scoring.shards import shard_limits
from diffad_ray.scoring.task import make_task
from diffad_ray.scratch import scratch_folder

SIZES = (10**6, 10**7, 10**8)
PRICES = ("cpu", "gpu")
CLOCK = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)")


@dataclass(frozen=True)
class Capacity:
    """What scoring an archive takes, on nodes like this machine.

    Attributes:
        archive: location of the archive; `listed`: number of its images; `new`: images that the table lacks.
        list_seconds: duration of listing and comparing.
        node: resources of each worker node.
        node_rate: images a second of one node.
        hours: time from the start of the cluster to the end of the run.
        trial: the measurements.
        forecasts: for the new images first, then for 1, 10 and 100 million.
        notes: sentences about the archive for the user.
    """

    archive: str
    listed: int
    new: int
    list_seconds: float
    node: Node
    node_rate: float
    hours: float
    trial: Trial
    forecasts: list[Forecast]
    notes: list[str]


@dataclass(frozen=True)
class Window:
    """The time in which a run must begin and end, and what the hour of a processor costs.

    Attributes:
        by: time of day of the end, such as `06:00`, of this machine's clock.
        start: time of day at which the cluster starts, such as `22:00`; None means now.
        prices: price of an hour of a `cpu` and of a `gpu`; empty if costs do not matter.
    """

    by: str
    start: str | None = None
    prices: dict[str, float] = field(default_factory=dict)


def capacity(
    archive: str | Path,
    detector: str | Path,
    window: Window,
    *,
    table: str | Path | None = None,
    minutes: float = 2.0,
    settings_file: str | None = None,
    overrides: Sequence[str] = (),
    say: Callable[[str], None] = lambda line: None,
) -> Capacity:
    """Return what scoring an archive takes, from a trial on images of it. The table is not changed.

    Args:
        archive, detector, settings_file, overrides: see `score`.
        window: when the run begins and ends.
        table, minutes: only images that this table lacks are scored, if it is given; duration of the trial.
        say: receives lines about the progress.

    Raises:
        UserError: an input is invalid, there are several detectors, or no image could be scored.

    Example:
        >>> capacity("s3://plant/line1", "detectors/part", Window("06:00")).forecasts[0].nodes  # doctest: +SKIP
    """
    hours = hours_until(window.by, window.start, datetime.now())
    node = Node(cpus=cores(), gpus=torch.cuda.device_count())
    if window.prices and node.gpus and "gpu" not in window.prices:
        raise UserError("nodes like this machine have GPUs, and the price of one is missing: add gpu=2.5")
    with scratch_folder() as scratch:
        place = str(scratch / "none") if table is None else table
        task = make_task(archive, place, detector, settings={}, settings_file=settings_file, overrides=overrides)
        if len(task.detectors) > 1:
            raise UserError("capacity tries one detector: leave the routes out of the settings, and ask for each alone")
        started = time.monotonic()
        selection = select_images(task.archive, task.table, task.detectors, task.settings, scratch)
        pending = compare(task.archive, task.table, selection, task.settings)
        list_seconds = time.monotonic() - started
        new = sum(pending.counts.values())
        rows = pending.rows if new else pending.selection.rows
        trial = run_trial(task, pending.selection, rows, minutes * 60, scratch, say)
    bundle = task.detectors[0].bundle

    def foreseen(images: int, listed: int) -> Forecast:
        limits = shard_limits(images, bundle, task.settings.shard_images)
        most = limits.file_bytes / max(1.0, trial.costs.file_bytes) if limits.file_bytes else limits.images
        return forecast(images, listed, trial.costs, node, hours, max(1, int(min(limits.images, most))), window.prices)

    return Capacity(
        archive=task.archive,
        listed=selection.images,
        new=new,
        list_seconds=round(list_seconds, 2),
        node=node,
        node_rate=node_rate(trial.costs, node),
        hours=hours,
        trial=trial,
        forecasts=[foreseen(new, selection.images), *(foreseen(images, images) for images in SIZES)],
        notes=pending.selection.notes,
    )


def hours_until(by: str, start: str | None, now: datetime) -> float:
    """Hours from one time of day, or now, to the next one.

    Raises:
        UserError: one of them is no time of day.

    Example:
        >>> hours_until("06:00", "22:00", datetime(2026, 11, 30)), hours_until("06:00", None, datetime(2026, 11, 30, 5))
        (8.0, 1.0)
    """
    begin = now if start is None else _at(start, now)
    end = _at(by, begin)
    if end <= begin:
        end += timedelta(days=1)
    return (end - begin).total_seconds() / 3600


def _at(text: str, day: datetime) -> datetime:
    if (found := CLOCK.fullmatch(text.strip())) is None:
        raise UserError(f"{text!r} is no time of day such as 06:00")
    return day.replace(hour=int(found[1]), minute=int(found[2]), second=0, microsecond=0)


def parse_prices(text: str) -> dict[str, float]:
    """The prices of an hour, from `cpu=0.04,gpu=2.5`.

    Raises:
        UserError: it is not of this form.

    Example:
        >>> parse_prices("cpu=0.04,gpu=2.5")
        {'cpu': 0.04, 'gpu': 2.5}
    """
    prices = {}
    for part in text.split(","):
        name, _, value = part.strip().partition("=")
        try:
            prices[name] = float(value)
        except ValueError:
            prices[name] = -1.0
        if name not in PRICES or not 0 <= prices[name] < float("inf"):
            raise UserError(f"the price {part.strip()!r} is not of the form cpu=0.04 or gpu=2.5, a price of an hour")
    return prices
