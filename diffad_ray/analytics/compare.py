"""`compare`: two detectors over the same images of a table, before the new one takes the place of the old one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import duckdb

from diffad_ray.analytics.comparison import Change, Comparison, Defects, Group, Judged
from diffad_ray.analytics.paired import Agreement
from diffad_ray.analytics.pairs import (
    NO_VALUE,
    PART,
    Scorer,
    Unpaired,
    count_cells,
    create_pairs,
    find_scorers,
    find_unpaired,
    match_alerts,
)
from diffad_ray.errors import UserError
from diffad_ray.scratch import scratch_folder
from diffad_ray.sql import identifier, quoted
from diffad_ray.table.decisions import GOOD, REJECT, REVIEW
from diffad_ray.table.reading import MEMORY_LIMIT, bound
from diffad_ray.table.views import ask_views

CHANGES = 20
"Number of the biggest changes in either direction that are shown."
MOST_GROUPS = 50
"Number of values of a column that are shown; those with the most changed alerts come first."
DECISIONS = (REJECT, REVIEW, GOOD)
VERDICTS = ("defect", "unsure", "good")
CAME = f"(new_decision = '{REJECT}' AND old_decision <> '{REJECT}')"
WENT = f"(old_decision = '{REJECT}' AND new_decision <> '{REJECT}')"
BOTH = f"(old_decision = '{REJECT}' AND new_decision = '{REJECT}')"
COUNTS = (
    f"count(*) AS images, count(*) FILTER {BOTH} AS in_both, count(*) FILTER {CAME} AS came, "
    f"count(*) FILTER {WENT} AS went"
)
LOST = f"verdict = 'defect' AND old_decision IN ('{REJECT}', '{REVIEW}') AND new_decision = '{GOOD}'"


def compare(
    table: str | Path,
    old: str,
    new: str,
    *,
    by: Sequence[str] = (),
    group_by: str | None = None,
    same_alerts: bool = False,
) -> Comparison:
    """Compare two detectors over the images of a table that both scored, by the thresholds in force.

    Args:
        old, new: for each detector its name, or the beginning of its fingerprint.
        by: columns whose values are also compared one by one.
        group_by: a column that names the part, such as `serial`: then parts are compared, each by its worst image.
        same_alerts: judge the new detector by the threshold at which it gives as many alerts as the old one.

    Raises:
        UserError: there is no table, no such detector or column, or no image that both detectors scored.

    Example:
        >>> found = compare("scores", "part", "part-2", by=["line"])  # doctest: +SKIP
        >>> found.overall.agreement.came, found.defects.lost  # doctest: +SKIP
        (12, 0)
    """
    with scratch_folder() as scratch:

        def use(connection: duckdb.DuckDBPyConnection) -> Comparison:
            bound(connection, MEMORY_LIMIT, scratch)
            return _compared(connection, str(table), (old, new), list(by), group_by, same_alerts)

        return ask_views(str(table), use)


def _compared(
    connection: duckdb.DuckDBPyConnection,
    table: str,
    names: tuple[str, str],
    by: list[str],
    group_by: str | None,
    same_alerts: bool,
) -> Comparison:
    old, new = find_scorers(connection, names)
    without = create_pairs(connection, old, new, by, group_by)
    only_old, only_new = find_unpaired(connection, old, new), find_unpaired(connection, new, old)
    if not connection.execute("SELECT 1 FROM pairs LIMIT 1").fetchall():
        raise UserError(
            f"no image of the table {table} has scores of both {old.name} ({old.fingerprint}) and {new.name} "
            f"({new.fingerprint}){f' and a value of {group_by}' if group_by else ''}: score the same share of the "
            "archive with each, such as `diffad-ray score ARCHIVE --detector DETECTOR --table TABLE --sample 0.05`"
        )
    matched = match_alerts(connection) if same_alerts else None
    defects = _defects(connection, group_by)
    (overall,), _ = _groups(connection, "'all'")
    notes = _notes(old, new, only_old, only_new, defects)
    if without:
        notes.append(f"{without} images that both detectors scored have no {group_by}, so that they belong to no part")
    groups = {}
    for column in by:
        groups[column], more = _groups(connection, identifier(column))
        if more:
            notes.append(f"{column} has {more} more values, whose alerts changed less: query the table for them")
    verdicts = {one.value: one for one in _groups(connection, "verdict", "WHERE verdict IS NOT NULL")[0]}
    return Comparison(
        table=table,
        old=old,
        new=new,
        unit=group_by or "image",
        overall=overall,
        decisions=_decisions(connection),
        groups=groups,
        verdicts=[verdicts[word] for word in VERDICTS if word in verdicts],
        defects=defects,
        cells=count_cells(connection),
        rises=_changes(connection, "new", f"NOT {WENT} AND ({CAME} OR new_tail < old_tail)", f"{CAME} DESC, change"),
        falls=_changes(connection, "old", f"NOT {CAME} AND ({WENT} OR new_tail > old_tail)", f"{WENT} DESC, -change"),
        only_old=only_old,
        only_new=only_new,
        matched=matched,
        notes=notes,
    )


def _groups(connection: duckdb.DuckDBPyConnection, value: str, where: str = "") -> tuple[list[Group], int]:
    """Compare the detectors for each value of an SQL expression; also return how many values are left out."""

    def rank(score: str) -> str:
        # Images that share a score share the mean of their ranks.
        ties = f"count(*) OVER (PARTITION BY value, {score})"
        return f"rank() OVER (PARTITION BY value ORDER BY {score}) + ({ties} - 1) / 2"

    rows = connection.execute(
        f"SELECT value, {COUNTS}, corr(old_rank, new_rank) FROM ("
        f"SELECT *, {rank('old_score')} AS old_rank, {rank('new_score')} AS new_rank FROM ("
        f"SELECT coalesce({value}::VARCHAR, {quoted(NO_VALUE)}) AS value, old_score, new_score, old_decision, "
        f"new_decision FROM pairs {where})) "
        "GROUP BY value ORDER BY came + went DESC, images DESC, value"
    ).fetchall()
    groups = [
        Group(name, Agreement(*counts), None if rho is None or math.isnan(rho) else rho)
        for name, *counts, rho in rows[:MOST_GROUPS]
    ]
    return groups, max(0, len(rows) - MOST_GROUPS)


def _decisions(connection: duckdb.DuckDBPyConnection) -> dict[str, dict[str, int]]:
    counted: dict[str, dict[str, int]] = {before: dict.fromkeys(DECISIONS, 0) for before in DECISIONS}
    sql = "SELECT old_decision, new_decision, count(*) FROM pairs GROUP BY ALL"
    for before, after, images in connection.execute(sql).fetchall():
        counted[before][after] = images
    return counted


def _defects(connection: duckdb.DuckDBPyConnection, group_by: str | None) -> Defects:
    found = f"verdict = 'defect' AND old_decision = '{GOOD}' AND new_decision IN ('{REJECT}', '{REVIEW}')"
    counted = f"SELECT count(*) FILTER ({LOST}), count(*) FILTER ({found}) FROM pairs"
    ((lost, gained),) = connection.execute(counted).fetchall()
    confirmed, compared = (
        connection.execute(f"SELECT count(*) FROM {rows} WHERE verdict = 'defect'").fetchall()[0][0]
        for rows in ("verdicts", "image_pairs" if group_by else "pairs")
    )
    return Defects(confirmed, compared, lost, gained, _changes(connection, "old", LOST, "change DESC"))


def _changes(connection: duckdb.DuckDBPyConnection, shown: str, where: str, order: str) -> list[Change]:
    """Return up to `CHANGES` rows of `pairs`.

    Args:
        shown: `old` or `new`: whose worst image of a part is shown.
        where, order: SQL; `change` is the logarithm of the new tail probability over the old one.
    """
    part = f"{PART}::VARCHAR" if PART in connection.sql("FROM pairs").columns else "NULL"
    rows = connection.execute(
        f"SELECT {shown}_image AS image_id, {part}, old_score, old_tail, old_decision, new_score, new_tail, "
        "new_decision, verdict, coalesce(ln(new_tail / old_tail), 0) AS change FROM pairs "
        f"WHERE {where} ORDER BY {order}, image_id LIMIT {CHANGES}"
    ).fetchall()
    # The URIs are looked up for these few rows alone, so that the table of pairs needs none.
    images = connection.execute(
        "SELECT image_id, any_value(image_uri), any_value(width), any_value(height) FROM scores "
        "WHERE score IS NOT NULL AND image_id IN (SELECT unnest(?)) GROUP BY image_id",
        [[row[0] for row in rows]],
    ).fetchall()
    found = {number: (uri, width, height) for number, uri, width, height in images}
    return [
        Change(number, *found[number], part, Judged(*judged[:3]), Judged(*judged[3:6]), judged[6])
        for number, part, *judged in rows
    ]


def _notes(old: Scorer, new: Scorer, only_old: Unpaired, only_new: Unpaired, defects: Defects) -> list[str]:
    notes = []
    for has, lacks, unpaired in ((old, new, only_old), (new, old, only_new)):
        if unpaired.images:
            failed = f"; {lacks.name} could not score {unpaired.failed} of them" if unpaired.failed else ""
            notes.append(
                f"{unpaired.images} images have a score of {has.name} alone and are not compared, such as "
                f"{unpaired.example}{failed}"
            )
    if defects.compared < defects.confirmed:
        notes.append(
            f"{defects.confirmed - defects.compared} of {defects.confirmed} images that people called defective do not "
            f"have scores of both detectors, so that this comparison can't say whether {new.name} loses them: score "
            "them first, as the page of the documentation about `compare` shows"
        )
    return notes
