"""`score`: select, plan, run the stages over the shards, write the record."""

from __future__ import annotations

import glob
import hashlib
import json
import logging
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import ray.exceptions
from ray.data.exceptions import ExecutionTimeoutError

from diffad_ray import storage
from diffad_ray.bundles.bundle import load_bundle
from diffad_ray.cluster import check_address, why_ended
from diffad_ray.errors import UserError
from diffad_ray.images.settings import ImageSettings
from diffad_ray.progress import ProgressBar
from diffad_ray.scoring.commit import ShardSummary
from diffad_ray.scoring.manifest import refuse_absent
from diffad_ray.scoring.plan import WRITERS, make_plan, pending_shards, remove_half_plans
from diffad_ray.scoring.selection import Routed, Selection, select_images
from diffad_ray.scoring.settings import ScoringSettings
from diffad_ray.scoring.stages import run_shards
from diffad_ray.scratch import scratch_folder
from diffad_ray.settings import build, merged, parse_overrides, read_settings_file
from diffad_ray.table.compact import finish_compactions
from diffad_ray.table.findings import findings
from diffad_ray.table.layout import REGIONS, parquet_bytes, quoted, shard_file
from diffad_ray.table.lease import Lease
from diffad_ray.table.reading import RowCounts, connect, count_rows
from diffad_ray.table.runs import Plan, Run, RunRecord, read_runs, write_record
from diffad_ray.table.schema import scores_schema
from diffad_ray.table.superseded import settle_superseded

log = logging.getLogger(__name__)


def score(
    archive: str | Path,
    *,
    table: str | Path,
    detector: str | Path | None = None,
    routes: Mapping[str, str | Path] | None = None,
    actors: int | None = None,
    force: bool = False,
    settings_file: str | None = None,
    overrides: Sequence[str] = (),
    show_progress: bool = False,
    **scoring: Any,
) -> Run:
    """Score every image of an archive into a table: one row an image, those that can't be scored included.

    Images that the table has under the same detector are left out. An interrupted run, started again, is finished.

    Args:
        archive: folder or URI with images at any depth, a manifest of URIs (.parquet, .csv, .tsv, or a
            folder of such parts), or the
            manifest.json of an S3 inventory.
        table: folder or URI to write to; several archives and detectors may share one.
        detector: folder or URI of a bundle.
        routes: globs of paths below the archive, each with the detector for what matches; `detector` scores the rest.
        actors: processes that hold the detector; by default one a GPU, or one a CPU core where there is no GPU.
        force: score images again that the table has.
        settings_file: TOML with the sections `[scoring]` and `[storage]`; arguments win over it.
        overrides: `scoring.key=value` or `storage.key=value`; these win over all.
        show_progress: show a progress bar.
        scoring: any of `ScoringSettings`.

    Returns:
        The plan and the record of the run.

    Raises:
        UserError: an input is not as it must be, and nothing has been written then; another process writes to the
            table; or the cluster failed, and the same call goes on.
    """
    if routes:
        given = [{"pattern": pattern, "detector": str(location)} for pattern, location in routes.items()]
        scoring = scoring | {"routes": given}
    check_address()
    settings, storage_settings, white = _settings(settings_file, scoring, overrides)
    storage.configure(storage_settings)
    archive, table = storage.normalised(archive), storage.normalised(table)
    detectors = _detectors(settings, detector)
    _check_white(white, detectors)
    work = _work(archive, force, settings, detectors)

    def go_through(plan: Plan, resumed: bool) -> Run:
        return _go_through(plan, resumed, lease, settings, storage_settings, detectors, actors, show_progress)

    with scratch_folder() as scratch:

        def select() -> Selection:
            return select_images(archive, table, detectors, settings, scratch)

        # A first run whose archive can't be read leaves nothing behind; later ones learn first whether they may write.
        selection = None if _is_begun(table) else select()
        if selection and not selection.archive.is_listed:
            refuse_absent(selection.connection, selection.rows, archive)
        with Lease(table, "score") as lease:
            finish_compactions(table)
            interrupted = _interrupted(table, work)
            finished = go_through(interrupted, resumed=True) if interrupted else None
            # The archive may have changed since that one was planned.
            selection = selection or select()
            done = finished.plan.run_id if finished else ""
            plan = make_plan(archive, table, selection, detectors, settings, work, force and not finished, done)
            if finished and not plan.images:
                return finished
            if finished:
                log.warning("run %s is finished now; going on with what is new", finished.plan.run_id)
            return go_through(plan, resumed=False)


def _work(archive: str, force: bool, settings: ScoringSettings, detectors: Sequence[Routed]) -> str:
    """Hash of everything that makes a difference to the rows: who asks for it again goes on with an interrupted run."""
    rows = {name: value for name, value in asdict(settings).items() if name not in ("readers", "shard_images")}
    judges = [(d.patterns, d.bundle.fingerprint, asdict(d.bundle.calibration)) for d in detectors]
    return hashlib.sha256(json.dumps([archive, force, rows, judges]).encode()).hexdigest()[:16]


