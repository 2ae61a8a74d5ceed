"""Periods of days, as a user names them: `7d`, or from one date to another."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, timedelta

from diffad_ray import storage
from diffad_ray.errors import UserError
from diffad_ray.table.parts import SCORES
from diffad_ray.table.reading import existing
from diffad_ray.table.runs import read_runs
from diffad_ray.table.snapshot import paths_below

_DAYS = re.compile(r"(\d{1,5})d")
_PARTITION = re.compile(r"run_date=(\d{4}-\d\d-\d\d)/")


@dataclass(frozen=True, order=True)
class Period:
    """Days from `since` to `until`, both inclusive.

    Example:
        >>> Period(date(2026, 11, 14), date(2026, 11, 20)).days
        7
    """

    since: date
    until: date

    def __post_init__(self) -> None:
        if self.since > self.until:
            raise UserError(f"the period begins on {self.since} and ends before, on {self.until}: exchange the dates")

    @property
    def days(self) -> int:
        return (self.until - self.since).days + 1

    @property
    def dates(self) -> list[date]:
        return [self.since + timedelta(days=number) for number in range(self.days)]

    def __str__(self) -> str:
        return str(self.since) if self.days == 1 else f"{self.since} to {self.until}"


def before(period: Period) -> Period:
    """Return the period of equal length that ends on the day before.

    Example:
        >>> str(before(Period(date(2026, 11, 14), date(2026, 11, 20))))
        '2026-11-07 to 2026-11-13'
    """
    return Period(period.since - timedelta(days=period.days), period.since - timedelta(days=1))


def period(table: str, since: str | None, until: str | None = None, run: str | None = None) -> Period:
    """Return the period of `run_date` that a user asks of a table.

    Args:
        since: first date, such as `2026-11-14`, or a number of days, such as `7d`, which end with `until`; None: from
            the first date that has rows.
        until: last date; None: the last date that has rows, so that a table is shown whenever it was written.
        run: name of a run; the period is its date, and the other arguments must be None.

    Raises:
        UserError: there is no table, a text is neither a date nor a number of days, the dates are in the wrong order,
            or the run is unknown.

    Example:
        >>> period("scores", "7d")  # doctest: +SKIP
        Period(since=datetime.date(2026, 11, 14), until=datetime.date(2026, 11, 20))
    """
    location = existing(storage.normalised(table))
    if run is not None:
        if since is not None or until is not None:
            raise UserError("a run has its own date: give either a run or a period")
        day = run_day(location, run)
        return Period(day, day)
    dates = _dates(location)
    return period_within(since, until, dates[0], dates[-1])


def period_within(since: str | None, until: str | None, first: date, last: date) -> Period:
    """Return the period that texts name for data from a first to a last date; see `period`.

    Example:
        >>> str(period_within("2d", None, date(2026, 11, 1), date(2026, 11, 20)))
        '2026-11-19 to 2026-11-20'
    """
    end = last if until is None else _date(until, "until")
    if since is None:
        return Period(min(first, end), end)
    number = _DAYS.fullmatch(since)
    if number is None:
        return Period(_date(since, "since"), end)
    days = int(number[1])
    if days == 0:
        raise UserError(f"a period of {since} has no day: give 1d or more")
    try:
        return Period(end - timedelta(days=days - 1), end)
    except OverflowError as error:
        raise UserError(f"{since} before {end} is no date of a calendar: give fewer days") from error


def run_day(table: str, run: str) -> date:
    """Return the date of a run of a table.

    Raises:
        UserError: the run is unknown, or the table can't be read.
    """
    plans = [found.plan for found in read_runs(table)]
    for plan in plans:
        if plan.run_id == run:
            return date.fromisoformat(plan.run_date)
    last = f"; the last run is {plans[-1].run_id}" if plans else ""
    raise UserError(f"the table {table} has no run {run}{last}: `diffad-ray runs {table}` lists them")


def _date(text: str, name: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise UserError(f"{name} must be a date like 2026-11-20 or a number of days like 7d, not {text!r}") from error


def _dates(table: str) -> list[date]:
    """The dates that have rows, ascending; the names of the files tell them, so no row is read."""
    found = {match[1] for path in paths_below(table, SCORES.name) if (match := _PARTITION.search(path))}
    return sorted(map(date.fromisoformat, found))
