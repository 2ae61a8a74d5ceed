"""Places of the product at which defects recur since some day, such as the mark of a tool."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from datetime import date, datetime
from typing import NamedTuple

import duckdb
import numpy as np

from diffad_ray.analytics.recurrence import GRID, SIGNIFICANT, WINDOW, cell, recurring_places
from diffad_ray.analytics.report.counts import ALL, sql_of
from diffad_ray.analytics.report.places import place_name
from diffad_ray.analytics.report.rates import Rate, RateChange, compare_rates
from diffad_ray.sql import quoted

MOST = 8
"Recurring places of a report."


@dataclass(frozen=True)
class Recurring:
    """A place of the product at which defects recur, such as the mark of a tool.

    Attributes:
        detector, fingerprint: whose images.
        column, value: the group of images in which it recurs.
        x, y: the centre of the place, in [0, 1].
        since: the first day; `first_seen`, `last_seen`: when the first and last image with it was taken, or scored
            where the time of the file is unknown.
        rates: images with a region at the place among the images of the group, since then and before.
        p: the p-value after correction.
    """

    detector: str
    fingerprint: str
    column: str
    value: str
    x: float
    y: float
    since: date
    first_seen: datetime
    last_seen: datetime
    rates: RateChange
    p: float

    @property
    def effect(self) -> float:
        """Cohen's h of the rates, without its sign."""
        return abs(self.rates.effect)

    @property
    def place(self) -> str:
        """The ninth of the image in words, such as `top left`."""
        return place_name(self.x, self.y)


class _Day(NamedTuple):
    """A day of one of the two periods; those of the period before come first."""

    is_now: bool
    day: date


class _Series(NamedTuple):
    """A group of images of one detector: its images by day [D], and images with a region by day and cell [D,G,G]."""

    images: np.ndarray
    cells: np.ndarray


class _Key(NamedTuple):
    """A group of images of one detector."""

    detector: str
    fingerprint: str
    value: str


def recurring(connection: duckdb.DuckDBPyConnection, columns: tuple[str, ...]) -> list[Recurring]:
    """Return the places at which defects recur since a day of the period and did not before, the largest effect first.

    Each group is compared as `recurring_places` says, and p-values are corrected for all groups. Nothing is found where
    no day lies before.
    """
    names = {name: sql_of(name, columns) for name in (ALL, *columns)}
    days = [_Day(*row) for row in connection.execute("SELECT DISTINCT is_now, day FROM cells ORDER BY ALL").fetchall()]
    candidates: list[Recurring] = []
    tests = 0
    for column, value in names.items():
        for key, series in _series(connection, value, days).items():
            found, tried = _of_group(column, key, series, days)
            candidates += found
            tests += tried
    corrected = [replace(one, p=min(1.0, one.p * tests)) for one in candidates]
    ranked = sorted((one for one in corrected if one.p < SIGNIFICANT), key=lambda one: (-one.effect, one.p))
    kept: list[Recurring] = []
    for one in ranked:
        if not any(_is_same(one, other) for other in kept):
            kept.append(one)
    return [_exact(connection, one, names[one.column]) for one in kept[:MOST]]


def window(x: float, y: float) -> str:
    """Return the SQL condition that a region lies at a place whose centre is x, y."""
    half = WINDOW / 2 / GRID
    return f"x BETWEEN {x - half} AND {x + half} AND y BETWEEN {y - half} AND {y + half}"


def _series(connection: duckdb.DuckDBPyConnection, value: str, days: list[_Day]) -> dict[_Key, _Series]:
    """The groups of a column, whose value is SQL."""
    number = {day: place for place, day in enumerate(days)}
    made: dict[_Key, _Series] = defaultdict(
        lambda: _Series(np.zeros(len(days), np.int64), np.zeros((len(days), GRID, GRID), np.int64))
    )
    keys = f"detector, detector_fingerprint, {value}, is_now, day"
    for row in connection.execute(f"SELECT {keys}, sum(scored)::BIGINT FROM cells GROUP BY ALL").fetchall():
        made[_Key(*row[:3])].images[number[_Day(*row[3:5])]] = row[5]
    sql = f"SELECT {keys}, {cell('y')}, {cell('x')}, count(DISTINCT image_id) FROM found GROUP BY ALL"
    for row in connection.execute(sql).fetchall():
        made[_Key(*row[:3])].cells[number[_Day(*row[3:5])], row[5], row[6]] = row[7]
    return made


def _of_group(column: str, key: _Key, series: _Series, days: list[_Day]) -> tuple[list[Recurring], int]:
    """The places of a group that may recur, each with its best first day, before correction; and the comparisons."""
    found, comparisons = recurring_places(
        series.images, series.cells, [number for number, day in enumerate(days) if day.is_now]
    )
    made = []
    for place in found:
        now, earlier = series.images[place.first :].sum(), series.images[: place.first].sum()
        rates = compare_rates(_rate(place.now, now), _rate(place.earlier, earlier))
        since, when = days[place.first].day, datetime.min
        made.append(Recurring(*key[:2], column, key.value, place.x, place.y, since, when, when, rates, place.p))
    return made, comparisons


def _rate(count: int, images: int) -> Rate:
    # An image with regions in two cells of the place is counted twice.
    return Rate(min(int(count), int(images)), int(images))


def _is_same(one: Recurring, other: Recurring) -> bool:
    """Whether a place is that of another group, in which the mark is diluted."""
    if one.fingerprint != other.fingerprint or (one.column == other.column and one.value != other.value):
        return False
    return max(abs(one.x - other.x), abs(one.y - other.y)) < (WINDOW + 0.5) / GRID


def _exact(connection: duckdb.DuckDBPyConnection, one: Recurring, value: str) -> Recurring:
    """A place with its images counted once each, and with the times of its first and last one."""
    is_since = f"is_now AND day >= DATE '{one.since}'"
    row = connection.execute(
        f"SELECT count(DISTINCT image_id) FILTER ({is_since}), count(DISTINCT image_id) FILTER (NOT ({is_since})), "
        f"min(seen) FILTER ({is_since})::TIMESTAMP, max(seen) FILTER ({is_since})::TIMESTAMP FROM found "
        f"WHERE detector_fingerprint = {quoted(one.fingerprint)} AND {value} = {quoted(one.value)} "
        f"AND {window(one.x, one.y)}"
    ).fetchone()
    assert row is not None, "an aggregate without groups has one row"
    rates = compare_rates(Rate(row[0], one.rates.now.of), Rate(row[1], one.rates.earlier.of))
    return replace(one, rates=rates, first_seen=row[2], last_seen=row[3])
