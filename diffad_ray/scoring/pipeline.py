"""`score`: plan, run the stages over the shards on Ray Data, write the record."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import ray
import ray.data
import ray.exceptions

from diffad_ray import storage
from diffad_ray.cluster import connect, cores, processors
from diffad_ray.detectors.bundle import Bundle, load_bundle
from diffad_ray.errors import UserError
from diffad_ray.progress import ProgressBar
from diffad_ray.scoring import table as tables
from diffad_ray.scoring.plan import Plan, done_shards, make_plan, unfinished_plan
from diffad_ray.scoring.stages import CommitShard, DetectShard, LoadShard, ScoringSettings
from diffad_ray.settings import build, merged, parse_overrides, read_settings_file

NO_PROGRESS_SECONDS = 600.0
"A run in which no shard ends for so long is ended with an error."

CPUS_A_STAGE = 0.5
"Of Ray's logical CPUs; small, so that all stages find a place on a machine of few cores."


@dataclass(frozen=True)
class RunRecord:
    """What a run did; kept beside its plan; its presence says that the run is complete.

    Attributes:
        run_id, table, archive, detector, fingerprint: as planned.
        images: rows written; `skipped`: images that the table had already; `other_files`: files that are no images.
        by_status: rows by status.
        anomalous: images at or over the threshold.
        modes: memory formats and precisions that the networks ran in, as the actors' trials chose.
        seconds: of this call; an earlier, interrupted one is not counted.
        resumed: whether an interrupted run was finished.
        settings: resolved settings.
    """

    run_id: str
    table: str
    archive: str
    detector: str
    fingerprint: str
    images: int
    skipped: int
    other_files: int
    by_status: dict[str, int]
    anomalous: int
    modes: list[str]
    seconds: float
    resumed: bool
    finished_at: str
    settings: dict[str, object]


def score(
    archive: str | Path,
    *,
    detector: str | Path,
    table: str | Path,
    masks: str | None = None,
    threshold: float | None = None,
    actors: int | None = None,
    force: bool = False,
    settings_file: str | None = None,
    overrides: Sequence[str] = (),
    show_progress: bool = False,
) -> RunRecord:
    """Score every image of an archive into a table: one row an image, those that can't be scored included.

    Images that the table has under the same detector are left out. An interrupted run, started again, is finished.

    Args:
        archive: folder or URI with images, at any depth.
        detector: folder or URI of a bundle.
        table: folder or URI to write to; several archives and detectors may share one.
        masks, threshold: see `ScoringSettings`.
        actors: processes that hold the detector; by default one a GPU, or one a CPU core where there is no GPU.
        force: score images again that the table has.
        settings_file: TOML with a section `[scoring]`; arguments win over it.
        overrides: `scoring.key=value`; these win over all.
        show_progress: show a progress bar.

    Raises:
        UserError: an input is not as it must be; nothing has been written then.
    """
    started = time.monotonic()
    archive, table, detector = (storage.normalised(place) for place in (archive, table, detector))
    from_file = read_settings_file(settings_file) if settings_file else {}
    override = parse_overrides(overrides)
    if unknown := set(override) - {"scoring"}:
        raise UserError(f"{unknown.pop()!r} is no section of the settings: write scoring.KEY=...")
    values = merged(from_file.get("scoring", {}), {"masks": masks, "threshold": threshold}, override.get("scoring", {}))
    settings = build(ScoringSettings, values, "scoring")
    bundle = load_bundle(detector)
    image_size = bundle.detector.settings.image_size

    plan = None if force else unfinished_plan(table, archive, bundle.fingerprint, asdict(settings))
    resumed = plan is not None
    if plan is None:
        plan = make_plan(archive, table, detector, bundle.fingerprint, image_size, asdict(settings), force)
    done = done_shards(plan) if resumed else set()
    pending = [shard for shard in range(plan.shards) if shard not in done]
    modes: list[str] = []
    if pending:
        with ProgressBar("scoring", plan.images, show_progress) as bar:
            finished = plan.images * len(done) // plan.shards
            bar.update(finished)
            try:
                modes = _run_shards(plan, pending, settings, bundle, actors, bar, finished)
            except ray.exceptions.RayError as error:
                reason = str(error).strip().splitlines()[-1]
                raise UserError(f"scoring stopped: {reason}\nThe same command finishes the run") from error
    return _record(plan, modes, resumed, time.monotonic() - started)


def _run_shards(
    plan: Plan,
    pending: list[int],
    settings: ScoringSettings,
    bundle: Bundle,
    actors: int | None,
    bar: ProgressBar,
    finished: int,
) -> list[str]:
    """Run the stages over the pending shards; the modes that the networks ran in."""
    connect()
    image_size = bundle.detector.settings.image_size
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = False
    # A shard is a block from end to end: cut in two it could not be written whole.
    context.target_max_block_size = None
    context.execution_no_progress_timeout_s = NO_PROGRESS_SECONDS
    resources = ray.cluster_resources()
    gpus = int(resources.get("GPU", 0))
    count = actors or gpus or max(1, min(len(pending), processors()))
    threads = max(1, cores() // count)

    stages: ray.data.Dataset = ray.data.from_items(
        [{"shard": shard} for shard in pending], override_num_blocks=len(pending)
    )
    # Without GPUs, Ray fuses loading into the actors that detect: the cores are busy then, and nothing is copied.
    # With GPUs, loading runs on the CPUs of all nodes, ahead of them.
    load = LoadShard(plan, settings, image_size)
    stages = stages.map_batches(load.run, batch_size=None, batch_format="pyarrow", num_cpus=CPUS_A_STAGE)
    stages = stages.map_batches(
        DetectShard,
        fn_constructor_args=(plan, settings, threads),
        compute=ray.data.ActorPoolStrategy(size=count),
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=CPUS_A_STAGE,
        num_gpus=1 if gpus else 0,
    )
    stages = stages.map_batches(
        CommitShard,
        fn_constructor_args=(plan, settings, image_size, bundle.name, bundle.calibration),
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=count),
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=0.25,
    )
    failed = 0
    modes: set[str] = set()
    start, at_start = time.monotonic(), finished
    for row in stages.iter_rows():
        finished += row["images"]
        failed += row["failed"]
        modes.add(row["network_mode"])
        rate = (finished - at_start) / (time.monotonic() - start)
        bar.update(finished, f"{failed} failed  {rate:.1f} images/s")
    return sorted(modes)


def _record(plan: Plan, modes: list[str], resumed: bool, seconds: float) -> RunRecord:
    """Count the run's rows in the table and write its record; a run without images leaves none."""
    by_status: dict[str, int] = {}
    anomalous = 0
    if plan.shards:
        connection = tables.connect(plan.table)
        files = tables.quoted(f"{plan.table}/scores/run_date={plan.run_date}/{plan.run_id}-*.parquet")
        counts = "SELECT status, count(*), count(*) FILTER (is_anomalous)"
        query = f"{counts} FROM read_parquet({files}) GROUP BY status ORDER BY status"
        for status, count, found in connection.execute(query).fetchall():
            by_status[status] = count
            anomalous += found
    if sum(by_status.values()) != plan.images:
        raise RuntimeError(f"{plan.images} images were planned and {sum(by_status.values())} rows written")
    record = RunRecord(
        run_id=plan.run_id,
        table=plan.table,
        archive=plan.archive,
        detector=plan.detector,
        fingerprint=plan.fingerprint,
        images=plan.images,
        skipped=plan.skipped,
        other_files=plan.other_files,
        by_status=by_status,
        anomalous=anomalous,
        modes=modes,
        seconds=round(seconds, 2),
        resumed=resumed,
        finished_at=datetime.now(UTC).isoformat(timespec="seconds"),
        settings=plan.settings,
    )
    if plan.shards:
        storage.write(plan.record_file, json.dumps(asdict(record), indent=1).encode())
    return record
