"""Parts that have several images, such as those of one serial number: how many were rejected, since when, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import duckdb

from diffad_ray.analytics.parts import create_parts
from diffad_ray.analytics.period import Period
from diffad_ray.analytics.report.examples import ExampleImage, Key, images_of
from diffad_ray.analytics.report.rates import Rate, RateChange, compare_rates, dispersion_of
from diffad_ray.analytics.report.rows import NO_VALUE, RUN_DATE, Asked
from diffad_ray.errors import UserError
from diffad_ray.sql import identifier, quoted

WORST, VIEWS = 4, 6
"Parts whose images are shown, and images of each."
MOST_VALUES = 12
"Bars of the Pareto of a column."


@dataclass(frozen=True)
class DecidingView:
    """Rejected parts whose worst image has one value of a column, such as a camera; with the cumulative share."""

    column: str
    value: str
    now: int
    earlier: int
    cumulative_share: float


@dataclass(frozen=True)
class WorstPart:
    """A rejected part.

    Attributes:
        part: its value of the column.
        day: the night, as an ISO date.
        images: of the part in this night, the worst first; `left_out`: further ones, which are not shown.
        titles: of the images: their values of the columns that tell views apart, and their decisions.
    """

    part: str
    day: str
    images: list[ExampleImage]
    titles: list[str]
    left_out: int


@dataclass(frozen=True)
class Serials:
    """Parts of the period and of the one before; a part is rejected if any of its images is.

    Attributes:
        column: whose values are the parts.
        now, earlier: rejected parts of all parts, each part counted once a night.
        without: images of the period that have no value and belong to no part.
        days, earlier_days: the same rate by night, as ISO dates.
        change: the rates of both periods compared, by a test that knows how much nights differ; None without parts
            before.
        views: which view decided, for each column that tells the images of a part apart; the most frequent first.
        worst: rejected parts of the period, the lowest tail probability first.
    """

    column: str
    now: Rate
    earlier: Rate
    without: int
    days: dict[str, Rate]
    earlier_days: dict[str, Rate]
    change: RateChange | None
    views: list[DecidingView]
    worst: list[WorstPart]


def serials(connection: duckdb.DuckDBPyConnection, asked: Asked, column: str) -> Serials:
    """Return the figures of parts, and the worst ones.

    Raises:
        UserError: the table has no such column, or other days than those of runs were asked for.
    """
    if asked.day_column != RUN_DATE or asked.run or asked.only:
        raise UserError("--group-by counts the parts of nights: give no --run, --only or --day-column with it")
    create_parts(connection, column)
    now, earlier = (_by_night(connection, _within(period)) for period in (asked.period, asked.earlier))
    rejected, rejected_before = _total(now), _total(earlier)
    spread = dispersion_of([list(days.values()) for days in (now, earlier)])
    row = connection.execute(
        f"SELECT count(*) FROM scores WHERE {_within(asked.period)} AND {identifier(column)} IS NULL"
    ).fetchone()
    assert row is not None, "an aggregate without groups has one row"
    columns = [name for name in asked.columns if name != column and _tells_views_apart(connection, asked, column, name)]
    return Serials(
        column=column,
        now=rejected,
        earlier=rejected_before,
        without=row[0],
        days=now,
        earlier_days=earlier,
        change=compare_rates(rejected, rejected_before, spread) if rejected.of and rejected_before.of else None,
        views=[view for name in columns for view in _deciding(connection, asked, name)],
        worst=_worst(connection, asked, column, columns),
    )


def _within(period: Period) -> str:
    return f"{RUN_DATE} BETWEEN DATE '{period.since}' AND DATE '{period.until}'"


def _by_night(connection: duckdb.DuckDBPyConnection, condition: str) -> dict[str, Rate]:
    """Rejected parts of all parts, by night."""
    sql = f"SELECT {RUN_DATE}::VARCHAR, count(*) FILTER (decision = 'reject'), count(*) FROM parts WHERE {condition} "
    return {day: Rate(*counts) for day, *counts in connection.execute(f"{sql} GROUP BY 1 ORDER BY 1").fetchall()}


def _total(nights: dict[str, Rate]) -> Rate:
    return Rate(sum(night.count for night in nights.values()), sum(night.of for night in nights.values()))


def _tells_views_apart(connection: duckdb.DuckDBPyConnection, asked: Asked, part: str, column: str) -> bool:
    """Whether images of one part and night have several values of a column, as of a camera, and unlike a line."""
    of_part = f"SELECT 1 FROM scores WHERE {_within(asked.period)} AND {identifier(part)} IS NOT NULL"
    sql = f"{of_part} GROUP BY {identifier(part)}, {RUN_DATE} HAVING count(DISTINCT {identifier(column)}) > 1 LIMIT 1"
    return connection.execute(sql).fetchone() is not None


def _deciding(connection: duckdb.DuckDBPyConnection, asked: Asked, column: str) -> list[DecidingView]:
    """The Pareto of rejected parts by the value that the worst image of each has."""
    rows = connection.execute(
        f"SELECT coalesce(scores.{identifier(column)}::VARCHAR, {quoted(NO_VALUE)}), "
        f"count(*) FILTER ({_within(asked.period)}) AS now, count(*) FILTER ({_within(asked.earlier)}) AS earlier "
        f"FROM parts JOIN scores USING (image_id, detector_fingerprint, {RUN_DATE}) WHERE parts.decision = 'reject' "
        "GROUP BY 1 HAVING now + earlier > 0 ORDER BY now DESC, earlier DESC, 1"
    ).fetchall()
    total, so_far, bars = sum(row[1] for row in rows), 0, []
    for value, now, earlier in rows[:MOST_VALUES]:
        so_far += now
        bars.append(DecidingView(column, value, now, earlier, so_far / total if total else 0.0))
    return bars


def _worst(connection: duckdb.DuckDBPyConnection, asked: Asked, column: str, apart: Sequence[str]) -> list[WorstPart]:
    """The rejected parts of the period with the lowest tail probabilities."""
    name = identifier(column)
    parts = connection.execute(
        f"SELECT {name}::VARCHAR, {RUN_DATE} FROM parts WHERE {_within(asked.period)} AND decision = 'reject' "
        f"ORDER BY tail_probability, image_uri LIMIT {WORST}"
    ).fetchall()
    if not parts:
        return []
    titles = ", ".join([*(f"{identifier(one)}::VARCHAR" for one in apart), "decision"])
    wanted = ", ".join(f"({quoted(part)}, DATE '{day}')" for part, day in parts)
    rows = connection.execute(
        f"SELECT {name}::VARCHAR AS part, {RUN_DATE}, image_id, detector_fingerprint, {titles} FROM scores "
        f"WHERE score IS NOT NULL AND ({name}::VARCHAR, {RUN_DATE}) IN ({wanted}) "
        "ORDER BY tail_probability, score DESC, image_uri"
    ).fetchall()
    shown = {part: [row for row in rows if row[:2] == part] for part in parts}
    known = images_of(connection, {Key(*row[2:4]) for views in shown.values() for row in views[:VIEWS]})
    return [
        WorstPart(
            part,
            str(day),
            [known[Key(*row[2:4])] for row in views[:VIEWS]],
            [", ".join(value for value in row[4:] if value is not None) for row in views[:VIEWS]],
            max(0, len(views) - VIEWS),
        )
        for (part, day), views in shown.items()
    ]
