"""`drift`: has the normal moved? The state of each detector and group, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import duckdb

from diffad_ray import storage
from diffad_ray.analytics.drift.causes import new_values
from diffad_ray.analytics.drift.daily import Question, Series, check_columns, read_series
from diffad_ray.analytics.drift.findings import Finding, find_all
from diffad_ray.analytics.drift.shifts import share_chart
from diffad_ray.analytics.drift.states import ACTIONS, State, judge
from diffad_ray.analytics.period import Period, period, period_within
from diffad_ray.bundles.calibration import FALSE_ALARM_RATE
from diffad_ray.errors import UserError
from diffad_ray.sql import identifier
from diffad_ray.table.detectors import KnownDetector, read_detectors
from diffad_ray.table.reading import existing
from diffad_ray.table.views import ask_views


@dataclass(frozen=True)
class Day:
    """A day of a group: counts, and the control chart of its tail share.

    Attributes:
        tail_share: share of the images with a tail probability of alpha or less; None if no image has one.
        lower, upper: limits within which the share varies by chance and from day to day.
        brightness, contrast, sharpness: medians; None if no image was measured.
    """

    day: date
    images: int
    failed: int
    tail_share: float | None
    lower: float | None
    upper: float | None
    is_outside: bool
    brightness: float | None
    contrast: float | None
    sharpness: float | None


@dataclass(frozen=True)
class GroupDrift:
    """The state of a detector and group.

    Attributes:
        group: values by column; empty for the detector as a whole.
        state: `fine`, `watch`, `recalibrate`, `retrain`, `look at the camera` or `more defects`.
        since: the first day of the change that the state is about.
        reasons: sentences; the first names the cause.
        findings: all figures that were compared, moved or not.
    """

    detector: str
    fingerprint: str
    group: dict[str, str | None]
    state: State
    since: date | None
    images: int
    reasons: list[str]
    findings: list[Finding]
    days: list[Day]

    @property
    def needs_action(self) -> bool:
        return self.state in ACTIONS


@dataclass(frozen=True)
class Drift:
    """The result of `drift`.

    Attributes:
        groups: the most urgent first.
        silent: groups without an image on the last day, which are not judged, by detector and group, with their last
            day.
    """

    table: str
    period: Period
    by: list[str]
    groups: list[GroupDrift]
    silent: list[tuple[str, dict[str, str | None], date]]

    @property
    def needs_action(self) -> bool:
        return any(group.needs_action for group in self.groups)


def drift(
    table: str | Path,
    since: str | None = "30d",
    until: str | None = None,
    by: Sequence[str] = (),
    day_column: str = "run_date",
) -> Drift:
    """Return what has moved in a table day by day, and what to do, for each detector and group.

    Args:
        since, until: days that are compared, see `analytics.period`.
        by: columns of `scores` that make groups, such as `camera`.
        day_column: a column of days or moments.

    Raises:
        UserError: there is no table, a column does not exist, or columns make too many groups.

    Example:
        >>> drift("scores", by=["camera"]).groups[0].state  # doctest: +SKIP
        'look at the camera'
    """
    location = existing(storage.normalised(table))
    # Detectors are always apart.
    columns = [name for name in by if name != "detector"]

    def ask(connection: duckdb.DuckDBPyConnection) -> Drift:
        check_columns(connection, columns, day_column)
        days = _period(connection, location, since, until, day_column)
        return drift_of(connection, location, days, columns, day_column)

    return ask_views(location, ask)


def drift_of(
    connection: duckdb.DuckDBPyConnection,
    table: str,
    days: Period,
    by: Sequence[str] = (),
    day_column: str = "run_date",
) -> Drift:
    """Return what `drift` does, from the views of a table that are open already."""
    known = read_detectors(table)
    alphas = {name: one.calibration.false_alarm_rate for name, one in known.items() if one.calibration}
    question = Question(by, day_column, days, alphas, FALSE_ALARM_RATE)
    return _judged(connection, table, question, known)


def _period(
    connection: duckdb.DuckDBPyConnection, table: str, since: str | None, until: str | None, day_column: str
) -> Period:
    if day_column == "run_date":
        return period(table, since, until)
    column = f"{identifier(day_column)}::DATE"
    first, last = connection.execute(f"SELECT min({column}), max({column}) FROM scores").fetchall()[0]
    if first is None:
        raise UserError(f"--day-column {day_column} is empty in all rows: take another column")
    return period_within(since, until, first, last)


def _judged(
    connection: duckdb.DuckDBPyConnection, table: str, question: Question, known: dict[str, KnownDetector]
) -> Drift:
    series = [one for one in read_series(connection, question) if one.fingerprint]
    if not series:
        return Drift(table, question.period, list(question.by), [], [])
    last = max(one.days[-1] for one in series)
    current = [one for one in series if one.days[-1] == last]
    groups = [_group(one, known.get(one.fingerprint)) for one in current]
    changes = {
        _key(group): group.since or last for group in groups if group.needs_action and group.state != "more defects"
    }
    told = new_values(connection, question, changes) if changes else {}
    groups = [_with_causes(group, groups, told.get(_key(group), [])) for group in groups]
    order = {state: number for number, state in enumerate((*ACTIONS, "watch", "fine"))}
    groups.sort(key=lambda group: (order[group.state], group.detector, str(group.group)))
    silent = [(one.detector, one.group, one.days[-1]) for one in series if one.days[-1] < last]
    return Drift(table, question.period, list(question.by), groups, silent)


def _key(group: GroupDrift) -> tuple[Any, ...]:
    return (group.fingerprint, *group.group.values())


def _group(series: Series, known: KnownDetector | None) -> GroupDrift:
    calibration = known.calibration if known else None
    alpha = calibration.false_alarm_rate if calibration else FALSE_ALARM_RATE
    findings = find_all(series, calibration, alpha)
    state, reasons = judge(findings, len(series.days))
    moved = [one.since for one in findings if one.level != "none" and one.since]
    since = min(moved) if moved and state != "fine" else None
    images, days = int(series.images.sum()), _days(series, findings)
    return GroupDrift(series.detector, series.fingerprint, series.group, state, since, images, reasons, findings, days)


def _days(series: Series, findings: list[Finding]) -> list[Day]:
    """The days, with a chart whose limits come from the days before a change."""
    since = next((one.since for one in findings if one.figure == "tail share"), None)
    judged = series.judged > 0
    days = [day for day, has in zip(series.days, judged, strict=True) if has]
    before = sum(since is None or day < since for day in days)
    chart = (
        dict(zip(days, share_chart(series.beyond[judged], series.judged[judged], before), strict=True)) if days else {}
    )
    found = []
    for number, day in enumerate(series.days):
        point = chart.get(day)
        medians = {name: float(values[number, 1]) for name, values in series.quality.items()}
        found.append(
            Day(
                day=day,
                images=int(series.images[number]),
                failed=int(series.failed[number]),
                tail_share=point.share if point else None,
                lower=point.lower if point else None,
                upper=point.upper if point else None,
                is_outside=bool(point and point.is_outside),
                # Not a number where nothing was measured.
                **{name: value if value == value else None for name, value in medians.items()},
            )
        )
    return found


def _with_causes(group: GroupDrift, all_groups: list[GroupDrift], told: list[str]) -> GroupDrift:
    """Add what distinguishes a group: whether the others moved too, and which values of columns are new."""
    if not group.needs_action:
        return group
    reasons = [*group.reasons, *told]
    others = [one for one in all_groups if one.fingerprint == group.fingerprint and one is not group]
    if others:
        alike = Counter(one.state for one in others)[group.state]
        same = "none" if not alike else "all" if alike == len(others) else str(alike)
        reasons.append(f"Of the {len(others)} other groups of this detector, {same} moved in the same way.")
    return GroupDrift(**{**group.__dict__, "reasons": reasons})
