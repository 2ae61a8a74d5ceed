"""Columns of the user that changed when a group did: a lot, a product, a shift that is new since then."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from datetime import date, timedelta
from typing import Any

import duckdb

from diffad_ray.analytics.drift.daily import Question
from diffad_ray.errors import percent
from diffad_ray.sql import identifier
from diffad_ray.table.parts import SCORES

FEW_VALUES = 200
"A column with more values in a day names images, and not what they have in common."
DAYS_BEFORE = 14
"That are looked at before the first change."
NEW, KNOWN = 0.2, 0.01
"Share of the images after a change that a value must have, and before it may have, to be named as new."


def new_values(
    connection: duckdb.DuckDBPyConnection, question: Question, changes: dict[tuple[Any, ...], date]
) -> dict[tuple[Any, ...], list[str]]:
    """Return sentences about values that are new in a group since its change, and in no group that has not changed.

    Args:
        changes: by fingerprint and values of the group, the first day after the change.
    """
    first = max(question.period.since, min(changes.values()) - timedelta(days=DAYS_BEFORE))
    recent = f"{question.day} BETWEEN DATE '{first}' AND DATE '{question.period.until}'"
    told: dict[tuple[Any, ...], list[str]] = defaultdict(list)
    for name in _candidates(connection, question):
        column = f"scores.{identifier(name)}::VARCHAR"
        rows = connection.execute(
            f"SELECT {question.columns}, {question.day}, {column}, count(*) FROM scores WHERE {recent} GROUP BY ALL"
        ).fetchall()
        before: dict[tuple[Any, ...], Counter[str]] = defaultdict(Counter)
        after: dict[tuple[Any, ...], Counter[str]] = defaultdict(Counter)
        unmoved: dict[tuple[str, str], date] = {}
        for *group, day, value, count in rows:
            if (begun := changes.get(tuple(group))) is not None:
                (after if day >= begun else before)[tuple(group)][str(value)] += count
            else:
                known_on = unmoved.setdefault((group[0], str(value)), day)
                unmoved[group[0], str(value)] = max(known_on, day)
        for key, since in changes.items():
            total, earlier = after[key].total(), before[key].total()
            for value, count in after[key].most_common(3):
                known = before[key][value]
                # What a group that has not moved has too is not the cause.
                is_elsewhere = unmoved.get((key[0], value), date.min) >= since
                if earlier and count >= NEW * total and known <= KNOWN * earlier and not is_elsewhere:
                    share, was = count / total, known / earlier
                    told[key].append(
                        f"{name} {value} is new since {since}: {percent(share)} of the images, {percent(was)} before."
                    )
    return told


def _candidates(connection: duckdb.DuckDBPyConnection, question: Question) -> Iterable[str]:
    """The user's columns of text that have few values on the last day. Dates are always new, and so no cause."""
    ours = {*SCORES.columns.names, "run_date", "decision"}
    columns = [
        row[0]
        for row in connection.execute("DESCRIBE scores").fetchall()
        if row[0] not in ours and row[0] not in question.by and row[1] == "VARCHAR"
    ]
    if not columns:
        return []
    figures = ", ".join(
        f"approx_count_distinct({identifier(name)}), "
        f"count({identifier(name)}) = count(TRY_CAST({identifier(name)} AS TIMESTAMP))"
        for name in columns
    )
    last = f"{question.day} = DATE '{question.period.until}'"
    (found,) = connection.execute(f"SELECT {figures} FROM scores WHERE {last}").fetchall()
    described = zip(columns, found[::2], found[1::2], strict=True)
    return [name for name, count, are_dates in described if 0 < count <= FEW_VALUES and not are_dates]
