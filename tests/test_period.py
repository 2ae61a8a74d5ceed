"""Periods as users name them: numbers of days, dates, and runs."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest
from hand_made_table import write_run

from diffad_ray.analytics.period import Period, before, period, period_within
from diffad_ray.errors import UserError

FIRST, LAST = date(2026, 11, 1), date(2026, 11, 20)


@pytest.mark.parametrize(
    ("since", "until", "expected"),
    [
        (None, None, (FIRST, LAST)),
        ("1d", None, (LAST, LAST)),
        ("7d", None, (date(2026, 11, 14), LAST)),
        ("7d", "2026-11-10", (date(2026, 11, 4), date(2026, 11, 10))),
        ("2026-11-05", None, (date(2026, 11, 5), LAST)),
        ("2026-11-05", "2026-11-05", (date(2026, 11, 5), date(2026, 11, 5))),
        (None, "2026-10-01", (date(2026, 10, 1), date(2026, 10, 1))),
        ("40d", None, (date(2026, 10, 12), LAST)),
    ],
)
def test_texts_name_periods(since: str | None, until: str | None, expected: tuple[date, date]) -> None:
    found = period_within(since, until, FIRST, LAST)
    assert (found.since, found.until) == expected
    assert found.dates[0] == found.since
    assert found.dates[-1] == found.until
    assert len(found.dates) == found.days


def test_the_period_before_is_as_long_and_ends_the_day_before() -> None:
    week = Period(date(2026, 11, 14), LAST)
    assert before(week) == Period(date(2026, 11, 7), date(2026, 11, 13))
    assert before(Period(LAST, LAST)) == Period(date(2026, 11, 19), date(2026, 11, 19))


@pytest.mark.parametrize(
    ("since", "until", "because"),
    [
        ("last week", None, "'last week'"),
        ("7", None, "like 7d"),
        ("0d", None, "give 1d or more"),
        ("99999d", "0001-02-01", "fewer days"),
        ("2026-11-31", None, "2026-11-31"),
        ("2026-11-10", "2026-11-01", "exchange the dates"),
        (None, "tomorrow", "until must be a date"),
    ],
)
def test_other_texts_are_refused(since: str | None, until: str | None, because: str) -> None:
    with pytest.raises(UserError, match=because):
        period_within(since, until, FIRST, LAST)


def test_a_table_has_the_dates_of_its_rows(tmp_path: Path) -> None:
    table = str(tmp_path / "table")
    for day in (2, 3, 9):
        plan = write_run(table, day, ["0.png"])
    assert period(table, None) == Period(date(2026, 1, 2), date(2026, 1, 9))
    assert period(table, "2d") == Period(date(2026, 1, 8), date(2026, 1, 9))
    assert period(table, None, run=plan.run_id) == Period(date(2026, 1, 9), date(2026, 1, 9))
    with pytest.raises(UserError, match="the last run is"):
        period(table, None, run="20260101T000000-000000")
    with pytest.raises(UserError, match="either a run or a period"):
        period(table, "7d", run=plan.run_id)
    with pytest.raises(UserError, match="no table"):
        period(str(tmp_path / "nowhere"), "7d")
