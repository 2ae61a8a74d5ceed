"""The trial: scores a sample of an archive in this process, by the stages of scoring, and measures each of them.

No cluster is joined. The rows go to a scratch table, from which their sizes come.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from diffad_ray.capacity.formulas import Costs
from diffad_ray.errors import UserError, counted
from diffad_ray.scoring.attempts import NoAttempts
from diffad_ray.scoring.commit import CommitShard
from diffad_ray.scoring.detect import DetectShard
from diffad_ray.scoring.load import LoadShard, Spent
from diffad_ray.scoring.plan import make_plan
from diffad_ray.scoring.selection import Selection
from diffad_ray.scoring.stages import judges_of, wanted_of
from diffad_ray.scoring.task import Task
from diffad_ray.table.layout import parquet_bytes

MOST_IMAGES = 20_000
"Of the sample; their manifests are written before the trial begins."
SHARD_IMAGES = 32
"Of a shard of the trial: so few that the trial ends in time."
LOW, HIGH = 0.1, 0.9
WARM_UPS = 1
"Shards at the start that are not measured: the detector is loaded and its memory allocated in them."


@dataclass(frozen=True)
class Rate:
    """Seconds an image: the mean over all images, and the quantiles 0.1 and 0.9 over the shards of the trial."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Trial:
    """What a trial measured on this machine, by one core or one GPU.

    Attributes:
        images: that were measured, of `shards` shards, in `seconds`.
        by_status: how they ended.
        fetch: of one reader that waits for the store; several read at the same time.
        decode, load, detect, commit: of one actor. `load` is fetching and decoding as they overlap. Of a detector that
            sees tiles, `detect` includes `decode`, which is 0.
        device: that detected.
        costs: the means, for the formulas.
    """

    images: int
    shards: int
    seconds: float
    by_status: dict[str, int]
    fetch: Rate
    decode: Rate
    load: Rate
    detect: Rate
    commit: Rate
    device: str
    costs: Costs


class _Measured(NamedTuple):
    """Seconds and bytes of one shard."""

    images: int
    statuses: list[str]
    fetch: float
    decode: float
    load: float
    detect: float
    commit: float
    file_bytes: int


def run_trial(
    task: Task, selection: Selection, rows: str, seconds: float, scratch: Path, say: Callable[[str], None]
) -> Trial:
    """Score images of a selection for so many seconds, and measure.

    Args:
        task: with one detector.
        selection: of the archive.
        rows: SQL of the images to draw from; all of the selection, or those that the table lacks.
        seconds: after which no shard is begun; two shards are scored at least.
        scratch: a local folder for the table of the trial.
        say: is given a line on how the trial goes on.

    Raises:
        UserError: no image could be scored, or the archive or the detector can't be read.
    """
    # An image_id is a hash, so the first of them are spread over the archive.
    sample = f"(SELECT * FROM {rows} ORDER BY image_id LIMIT {MOST_IMAGES})"
    table, settings = str(scratch / "trial"), replace(task.settings, shard_images=SHARD_IMAGES)
    plan = make_plan(task.archive, table, selection._replace(rows=sample), task.detectors, settings, "trial", True)
    order = np.random.default_rng(0).permutation(plan.shards).astype(np.int32)
    trial_task, attempts = replace(task, settings=settings, table=table), NoAttempts()
    judges = judges_of(trial_task)
    load = LoadShard(plan, settings, task.storage, order, wanted_of(trial_task), attempts)
    detect = DetectShard(
        {d.bundle.fingerprint: d.location for d in task.detectors},
        settings,
        task.storage,
        {fingerprint: judge.threshold for fingerprint, judge in judges.items()},
        1,
        attempts,
        task.gates,
    )
    commit = CommitShard(plan, settings, task.storage, judges)
    started, told = time.monotonic(), time.monotonic()
    measured: list[_Measured] = []
    for place in range(plan.shards):
        measured.append(_measure(load, detect, commit, place))
        now = time.monotonic()
        if now - started > seconds and len(measured) > WARM_UPS:
            break
        if now - told > 15:
            told = now
            say(f"trial: {sum(shard.images for shard in measured)} images in {now - started:.0f} s")
    kept = measured[WARM_UPS:] or measured
    return _summary(kept, Path(table), time.monotonic() - started, detect.device.type)


def _measure(load: LoadShard, detect: DetectShard, commit: CommitShard, place: int) -> _Measured:
    """Pass one shard through the stages."""
    spent = Spent()
    times = [time.perf_counter()]
    loaded = load.loaded(pa.table({"id": [place]}), spent)
    times.append(time.perf_counter())
    detected = detect(loaded)
    times.append(time.perf_counter())
    commit(detected)
    times.append(time.perf_counter())
    took = np.diff(times)
    return _Measured(
        images=len(loaded),
        statuses=detected["status"].to_pylist(),
        fetch=sum(spent.fetch),
        decode=spent.decode,
        load=took[0],
        detect=took[1],
        commit=took[2],
        file_bytes=sum(spent.bytes),
    )


def _summary(shards: list[_Measured], table: Path, seconds: float, device: str) -> Trial:
    images = sum(shard.images for shard in shards)
    statuses = [status for shard in shards for status in shard.statuses]
    by_status = {status: statuses.count(status) for status in sorted(set(statuses))}
    if not by_status.get("ok"):
        raise UserError(f"none of {counted(images, 'image')} of the trial could be scored: {by_status}. See `--check`")

    def rate(name: str) -> Rate:
        seconds_an_image = [getattr(shard, name) / shard.images for shard in shards]
        low, high = np.quantile(seconds_an_image, [LOW, HIGH])
        return Rate(sum(getattr(shard, name) for shard in shards) / images, float(low), float(high))

    rates = {name: rate(name) for name in ("fetch", "decode", "load", "detect", "commit")}
    scores, score_bytes = _rewritten(table, "scores")
    (_, region_bytes), (planned, manifest_bytes) = (_rewritten(table, part) for part in ("regions", "manifests"))
    masks = [path.stat().st_size for path in (table / "masks").rglob("*.png")]
    costs = Costs(
        load=rates["load"].mean,
        detect=rates["detect"].mean,
        commit=rates["commit"].mean,
        file_bytes=sum(shard.file_bytes for shard in shards) / images,
        row_bytes=(score_bytes + region_bytes) / scores,
        manifest_bytes=manifest_bytes / planned,
        mask_share=len(masks) / scores,
        mask_bytes=float(np.mean(masks)) if masks else 0.0,
    )
    return Trial(images, len(shards), round(seconds, 2), by_status, **rates, device=device, costs=costs)


def _rewritten(table: Path, part: str) -> tuple[int, int]:
    """Rows of a part of the trial's table, and their bytes in one file, as in the large shards of a run: of a file of
    32 rows, most is its footer."""
    rows = pa.concat_tables(pq.ParquetFile(path).read() for path in (table / part).rglob("*.parquet"))
    return len(rows), len(parquet_bytes(rows))
