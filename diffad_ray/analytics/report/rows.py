"""The rows that a report is about: one pass over the view `scores` into a table of counts, and one over `regions`.

Most figures of a report come from these two temporary tables, so that a table of ten million rows is read few times.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

import duckdb

from diffad_ray.analytics.period import Period
from diffad_ray.analytics.report.places import LONG
from diffad_ray.errors import UserError
from diffad_ray.sql import identifier, quoted
from diffad_ray.table.parts import RESERVED_PREFIXES, SCORES

RUN_DATE, RUN_ID = "run_date", "run_id"
MOST_COLUMNS, MOST_VALUES, FEWEST_IMAGES = 5, 50, 10
"""Columns that a report chooses by itself: so many, with so many distinct values at most, and with so many images for
each value on average."""
MEASURES = ("brightness", "contrast", "sharpness")
"Columns that tell of the camera and its light."
NO_VALUE = "(none)"
"How a null of a user's column is shown."
_TYPES = ("VARCHAR", "BIGINT", "UBIGINT", "BOOLEAN", "DATE")


@dataclass(frozen=True)
class Asked:
    """What rows a report is about.

    Attributes:
        period: the days that it reports on; `earlier`: those that it compares with.
        day_column: the column that has the day of an image.
        run, earlier_run: the run that it reports on, and the one before, where it reports on a run.
        only: columns and the value that they must have, as text.
        columns: the user's columns that images are counted by.
    """

    period: Period
    earlier: Period
    day_column: str = RUN_DATE
    run: str | None = None
    earlier_run: str | None = None
    only: tuple[tuple[str, str], ...] = ()
    columns: tuple[str, ...] = ()

    @property
    def day(self) -> str:
        """SQL of an image's day."""
        return RUN_DATE if self.day_column == RUN_DATE else f"TRY_CAST({identifier(self.day_column)} AS DATE)"

    @property
    def is_now(self) -> str:
        """SQL of whether an image belongs to the period."""
        return f"{RUN_ID} = {quoted(self.run)}" if self.run else f"{self.day} BETWEEN {_dates(self.period)}"

    @property
    def condition(self) -> str:
        """SQL of the images of both periods."""
        both = [f"{identifier(name)}::VARCHAR = {quoted(value)}" for name, value in self.only]
        if self.run:
            names = [name for name in (self.run, self.earlier_run) if name]
            both.append(f"{RUN_ID} IN ({', '.join(map(quoted, names))})")
        dates = f"{_dates(self.earlier)} OR {self.day} BETWEEN {_dates(self.period)}"
        return " AND ".join([f"({self.day} BETWEEN {dates})", *both])


def _dates(period: Period) -> str:
    return f"DATE '{period.since}' AND DATE '{period.until}'"


def day_bounds(connection: duckdb.DuckDBPyConnection, column: str) -> tuple[date, date]:
    """Return the first and the last day of a user's column.

    Raises:
        UserError: the table has no such column, or no value of it is a date.
    """
    refuse_unknown(connection, [column])
    day = f"TRY_CAST({identifier(column)} AS DATE)"
    row = connection.execute(f"SELECT min({day}), max({day}) FROM scores").fetchone()
    if row is None or row[0] is None:
        raise UserError(f"no value of the column {column} is a date like 2026-11-20: take another --day-column")
    return row[0], row[1]


def undated(connection: duckdb.DuckDBPyConnection, asked: Asked) -> tuple[int, str]:
    """Return how many images have no day, and one of them; a run date is never missing."""
    if asked.day_column == RUN_DATE:
        return 0, ""
    sql = f"SELECT count(*), min(image_uri) FROM scores WHERE {asked.day} IS NULL"
    row = connection.execute(sql).fetchone()
    assert row is not None, "an aggregate without groups has one row"
    return row[0], row[1] or ""


def refuse_unknown(connection: duckdb.DuckDBPyConnection, columns: list[str]) -> None:
    """Raise UserError if the view `scores` lacks a column."""
    known = _columns(connection)
    for name in columns:
        if name not in known:
            users = [known_name for known_name in known if _is_users(known_name)]
            there = f"its own columns are {', '.join(users)}" if users else "no template or manifest gave it columns"
            raise UserError(f"the table has no column {name!r}: {there}")


