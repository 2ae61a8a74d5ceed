"""What candidate thresholds would have meant in past nights, by group, in one pass over the rows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import duckdb

from diffad_ray.analytics.period import Period
from diffad_ray.analytics.thresholds.subjects import Subject, scored_in
from diffad_ray.analytics.thresholds.verdicts import JUDGED
from diffad_ray.errors import UserError
from diffad_ray.intervals import Interval, wilson
from diffad_ray.sql import identifier, quoted

MOST_CELLS = 200_000
"Rows of the aggregate by group, night and threshold, which come into Python."


@dataclass(frozen=True)
class Candidate:
    """A threshold of a detector, and why it is looked at.

    Attributes:
        reasons: such as `in force` or `rate 0.1 %`.
        review: where the review band begins, if there is one.
        rate: its false-alarm rate by the calibration, if that is known.
    """

    fingerprint: str
    reject: float
    review: float | None
    rate: float | None
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Window:
    """What a threshold would have meant for the nights of a window; of parts, if these are counted in place of images.

    Attributes:
        nights: with scored images of any group; `images`: scored ones of the group.
        alerts: rejected images; `most_alerts`: in the night with most.
        review: images in the review band.
        false_alarms: expected, if each image were good and like the calibration images; None without a calibration, and
            of parts, because the calibration is of images.
        with_regions: alerts that have regions in the table now.
        hours_a_night: to look at alerts and images to review.
    """

    nights: int
    images: int
    alerts: int
    most_alerts: int
    review: int
    false_alarms: float | None
    with_regions: int
    hours_a_night: float

    @property
    def alerts_a_night(self) -> float:
        return self.alerts / self.nights


@dataclass(frozen=True)
class Reviewed:
    """What the verdicts of the period say of a threshold.

    Attributes:
        alerts: rejected images with a verdict; `good`: those that people call good.
        overkill: share of good images among reviewed alerts, with its interval; None without reviewed alerts.
        defects: images that people call defective; `missed`: those below the threshold.
    """

    alerts: int
    good: int
    overkill: Interval | None
    defects: int
    missed: int


@dataclass(frozen=True)
class Consequence:
    """What a candidate would have meant for a group.

    Attributes:
        group: values by column.
        windows: by name, such as `week`.
        reviewed: None if no image of the group has a verdict.
    """

    group: dict[str, Any]
    candidate: Candidate
    windows: dict[str, Window]
    reviewed: Reviewed | None


@dataclass(frozen=True)
class Frame:
    """What consequences are counted for.

    Attributes:
        keys: columns that make the groups.
        windows: periods by name, of which the longest contains the others.
        seconds_per_image: that a person needs for an image, or for a part.
        is_of_parts: whether the rows are those of parts, see `by_parts`.
    """

    keys: Sequence[str]
    windows: Mapping[str, Period]
    seconds_per_image: float
    is_of_parts: bool = False

    @property
    def whole(self) -> Period:
        return max(self.windows.values(), key=lambda window: window.days)


def windows_of(period: Period, is_asked: bool) -> dict[str, Period]:
    """Return the asked period, or the last night, week and month of one that nobody asked for."""
    if is_asked:
        return {"period": period}
    days = {"night": 1, "week": 7, "month": 30}
    return {name: Period(period.until - timedelta(days=count - 1), period.until) for name, count in days.items()}


class _Cell:
    """Counts of a group and a night, by the number of boundaries that a score reaches."""

    def __init__(self, size: int):
        self.images = [0] * size
        self.with_regions = [0] * size


Cells = dict[tuple[Any, ...], dict[date, _Cell]]


def consequences(
    connection: duckdb.DuckDBPyConnection, subjects: Sequence[Subject], candidates: Sequence[Candidate], frame: Frame
) -> list[Consequence]:
    """Return what each candidate would have meant, by group and window.

    Raises:
        UserError: a column does not exist, or there are too many groups.
    """
    _check_columns(connection, frame.keys)
    boundaries = {
        subject.fingerprint: sorted(
            {
                bound
                for one in candidates
                if one.fingerprint == subject.fingerprint
                for bound in (one.reject, one.review)
                if bound is not None
            }
        )
        for subject in subjects
    }
    cells = _cells(connection, subjects, boundaries, frame)
    verdicts = _verdicts(connection, subjects, boundaries, frame)
    nights = {day for of_group in cells.values() for day in of_group}
    found = []
    for key, of_group in cells.items():
        for one in candidates:
            if one.fingerprint != key[0]:
                continue
            place = {bound: number + 1 for number, bound in enumerate(boundaries[key[0]])}
            windows = {
                name: _window(
                    one, of_group, place, [day for day in nights if window.since <= day <= window.until], frame
                )
                for name, window in frame.windows.items()
            }
            reviewed = _reviewed(verdicts[key], place[one.reject]) if key in verdicts else None
            found.append(Consequence(dict(zip(frame.keys, key[1:], strict=True)), one, windows, reviewed))
    return found


def _check_columns(connection: duckdb.DuckDBPyConnection, keys: Sequence[str]) -> None:
    columns = [row[0] for row in connection.execute("DESCRIBE scores").fetchall()]
    if unknown := [key for key in keys if key not in columns]:
        raise UserError(f"--by {unknown[0]}: scores has no such column. It has {', '.join(columns)}")


def _reached(boundaries: Mapping[str, Sequence[float]]) -> str:
    """SQL of the number of boundaries of its detector that a score reaches."""
    whens = []
    for fingerprint, bounds in boundaries.items():
        steps = " + ".join(f"(score >= {bound!r}::FLOAT)::INTEGER" for bound in bounds)
        whens.append(f"WHEN {quoted(fingerprint)} THEN {steps}")
    return f"CASE detector_fingerprint {' '.join(whens)} END"


def _grouped(frame: Frame) -> str:
    return ", ".join(["detector_fingerprint", *(f"scores.{identifier(key)}" for key in frame.keys)])


def _cells(
    connection: duckdb.DuckDBPyConnection,
    subjects: Sequence[Subject],
    boundaries: Mapping[str, Sequence[float]],
    frame: Frame,
) -> Cells:
    rows = connection.execute(
        f"SELECT run_date, {_reached(boundaries)} AS reached, count(*), count(*) FILTER (region_count > 0), "
        f"{_grouped(frame)} FROM scores WHERE {scored_in(frame.whole, subjects)} GROUP BY ALL LIMIT {MOST_CELLS + 1}"
    ).fetchall()
    if len(rows) > MOST_CELLS:
        raise UserError(f"--by {','.join(frame.keys)} makes too many groups: take columns with fewer values")
    cells: Cells = defaultdict(dict)
    for day, reached, images, with_regions, *key in sorted(rows, key=lambda row: (*map(str, row[4:]), row[0], row[1])):
        cell = cells[tuple(key)].setdefault(day, _Cell(len(boundaries[key[0]]) + 1))
        cell.images[reached], cell.with_regions[reached] = images, with_regions
    return cells


def _verdicts(
    connection: duckdb.DuckDBPyConnection,
    subjects: Sequence[Subject],
    boundaries: Mapping[str, Sequence[float]],
    frame: Frame,
) -> dict[tuple[Any, ...], list[tuple[int, int, int]]]:
    """Counts of good and defective images by group, each with the number of boundaries that they reach."""
    rows = connection.execute(
        f"SELECT {_reached(boundaries)} AS reached, count(*) FILTER (verdict = 'good'), "
        f"count(*) FILTER (verdict = 'defect'), {_grouped(frame)} FROM {JUDGED} "
        f"WHERE {scored_in(frame.whole, subjects)} GROUP BY ALL"
    ).fetchall()
    found: dict[tuple[Any, ...], list[tuple[int, int, int]]] = defaultdict(list)
    for reached, good, defective, *key in rows:
        found[tuple(key)].append((reached, good, defective))
    return found


def _window(
    one: Candidate, of_group: Mapping[date, _Cell], place: Mapping[float, int], nights: Sequence[date], frame: Frame
) -> Window:
    reject = place[one.reject]
    band = reject if one.review is None else place[one.review]
    cells = [of_group[day] for day in nights if day in of_group]
    alerts = [sum(cell.images[reject:]) for cell in cells]
    review = sum(sum(cell.images[band:reject]) for cell in cells)
    images = sum(sum(cell.images) for cell in cells)
    looked_at = (sum(alerts) + review) * frame.seconds_per_image / 3600
    return Window(
        nights=len(nights),
        images=images,
        alerts=sum(alerts),
        most_alerts=max(alerts, default=0),
        review=review,
        false_alarms=None if one.rate is None or frame.is_of_parts else one.rate * images,
        with_regions=sum(sum(cell.with_regions[reject:]) for cell in cells),
        hours_a_night=looked_at / len(nights) if nights else 0.0,
    )


def _reviewed(words: Sequence[tuple[int, int, int]], reject: int) -> Reviewed:
    good = sum(count for reached, count, _ in words if reached >= reject)
    found = sum(count for reached, _, count in words if reached >= reject)
    defects = sum(count for _, _, count in words)
    overkill = wilson(good, good + found) if good + found else None
    return Reviewed(good + found, good, overkill, defects, defects - found)
