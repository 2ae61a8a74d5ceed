"""`score`: selects images, makes a plan, runs the stages over the shards, and writes the record."""

from __future__ import annotations

import glob
import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

import ray.exceptions
from ray.data.exceptions import ExecutionTimeoutError

from diffad_ray import storage
from diffad_ray.cluster import check_address, stopped
from diffad_ray.cluster_size import Size, wait_for
from diffad_ray.errors import UserError
from diffad_ray.inference.engine import default_device
from diffad_ray.inference.runtimes import require_runnable
from diffad_ray.progress import ProgressBar
from diffad_ray.scoring.commit import ShardSummary
from diffad_ray.scoring.manifest import refuse_absent
from diffad_ray.scoring.measures import Pending
from diffad_ray.scoring.missing import only_missing
from diffad_ray.scoring.plan import make_plan, pending_shards, remove_half_plans
from diffad_ray.scoring.profile import Profile
from diffad_ray.scoring.selection import Selection, select_images
from diffad_ray.scoring.shards import WRITERS
from diffad_ray.scoring.stages import run_shards
from diffad_ray.scoring.task import Task, make_task
from diffad_ray.scratch import scratch_folder
from diffad_ray.table.compact import finish_compactions
from diffad_ray.table.findings import findings
from diffad_ray.table.gates import GateCheck, check_gates
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
    force: bool = False,
    missing_masks: bool = False,
    settings_file: str | None = None,
    overrides: Sequence[str] = (),
    show_progress: bool = False,
    **settings: Any,
) -> Run:
    """Score every image of an archive, and write one row for each image to a table, also if it can't be scored.

    Images that the table has under the same detector are skipped. The same call finishes an interrupted run.

    Args:
        archive: folder or URI with images at any depth, a manifest of URIs (.parquet, .csv, .tsv, or a folder of such
            parts), or the manifest.json of an S3 inventory.
        table: folder or URI to write to; several archives and detectors may share a table.
        detector: folder or URI of a bundle.
        force: score images again that the table has.
        missing_masks: score alerts alone again that have no masks and regions, because they were judged below the
            threshold when they were scored.
        settings_file: TOML with the sections `[scoring]`, `[cluster]`, `[images]` and `[storage]`; arguments win over
            it.
        overrides: `scoring.key=value`, `storage.key=value` and so on; these win over all.
        show_progress: show a progress bar, and the nodes that the run works on.
        settings: any of `ScoringSettings` and `ClusterSettings`. `routes` may map globs of paths below the archive to
            the detectors for what matches; `detector` scores the rest.

    Returns:
        The plan and the record of the run.

    Raises:
        TryLater: another process writes to the table, or the cluster is smaller than the settings demand. The same call
            continues later.
        UserError: an input is invalid, and nothing has been written; or the cluster failed, and the same call
            continues.
    """
    check_address()
    task = make_task(
        archive,
        table,
        detector,
        force=force,
        missing_masks=missing_masks,
        settings=settings,
        settings_file=settings_file,
        overrides=overrides,
    )
    return run_task(task, show_progress)


class _Watch(NamedTuple):
    show_progress: bool
    profile: Profile | None


def run_task(
    task: Task, show_progress: bool = False, *, selection: Selection | None = None, profile: Profile | None = None
) -> Run:
    """Do what `score` does, for a task that `make_task` returned.

    Args:
        selection: the images of the archive, if they are selected already.
        profile: where the time went is added to it.
    """
    archive, table = task.archive, task.table
    if check_address() is None:
        # This machine alone scores. `preflight` asks the nodes of a cluster.
        for routed in task.detectors:
            require_runnable(routed.bundle.detector.settings, default_device())
    watch = _Watch(show_progress, profile)
    with scratch_folder() as scratch:

        def select() -> Selection:
            return select_images(archive, table, task.detectors, task.settings, scratch)

        # The first run of a table selects before it writes, so that an unreadable archive leaves no files. Later runs
        # first learn whether they may write.
        if selection is None and not _is_begun(table):
            selection = select()
        if selection and not selection.archive.is_listed:
            refuse_absent(selection.connection, selection.rows, archive)
        with Lease(table, "score") as lease:
            finish_compactions(table)
            interrupted = _interrupted(table, task.work)
            finished = _go_through(interrupted, task, lease, True, watch) if interrupted else None
            # The archive may have changed since the interrupted run was planned.
            selection = selection or select()
            if task.missing_masks:
                selection = only_missing(selection, table, task.thresholds)
            done = finished.plan.run_id if finished else ""
            force = (task.force and not finished) or task.missing_masks
            plan = make_plan(archive, table, selection, task.detectors, task.settings, task.work, force, done)
            if finished and not plan.images:
                return finished
            if finished:
                log.warning("run %s is finished now; going on with what is new", finished.plan.run_id)
            return _go_through(plan, task, lease, False, watch)


