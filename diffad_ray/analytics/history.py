"""The history of a table: its runs, their results, and the run that is in progress."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import duckdb

from diffad_ray import storage
from diffad_ray.errors import UserError
from diffad_ray.sql import reason_of
from diffad_ray.table.layout import quoted
from diffad_ray.table.lease import holder_of
from diffad_ray.table.reading import RowCounts, connect, count_rows, has_rows, rows_of
from diffad_ray.table.runs import Run, read_runs


@dataclass(frozen=True)
class RunState:
    """The state of a run and what it did so far.

    Attributes:
        started: time of start in UTC, from the name of the run.
        state: `running` while its process lives, `interrupted` if its process died. The same command finishes an
            interrupted run.
        archive, detectors: location of the archive, and names of the detectors.
        planned: number of images in its plan; `images`: number of its rows so far; `by_status`, `anomalous`: number of
            these rows by status, and number of anomalous images.
        seconds: duration of its last call; None before the run has ended.
        images_per_second: rate of the last call. It counts all images of the run, also those of interrupted calls.
        core_seconds: processor time in all workers; `gpu_seconds`: time for which the GPUs were reserved, summed over
            them. Both are those of the last call.
    """

    run_id: str
    started: str
    state: Literal["running", "interrupted", "finished", "abandoned"]
    archive: str
    detectors: list[str]
    planned: int
    images: int
    by_status: dict[str, int]
    anomalous: int
    seconds: float | None
    images_per_second: float | None
    core_seconds: float | None
    gpu_seconds: float | None


def runs(table: str | Path) -> list[RunState]:
    """Return the runs of a table, the oldest first.

    Raises:
        UserError: there is no table, or it can't be read.
    """
    location = storage.normalised(table)
    try:
        # The lease is read before the runs. If its holder ends in between, the run has its record by then.
        holder = holder_of(location)
        found = read_runs(location)
        so_far = _rows_so_far(location, [run for run in found if run.record is None])
    except (OSError, duckdb.Error) as error:
        raise UserError(f"the table {location} can't be read: {reason_of(error)}") from error
    if not found:
        raise UserError(f"no runs at {location}: it is no table, or none was begun. Check the path or URI")
    states = []
    for plan, record in found:
        counted = record or so_far.get(plan.run_id, RowCounts())
        is_running = holder is not None and holder.work == "score"
        date, time = plan.run_id[:8], plan.run_id[9:15]
        states.append(
            RunState(
                run_id=plan.run_id,
                started=f"{date[:4]}-{date[4:6]}-{date[6:]} {time[:2]}:{time[2:4]}:{time[4:]}",
                state=record.state if record else "running" if is_running else "interrupted",
                archive=plan.archive,
                detectors=[detector.name for detector in plan.detectors],
                planned=plan.images,
                images=sum(counted.by_status.values()),
                by_status=counted.by_status,
                anomalous=counted.anomalous,
                seconds=record.seconds if record else None,
                images_per_second=round(record.images / record.seconds, 2) if record and record.seconds else None,
                core_seconds=record.processor_seconds if record else None,
                gpu_seconds=round(record.gpus * record.seconds, 2) if record else None,
            )
        )
    return states


def _rows_so_far(table: str, unfinished: list[Run]) -> dict[str, RowCounts]:
    """Count the rows of unfinished runs by run; runs without rows are absent."""
    if not unfinished or not has_rows(table):
        return {}
    dates, names = (
        ", ".join({quoted(getattr(run.plan, name)) for run in unfinished}) for name in ("run_date", "run_id")
    )
    of_them = f"{rows_of(table, 'scores')} WHERE run_date IN ({dates}) AND run_id IN ({names})"
    with connect(table) as connection:
        return count_rows(connection, of_them)
