"""The history of a table: its runs, what became of them, and which one goes on."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import duckdb

from diffad_ray import storage
from diffad_ray.errors import UserError
from diffad_ray.table.layout import quoted
from diffad_ray.table.lease import holder_of
from diffad_ray.table.reading import connect, has_rows, rows_of
from diffad_ray.table.runs import Run, read_runs


@dataclass(frozen=True)
class RunState:
    """A run at a glance.

    Attributes:
        started: UTC, as in the run's name.
        state: `running` while its process lives; `interrupted` where it died: the same command finishes it.
        archive, detectors: location, and names.
        planned: images that it set out to score; `images`: rows so far, of them `by_status` and `anomalous`.
        seconds: that its last call took; None until it is over.
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


def runs(table: str | Path) -> list[RunState]:
    """The runs of a table, the oldest first.

    Raises:
        UserError: there is no table, or it can't be read.
    """
    location = storage.normalised(table)
    try:
        # Before the runs are read: a holder that ends in between has its record by then.
        holder = holder_of(location)
        found = read_runs(location)
        so_far = _rows_so_far(location, [run for run in found if run.record is None])
    except (OSError, duckdb.Error) as error:
        raise UserError(f"the table {location} can't be read: {error}") from error
    if not found:
        raise UserError(f"no runs at {location}: it is no table, or none was begun. Check the path or URI")
    states = []
    for plan, record in found:
        by_status, anomalous = (record.by_status, record.anomalous) if record else so_far[plan.run_id]
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
                images=sum(by_status.values()),
                by_status=by_status,
                anomalous=anomalous,
                seconds=record.seconds if record else None,
            )
        )
    return states


def _rows_so_far(table: str, unfinished: list[Run]) -> dict[str, tuple[dict[str, int], int]]:
    """By run: rows by status, and how many are anomalous."""
    by_status: dict[str, Counter[str]] = defaultdict(Counter)
    anomalous: Counter[str] = Counter()
    if unfinished and has_rows(table):
        dates, names = (
            ", ".join({quoted(getattr(run.plan, name)) for run in unfinished}) for name in ("run_date", "run_id")
        )
        counts = (
            f"SELECT run_id, status, count(*), count(*) FILTER (is_anomalous) FROM {rows_of(table, 'scores')} "
            f"WHERE run_date IN ({dates}) AND run_id IN ({names}) GROUP BY 1, 2"
        )
        with connect(table) as connection:
            for run_id, status, rows, marked in connection.execute(counts).fetchall():
                by_status[run_id][status] = rows
                anomalous[run_id] += marked
    return {run.plan.run_id: (dict(by_status[run.plan.run_id]), anomalous[run.plan.run_id]) for run in unfinished}