def _go_through(plan: Plan, task: Task, lease: Lease, resumed: bool, watch: _Watch) -> Run:
    """Score the missing shards of a plan, and write its record."""
    started = time.monotonic()
    # Planning may have taken longer than the lease lasts without a renewal.
    lease.confirm()
    pending = pending_shards(plan)
    summaries, size = _scored(plan, pending, task, lease, watch) if pending else ([], Size(0, 0, 0))
    lease.confirm()
    record = replace(
        count_run(plan, "finished"),
        modes=sorted({summary.network_mode for summary in summaries if summary.network_mode}),
        seconds=round(time.monotonic() - started, 2),
        resumed=resumed,
        processor_seconds=round(sum(summary.seconds for summary in summaries), 2),
        cpus=size.cpus,
        gpus=size.gpus,
        machines=size.machines,
    )
    if record.images != plan.images:
        raise RuntimeError(f"{plan.images} images were planned and {record.images} rows written")
    if plan.images:
        write_record(plan, record)
    return Run(plan, record)


def _scored(
    plan: Plan, pending: Sequence[int], task: Task, lease: Lease, watch: _Watch
) -> tuple[list[ShardSummary], Size]:
    """Score the pending shards of a plan; return their summaries, and the nodes, CPUs and GPUs that were used."""
    title = f"run {plan.run_id}"

    def say(text: str) -> None:
        log.log(logging.WARNING if watch.show_progress else logging.INFO, "%s %s", title, text)

    summaries: list[ShardSummary] = []
    failed = 0
    try:
        with (
            wait_for(task.cluster, say) as size,
            ProgressBar(title, plan.images, watch.show_progress) as bar,
            Pending(len(pending)) as left,
        ):
            started = time.monotonic()
            done = at_start = plan.images * (plan.shards - len(pending)) // max(1, plan.shards)
            bar.update(done)
            for summary in run_shards(plan, pending, task, size):
                lease.check()
                summaries.append(summary)
                if watch.profile is not None:
                    watch.profile.add(summary.spans)
                left.done()
                done = min(done + summary.images, plan.images)
                failed += summary.failed
                rate = (done - at_start) / (time.monotonic() - started)
                bar.update(done, f"{failed} failed  {rate:.1f} images/s")
    except (ray.exceptions.RayError, ExecutionTimeoutError) as error:
        raise stopped(f"{title} stopped", error) from error
    return summaries, size


def _is_begun(table: str) -> bool:
    try:
        return storage.has_files(table)
    except OSError as error:
        raise UserError(f"the table {table} can't be read: {error}") from error


def _interrupted(table: str, work: str) -> Plan | None:
    """Return the plan of the interrupted run of the same work, or None. Interrupted runs of other work are abandoned,
    so that workers of theirs that still live can't write images that this run also plans."""
    remove_half_plans(table)
    runs = read_runs(table)
    same = last_interrupted(runs, work)
    for run in runs:
        if run.record is None and run.plan != same:
            abandon(run.plan)
    return same


def last_interrupted(runs: Sequence[Run], work: str) -> Plan | None:
    """Return the plan of the last of these runs that was interrupted in the same work, or None."""
    return next((run.plan for run in reversed(runs) if run.record is None and run.plan.work == work), None)


def abandon(plan: Plan) -> None:
    """Create empty files under the names of a plan's missing shards, then write its record."""

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
    write_record(plan, count_run(plan, "abandoned"))


def count_run(plan: Plan, state: Literal["finished", "abandoned"]) -> RunRecord:
    """Count the rows of a run in the table, and return its record."""
    counts, found, gates = RowCounts(), list[str](), list[GateCheck]()
    if plan.shards:
        files = quoted(f"{glob.escape(plan.table)}/scores/run_date={plan.run_date}/{plan.run_id}-*.parquet")
        with connect(plan.table) as connection:
            rows = f"read_parquet({files}, hive_partitioning = false)"
            counts, found = count_rows(connection, rows)[plan.run_id], findings(connection, rows)
            gates = check_gates(connection, rows, plan.gates)
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
        gates=gates,
    )