def _go_through(
    plan: Plan,
    resumed: bool,
    lease: Lease,
    settings: ScoringSettings,
    storage_settings: storage.StorageSettings,
    detectors: Sequence[Routed],
    actors: int | None,
    show_progress: bool,
) -> Run:
    """Score the shards of a plan that are missing, and write its record."""
    started = time.monotonic()
    # To plan may have taken long.
    lease.confirm()
    pending = pending_shards(plan)
    summaries: list[ShardSummary] = []
    failed = 0
    with ProgressBar("scoring", plan.images, show_progress and bool(pending)) as bar:
        done = at_start = plan.images * (plan.shards - len(pending)) // max(1, plan.shards)
        bar.update(done)
        try:
            shards = run_shards(plan, pending, settings, storage_settings, detectors, actors) if pending else ()
            for summary in shards:
                lease.check()
                summaries.append(summary)
                done = min(done + summary.images, plan.images)
                failed += summary.failed
                rate = (done - at_start) / (time.monotonic() - started)
                bar.update(done, f"{failed} failed  {rate:.1f} images/s")
        except (ray.exceptions.RayError, ExecutionTimeoutError) as error:
            raise UserError(f"scoring stopped: {why_ended(error)}\nThe same command finishes the run") from error
    lease.confirm()
    record = replace(
        _count(plan, "finished"),
        modes=sorted({summary.network_mode for summary in summaries if summary.network_mode}),
        seconds=round(time.monotonic() - started, 2),
        resumed=resumed,
        processor_seconds=round(sum(summary.seconds for summary in summaries), 2),
    )
    if record.images != plan.images:
        raise RuntimeError(f"{plan.images} images were planned and {record.images} rows written")
    if plan.images:
        write_record(plan, record)
    return Run(plan, record)


def _settings(
    settings_file: str | None, scoring: Mapping[str, Any], overrides: Sequence[str]
) -> tuple[ScoringSettings, storage.StorageSettings, int | None]:
    """What scoring and storage are set to, and the value of white that the settings name."""
    from_file = read_settings_file(settings_file) if settings_file else {}
    override = parse_overrides(overrides, ("scoring", "storage", "images"))
    of_scoring = merged(from_file.get("scoring", {}), scoring, override.get("scoring", {}))
    of_storage = merged(from_file.get("storage", {}), override.get("storage", {}))
    of_images = merged(from_file.get("images", {}), override.get("images", {}))
    return (
        build(ScoringSettings, of_scoring, "scoring"),
        build(storage.StorageSettings, of_storage, "storage"),
        build(ImageSettings, of_images, "images").white,
    )


def _check_white(white: int | None, detectors: Sequence[Routed]) -> None:
    """Raise UserError where the settings name another value of white than a detector was trained with: a score depends
    on it, so it is the detector's alone."""
    for detector in detectors:
        own = detector.bundle.detector.settings.white
        if white is not None and own != white:
            trained = "without one" if own is None else f"with {own}"
            raise UserError(
                f"`[images] white` is {white}, and the detector {detector.location} was trained {trained}: train it "
                "with this setting, or leave the setting out"
            )


def _detectors(settings: ScoringSettings, default: str | Path | None) -> list[Routed]:
    """The detectors in the order of the routes, each loaded once, and last the one for what no route matches."""
    wanted: list[tuple[str, tuple[str, ...]]] = [
        (storage.normalised(route.detector), (route.pattern,)) for route in settings.routes
    ]
    if default is not None:
        wanted.append((storage.normalised(default), ()))
    if not wanted:
        raise UserError("no detector is given: name one with --detector, or some with --route 'PATTERN=DETECTOR'")
    bundles = {location: load_bundle(location) for location in dict(wanted)}
    return [Routed(location, bundles[location], patterns) for location, patterns in wanted]


def _is_begun(table: str) -> bool:
    try:
        return storage.has_files(table)
    except OSError as error:
        raise UserError(f"the table {table} can't be read: {error}") from error


def _interrupted(table: str, work: str) -> Plan | None:
    """The interrupted run of the same work, or None. One of other work is brought to an end as it is, so that workers
    of it that still live somewhere can't write images that this run plans too."""
    remove_half_plans(table)
    unfinished = [run.plan for run in read_runs(table) if run.record is None]
    same = [plan for plan in unfinished if plan.work == work]
    for plan in unfinished:
        if plan not in same[-1:]:
            _abandon(plan)
    return same[-1] if same else None


def _abandon(plan: Plan) -> None:
    """Take the names of a plan's missing shards by empty files, then write its record."""

    def close(shard: int) -> None:
        place = (plan.run_date, plan.run_id, shard)
        if storage.create(shard_file(plan.table, "scores", *place), nothing):
            storage.write(shard_file(plan.table, "regions", *place), parquet_bytes(REGIONS.empty_table()))

    nothing = parquet_bytes(scores_schema(plan.table).empty_table())
    pending = pending_shards(plan)
    log.warning("run %s was interrupted; its %d missing shards are given up for this run", plan.run_id, len(pending))
    with ThreadPoolExecutor(WRITERS) as pool:
        list(pool.map(close, pending))
    settle_superseded(plan)
    write_record(plan, _count(plan, "abandoned"))


def _count(plan: Plan, state: Literal["finished", "abandoned"]) -> RunRecord:
    """Count the run's rows in the table."""
    counts, found = RowCounts(), list[str]()
    if plan.shards:
        files = quoted(f"{glob.escape(plan.table)}/scores/run_date={plan.run_date}/{plan.run_id}-*.parquet")
        with connect(plan.table) as connection:
            rows = f"read_parquet({files}, hive_partitioning = false)"
            counts, found = count_rows(connection, rows)[plan.run_id], findings(connection, rows)
    return RunRecord(
        run_id=plan.run_id,
        state=state,
        images=counts.rows,
        skipped=plan.skipped,
        other_files=plan.other_files,
        by_status=counts.by_status,
        anomalous=counts.anomalous,
        modes=[],
        seconds=0.0,
        resumed=False,
        finished_at=datetime.now(UTC).isoformat(timespec="seconds"),
        findings=found,
    )
