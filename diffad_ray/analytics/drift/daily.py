"""Daily figures of each detector and group, by SQL over the views of a table. No image is opened."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import duckdb
import numpy as np

from diffad_ray.analytics.period import Period
from diffad_ray.analytics.recurrence import GRID, cell
from diffad_ray.errors import UserError
from diffad_ray.images.quality import Quality
from diffad_ray.sql import identifier, quoted

LEVELS = tuple(round(0.05 * k, 2) for k in range(1, 11))
"""Quantiles of the scores: their lower half. More defects do not reach it, and a change of what is normal does."""
SPREAD = (0.05, 0.5, 0.95)
"Quantiles of brightness, contrast and sharpness."
BINS = 10
"Of the tail probability, equally wide, so that calibration images fall evenly into them."
SAMPLED_ROWS = 2_000_000
"Quantiles of larger tables come from about so many rows, chosen by the hash that is the `image_id`."
KINDS = 3
"Most frequent sizes and modes of a day."
MOST_GROUPS = 500
_Row = tuple[Any, ...]


@dataclass
class Series:
    """The days [D] of one detector and group.

    Attributes:
        group: values by column.
        images, failed, scored: counts [D] of rows, of those with another status than ok, and of those with a score.
        judged, beyond: counts [D] of rows with a tail probability, and of those at or below alpha.
        bins: counts [D, BINS] of tail probabilities.
        sampled: counts [D] of scores behind the quantiles.
        scores: quantiles [D, LEVELS].
        quality: quantiles [D, SPREAD] by name.
        kinds: images by width, height and mode, of each day.
        cells: counts [D, GRID, GRID] of alerts with a region in a cell of the image.
    """

    detector: str
    fingerprint: str
    group: dict[str, str | None]
    days: list[date]
    images: np.ndarray
    failed: np.ndarray
    scored: np.ndarray
    judged: np.ndarray
    beyond: np.ndarray
    bins: np.ndarray
    sampled: np.ndarray
    scores: np.ndarray
    quality: dict[str, np.ndarray]
    kinds: list[Counter[tuple[int, int, str]]] = field(default_factory=list)
    cells: np.ndarray = field(default_factory=lambda: np.zeros((0, GRID, GRID), np.int64))


@dataclass(frozen=True)
class Question:
    """What is read of a table.

    Attributes:
        by: columns that make groups beside the detector.
        day_column: a date or moment, or text that is one.
        alphas: by fingerprint, the tail probability that counts as beyond.
        alpha: of other detectors.
    """

    by: Sequence[str]
    day_column: str
    period: Period
    alphas: Mapping[str, float]
    alpha: float

    @property
    def day(self) -> str:
        return (
            "run_date" if self.day_column == "run_date" else f"TRY_CAST(scores.{identifier(self.day_column)} AS DATE)"
        )

    @property
    def columns(self) -> str:
        """SQL of the columns that make a series."""
        return ", ".join(["detector_fingerprint", *(f"scores.{identifier(name)}::VARCHAR" for name in self.by)])

    @property
    def condition(self) -> str:
        return self.within(self.day)

    @property
    def condition_of_regions(self) -> str:
        """Regions are in folders of the same dates as the scores of their run."""
        return self.within("region_date") if self.day_column == "run_date" else "true"

    def within(self, day: str) -> str:
        return f"{day} BETWEEN DATE '{self.period.since}' AND DATE '{self.period.until}'"

    @property
    def alpha_sql(self) -> str:
        whens = "".join(f" WHEN {quoted(name)} THEN {value!r}::DOUBLE" for name, value in self.alphas.items())
        return f"CASE detector_fingerprint{whens} ELSE {self.alpha!r}::DOUBLE END" if whens else repr(self.alpha)


def read_series(connection: duckdb.DuckDBPyConnection, question: Question) -> list[Series]:
    """Return the daily figures of each detector and group, sorted by both.

    Raises:
        UserError: there are too many groups.
    """
    counts, names = _counts(connection, question)
    if len(counts) > MOST_GROUPS:
        raise UserError(
            f"--by {','.join(question.by)} makes {len(counts)} groups, more than {MOST_GROUPS}: take columns of fewer "
            "values"
        )
    rows = sum(int(of_day[0]) for days in counts.values() for of_day in days.values())
    quantiles = _quantiles(connection, question, rows)
    found = {key: _series(key, names[key[0]], days, quantiles, question) for key, days in counts.items()}
    _add_kinds(connection, question, found)
    _add_cells(connection, question, found)
    return [found[key] for key in sorted(found, key=lambda key: tuple(map(str, key)))]


def check_columns(connection: duckdb.DuckDBPyConnection, by: Sequence[str], day_column: str) -> None:
    """Raise UserError if columns of groups or of days do not exist, or the one of days holds something else."""
    columns = {row[0]: row[1] for row in connection.execute("DESCRIBE scores").fetchall()}
    for option, names in (("--by", by), ("--day-column", [day_column])):
        if unknown := [name for name in names if name not in columns]:
            raise UserError(f"{option} {unknown[0]}: scores has no such column. It has {', '.join(columns)}")
    if columns[day_column] == "VARCHAR":
        name = identifier(day_column)
        wrong = f"SELECT min({name}) FROM scores WHERE TRY_CAST({name} AS DATE) IS NULL"
        ((example,),) = connection.execute(wrong).fetchall()
        has_days = example is None
        held = "" if has_days else f", but holds {example!r}"
    else:
        has_days, held = columns[day_column].startswith(("DATE", "TIMESTAMP")), ""
    if not has_days:
        raise UserError(
            f"--day-column {day_column} is no date{held}: take a column of days or moments, or leave it out"
        )


def _counts(
    connection: duckdb.DuckDBPyConnection, question: Question
) -> tuple[dict[tuple[Any, ...], dict[date, np.ndarray]], dict[str | None, str]]:
    """Counts by group and day (images, failed, scored, judged, beyond alpha, each bin), and names by fingerprint.

    A row of the aggregate is a bin, which costs a third of what as many conditional counts would.
    """
    width = f"least({BINS} - 1, greatest(0, ceil(tail_probability * {BINS}) - 1))::INTEGER"
    rows = connection.execute(
        f"SELECT {question.columns}, {question.day}, {width}, tail_probability <= {question.alpha_sql}, status = 'ok', "
        f"count(*), count(score), any_value(detector) FROM scores WHERE {question.condition} GROUP BY ALL"
    ).fetchall()
    found: dict[tuple[Any, ...], dict[date, np.ndarray]] = defaultdict(dict)
    names: dict[str | None, str] = {}
    for *key, day, number, is_beyond, is_ok, images, scored, name in rows:
        names[key[0]] = name or ""
        counts = found[tuple(key)].setdefault(day, np.zeros(5 + BINS, np.int64))
        judged = images if number is not None else 0
        counts[:5] += (images, images * (not is_ok), scored, judged, images * bool(is_beyond))
        if number is not None:
            counts[5 + number] += images
    return found, names


def _quantiles(connection: duckdb.DuckDBPyConnection, question: Question, rows: int) -> dict[tuple[Any, ...], _Row]:
    """Quantiles by group and day, of a sample where there are many rows."""
    every = max(1, rows // SAMPLED_ROWS)
    sample = f" AND image_id % {every} = 0" if every > 1 else ""
    quality = ", ".join(f"quantile_cont({name}, {list(SPREAD)})" for name in Quality._fields)
    found = connection.execute(
        f"SELECT {question.columns}, {question.day}, count(score), quantile_cont(score, {list(LEVELS)}), {quality} "
        f"FROM scores WHERE {question.condition} AND status = 'ok'{sample} GROUP BY ALL"
    ).fetchall()
    width = 2 + len(question.by)
    return {row[:width]: row[width:] for row in found}


def _series(
    key: tuple[Any, ...],
    detector: str,
    counts: Mapping[date, np.ndarray],
    quantiles: Mapping[tuple[Any, ...], _Row],
    question: Question,
) -> Series:
    days = sorted(counts)
    table = np.stack([counts[day] for day in days])
    nothing = (0, *(None for _ in range(1 + len(Quality._fields))))
    rows = [quantiles.get((*key, day), nothing) for day in days]

    def of(column: int, length: int) -> np.ndarray:
        return np.array([row[column] or [np.nan] * length for row in rows], dtype=np.float64)

    return Series(
        detector=detector,
        fingerprint=key[0] or "",
        group=dict(zip(question.by, key[1:], strict=True)),
        days=days,
        images=table[:, 0],
        failed=table[:, 1],
        scored=table[:, 2],
        judged=table[:, 3],
        beyond=table[:, 4],
        bins=table[:, 5:],
        sampled=np.array([row[0] for row in rows], dtype=np.int64),
        scores=of(1, len(LEVELS)),
        quality={name: of(2 + k, len(SPREAD)) for k, name in enumerate(Quality._fields)},
        kinds=[Counter() for _ in days],
        cells=np.zeros((len(days), GRID, GRID), np.int64),
    )


def _add_kinds(connection: duckdb.DuckDBPyConnection, question: Question, found: dict[tuple[Any, ...], Series]) -> None:
    """Add the most frequent sizes and modes of each day. Archives of cut-out images have as many sizes as images."""
    names = ", ".join(f"key{k}" for k in range(1 + len(question.by)))
    counted = (
        f"SELECT {question.columns}, {question.day}, width, height, mode, count(*) FROM scores "
        f"WHERE status = 'ok' AND {question.condition} GROUP BY ALL"
    )
    rows = connection.execute(
        f"FROM ({counted}) AS kinds ({names}, day, width, height, mode, images) "
        f"QUALIFY row_number() OVER (PARTITION BY {names}, day ORDER BY images DESC) <= {KINDS}"
    ).fetchall()
    for *key, day, width, height, mode, count in rows:
        series = found[tuple(key)]
        series.kinds[series.days.index(day)][width, height, mode] = count


def _add_cells(connection: duckdb.DuckDBPyConnection, question: Question, found: dict[tuple[Any, ...], Series]) -> None:
    """Add where the regions of each day lie. Images that are good by the threshold in force do not count."""
    x, y = cell("regions.centroid_x / scores.width"), cell("regions.centroid_y / scores.height")
    rows = connection.execute(
        f"SELECT {question.columns}, {question.day}, {y}, {x}, count(DISTINCT image_id) "
        f"FROM (FROM regions WHERE {question.condition_of_regions}) AS regions "
        f"JOIN (FROM scores WHERE region_count > 0 AND decision <> 'good' AND {question.condition}) AS scores "
        f"USING (image_id, detector_fingerprint) GROUP BY ALL"
    ).fetchall()
    for *key, day, row, column, count in rows:
        series = found[tuple(key)]
        series.cells[series.days.index(day), row, column] = count