def choose_columns(connection: duckdb.DuckDBPyConnection, asked: Asked) -> tuple[str, ...]:
    """Return the user's columns with few distinct values in the rows that are asked for, fewest first."""
    names = [
        name
        for name, kind in _columns(connection).items()
        if kind in _TYPES and _is_users(name) and name != asked.day_column and name not in dict(asked.only)
    ]
    if not names:
        return ()
    counts = ", ".join(f"approx_count_distinct({identifier(name)})" for name in names)
    row = connection.execute(f"SELECT count(*), {counts} FROM scores WHERE {asked.condition}").fetchone()
    assert row is not None, "an aggregate without groups has one row"
    images, distinct = row[0], dict(zip(names, row[1:], strict=True))
    few = [name for name in names if 2 <= distinct[name] <= min(MOST_VALUES, images / FEWEST_IMAGES)]
    dates = [name for name in few if _are_dates(connection, name, asked)]
    return tuple(sorted((name for name in few if name not in dates), key=lambda name: distinct[name])[:MOST_COLUMNS])


def _are_dates(connection: duckdb.DuckDBPyConnection, name: str, asked: Asked) -> bool:
    """Whether all values of a column are dates. Images are counted by day already."""
    value = identifier(name)
    no_date = f"{value} IS NOT NULL AND TRY_CAST({value}::VARCHAR AS DATE) IS NULL"
    return connection.execute(f"SELECT 1 FROM scores WHERE {asked.condition} AND {no_date} LIMIT 1").fetchone() is None


def create_rows(connection: duckdb.DuckDBPyConnection, asked: Asked) -> None:
    """Create the view `asked` of the images, and three temporary tables.

    `cells` has counts, `alerts` the rejected images of the period, and `found` the regions.

    The user's columns are called `c0`, `c1` and so on, as text, because they may have any name.
    """
    users = [f"coalesce({identifier(n)}::VARCHAR, {quoted(NO_VALUE)}) AS c{k}" for k, n in enumerate(asked.columns)]
    connection.execute(
        "CREATE TEMP VIEW asked AS SELECT image_id, image_uri, width, height, status, error, score, tail_probability, "
        "threshold, decision, region_count, detector, detector_fingerprint, run_id, brightness, contrast, sharpness, "
        "coalesce(image_modified, scored_at) AS seen, "
        f"{', '.join([f'{asked.day} AS day', f'{asked.is_now} AS is_now', *users])} FROM scores WHERE {asked.condition}"
    )
    keys = "".join(f", c{number}" for number in range(len(asked.columns)))
    light = ", ".join(f"sum({m}) AS {m}, sum({m}::DOUBLE * {m}) AS {m}_squares" for m in MEASURES)
    connection.execute(
        f"CREATE TEMP TABLE cells AS SELECT is_now, day, run_id, detector, detector_fingerprint, status{keys}, "
        "count(*) AS images, count(score) AS scored, count(*) FILTER (decision = 'reject') AS alerts, "
        "count(*) FILTER (decision = 'review') AS warned, min(score) AS lowest, max(score) AS highest, "
        f"min(threshold) AS low_threshold, max(threshold) AS high_threshold, count(brightness) AS measured, {light} "
        "FROM asked GROUP BY ALL"
    )
    connection.execute(
        f"CREATE TEMP TABLE alerts AS SELECT image_id, detector_fingerprint, detector, tail_probability, score{keys} "
        "FROM asked WHERE is_now AND decision = 'reject'"
    )
    dated = f"WHERE region_date >= DATE '{asked.earlier.since}'" if asked.day_column == RUN_DATE else ""
    connection.execute(
        f"CREATE TEMP TABLE found AS SELECT is_now, day, detector, detector_fingerprint, image_id, seen{keys}, "
        "centroid_x / image_width AS x, centroid_y / image_height AS y, "
        f"sqrt(area / (image_width * image_height)) AS size, "
        f"greatest(width, height) >= {LONG} * least(width, height) AS is_long "
        "FROM (SELECT image_id, detector_fingerprint, centroid_x, centroid_y, area, width, height "
        f"FROM regions {dated}) JOIN (SELECT * RENAME (width AS image_width, height AS image_height) "
        "FROM asked WHERE region_count > 0 AND decision <> 'good') USING (image_id, detector_fingerprint)"
    )


def _columns(connection: duckdb.DuckDBPyConnection) -> dict[str, str]:
    """The columns of `scores` and their types."""
    sql = "SELECT column_name, data_type FROM duckdb_columns() WHERE table_name = 'scores'"
    return dict(connection.execute(sql).fetchall())


def _is_users(name: str) -> bool:
    return name not in SCORES.columns.names and name != RUN_DATE and not name.startswith(RESERVED_PREFIXES)
