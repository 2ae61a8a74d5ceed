"""Counts of a report: images and alerts by day and by group, failures by reason, and throughput."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import duckdb

from diffad_ray.analytics.history import RunState
from diffad_ray.analytics.report.rates import Rate
from diffad_ray.sql import quoted

ALL, DETECTOR = "all images", "detector"
"Names of the group of all images, and of the groups by detector."
MOST_FAILURES = 12


@dataclass(frozen=True)
class Counts:
    """Images, those with a score, and of these the rejected ones (`alerts`) and those in the warn band (`warned`)."""

    images: int = 0
    scored: int = 0
    alerts: int = 0
    warned: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.images + other.images,
            self.scored + other.scored,
            self.alerts + other.alerts,
            self.warned + other.warned,
        )

    @property
    def rate(self) -> Rate:
        """Alerts of the images with a score: the defect rate."""
        return Rate(self.alerts, self.scored)


@dataclass(frozen=True)
class Group:
    """The images with one value of a column.

    Attributes:
        now, earlier: in the period and in the one before.
        days: by day of the period, as ISO dates; `earlier_days`: of the one before.
    """

    column: str
    value: str
    now: Counts
    earlier: Counts
    days: dict[str, Counts] = field(default_factory=dict)
    earlier_days: dict[str, Counts] = field(default_factory=dict)


@dataclass(frozen=True)
class Failure:
    """Images without a score for one reason, in which numbers are replaced by N, with the URI of one of them."""

    status: str
    reason: str
    now: int
    earlier: int
    example: str


def groups(
    connection: duckdb.DuckDBPyConnection,
    columns: tuple[str, ...],
    without: Sequence[tuple[str, str]] = (),
) -> list[Group]:
    """Return all images as one group, then the groups by detector and by each column, with the most images first.

    Groups by detector are left out where there is one detector.

    Args:
        without: columns and values of groups whose images are not counted.
    """
    kept = [f"{sql_of(column, columns)} <> {quoted(value)}" for column, value in without]
    rows = f"cells WHERE {' AND '.join(kept)}" if kept else "cells"
    found = [_groups(connection, name, sql_of(name, columns), rows) for name in (ALL, DETECTOR, *columns)]
    if len(found[1]) == 1:
        found[1] = []
    return [group for members in found for group in members]


def sql_of(column: str, columns: tuple[str, ...]) -> str:
    """Return SQL of the value that an image or a cell has of a column of groups."""
    if column == ALL:
        return "''"
    return DETECTOR if column == DETECTOR else f"c{columns.index(column)}"


def _groups(connection: duckdb.DuckDBPyConnection, column: str, value: str, rows: str) -> list[Group]:
    sql = (
        f"SELECT {value}, is_now, day, sum(images)::BIGINT, sum(scored)::BIGINT, sum(alerts)::BIGINT, "
        f"sum(warned)::BIGINT FROM {rows} GROUP BY ALL ORDER BY ALL"
    )
    days: dict[str, tuple[dict[str, Counts], dict[str, Counts]]] = defaultdict(lambda: ({}, {}))
    for name, is_now, day, *counts in connection.execute(sql).fetchall():
        days[name][0 if is_now else 1][str(day)] = Counts(*counts)
    made = [
        Group(column, name, sum(now.values(), Counts()), sum(earlier.values(), Counts()), now, earlier)
        for name, (now, earlier) in days.items()
    ]
    return sorted(made, key=lambda group: (-group.now.images, group.value))


def failures(connection: duckdb.DuckDBPyConnection) -> list[Failure]:
    """Return the most frequent reasons for which images have no score, most images of the period first."""
    sql = (
        "SELECT status, coalesce(regexp_replace(error, '[0-9]+', 'N', 'g'), '') AS reason, "
        "count(*) FILTER (is_now) AS now, count(*) FILTER (NOT is_now) AS earlier, min(image_uri) AS example "
        "FROM asked WHERE status <> 'ok' GROUP BY ALL "
        f"ORDER BY now DESC, earlier DESC, status, reason LIMIT {MOST_FAILURES}"
    )
    return [Failure(*row) for row in connection.execute(sql).fetchall()]


def runs_of(connection: duckdb.DuckDBPyConnection, history: list[RunState]) -> list[RunState]:
    """Return the runs that wrote rows of the period, the oldest first."""
    wrote = {run for (run,) in connection.execute("SELECT DISTINCT run_id FROM cells WHERE is_now").fetchall()}
    return [run for run in history if run.run_id in wrote]
