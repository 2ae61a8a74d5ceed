"""Parts that have several images, such as those of one serial number: how many were rejected."""

from __future__ import annotations

from dataclasses import dataclass

import duckdb

from diffad_ray.analytics.parts import create_parts
from diffad_ray.analytics.report.rates import Rate
from diffad_ray.analytics.report.rows import RUN_DATE, Asked
from diffad_ray.errors import UserError
from diffad_ray.sql import identifier


@dataclass(frozen=True)
class Serials:
    """Parts of the period and of the one before; a part is rejected if any of its images is.

    Attributes:
        column: whose values are the parts.
        now, earlier: rejected parts of all parts, each part counted once a night.
        without: images of the period that have no value and belong to no part.
    """

    column: str
    now: Rate
    earlier: Rate
    without: int


def serials(connection: duckdb.DuckDBPyConnection, asked: Asked, column: str) -> Serials:
    """Return the counts of parts.

    Raises:
        UserError: the table has no such column, or other days than those of runs were asked for.
    """
    if asked.day_column != RUN_DATE or asked.run or asked.only:
        raise UserError("--group-by counts the parts of nights: give no --run, --only or --day-column with it")
    create_parts(connection, column)
    sql = f"SELECT count(*) FILTER (decision = 'reject'), count(*) FROM parts WHERE {RUN_DATE} BETWEEN ? AND ?"
    rates = []
    for period in (asked.period, asked.earlier):
        row = connection.execute(sql, [period.since, period.until]).fetchone()
        assert row is not None, "an aggregate without groups has one row"
        rates.append(Rate(*row))
    row = connection.execute(
        f"SELECT count(*) FROM scores WHERE {RUN_DATE} BETWEEN ? AND ? AND {identifier(column)} IS NULL",
        [asked.period.since, asked.period.until],
    ).fetchone()
    assert row is not None, "an aggregate without groups has one row"
    now, earlier = rates
    return Serials(column, now, earlier, row[0])
