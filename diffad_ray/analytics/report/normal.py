"""Whether what is normal has moved: the verdict of `drift` on each detector, for the first screen of a report."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta

import duckdb

from diffad_ray.analytics.drift.judgement import GroupDrift, drift_of
from diffad_ray.analytics.drift.states import State
from diffad_ray.analytics.period import Period
from diffad_ray.analytics.report.rows import RUN_DATE, Asked

DAYS = 30
"Days until the last one of the report that are judged, as `diffad-ray drift` does without options."


@dataclass(frozen=True)
class DetectorDrift:
    """The state of all images of a detector, as `diffad-ray drift` has it.

    Attributes:
        needs_action: whether somebody must act.
        since: the first day of the change that the state is about.
        reasons: sentences; the first names the cause.
        command: that shows the groups.
    """

    detector: str
    fingerprint: str
    state: State
    needs_action: bool
    since: date | None
    reasons: list[str]
    command: str


def drift_of_detectors(connection: duckdb.DuckDBPyConnection, table: str, asked: Asked) -> list[DetectorDrift]:
    """Return the state of each detector on the last day of a report, the most urgent first.

    None is judged where a report is about a choice of images, or about other days than those of runs.
    """
    if asked.day_column != RUN_DATE or asked.only:
        return []
    until = asked.period.until
    found = drift_of(connection, table, Period(until - timedelta(days=DAYS - 1), until))
    command = f"diffad-ray drift {table} --until {until}"
    if asked.columns:
        command += f" --by {','.join(asked.columns)}"
    return [_of(group, command) for group in found.groups]


def _of(group: GroupDrift, command: str) -> DetectorDrift:
    return DetectorDrift(
        group.detector, group.fingerprint, group.state, group.needs_action, group.since, group.reasons, command
    )
