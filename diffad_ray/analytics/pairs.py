"""The images or parts that two detectors both scored, as the SQL table `pairs` of a connection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import duckdb
import numpy as np

from diffad_ray.analytics.parts import check_columns, severest
from diffad_ray.errors import UserError
from diffad_ray.sql import identifier, quoted
from diffad_ray.table.decisions import GOOD, REJECT

CELLS = 48
"Cells of the grid of scores on either side."
NO_VALUE, SEVERAL_VALUES = "no value", "several values"
"What stands for the value of a column where an image has none, and where the images of a part have several."

PART = "diffad_part"
"Column of `pairs` with the value that names a part. No column of users begins like this."

IMAGES = """CREATE TEMP TABLE {name} AS
SELECT image_id AS old_image, image_id AS new_image, old_score, old_tail, old_decision, new_score, new_tail,
    new_decision, verdict{columns}
FROM (
    SELECT image_id, score AS old_score, tail_probability AS old_tail, decision AS old_decision{columns}
    FROM scores WHERE detector_fingerprint = {old} AND score IS NOT NULL
) JOIN (
    SELECT image_id, score AS new_score, tail_probability AS new_tail, decision AS new_decision
    FROM scores WHERE detector_fingerprint = {new} AND score IS NOT NULL
) USING (image_id)
LEFT JOIN (SELECT image_id, verdict FROM verdicts) USING (image_id)"""

PARTS = """CREATE TEMP TABLE pairs AS
SELECT arg_max(old_image, old_score) AS old_image, arg_max(new_image, new_score) AS new_image,
    max(old_score) AS old_score, min(old_tail) AS old_tail, {old_decision} AS old_decision,
    max(new_score) AS new_score, min(new_tail) AS new_tail, {new_decision} AS new_decision,
    {verdict} AS verdict, {part} AS diffad_part{groups}
FROM image_pairs WHERE {part} IS NOT NULL GROUP BY {part}"""


class Scorer(NamedTuple):
    """A detector that scored images of the table.

    Attributes:
        name, fingerprint: which.
        scored, failed: number of images with and without a score.
        threshold: the score from which the detector rejects an image, by what is in force for its newest row; None if
            it has no scores.
    """

    name: str
    fingerprint: str
    scored: int
    failed: int
    threshold: float | None


class Unpaired(NamedTuple):
    """The images that one detector scored and the other one did not.

    Attributes:
        images: number of these images.
        failed: of these, images that the other detector was given, but for which it has no score.
        example: URI of one of them; None if there are none.
    """

    images: int
    failed: int
    example: str | None


class ScoreCell(NamedTuple):
    """A cell of a grid over the scores of both detectors: the scores in its middle, and the number of its images."""

    old_score: float
    new_score: float
    images: int


class MatchedThreshold(NamedTuple):
    """The threshold of the new detector that gives as many alerts as the old detector.

    Attributes:
        reject: an image, or a part, is rejected if its score is at least this.
        alerts: number of images that the new detector rejects with it; `wanted`: that the old one rejects. They differ
            if several images share a score.
    """

    reject: float
    alerts: int
    wanted: int


def find_scorers(connection: duckdb.DuckDBPyConnection, wanted: Sequence[str]) -> list[Scorer]:
    """Return the detectors that a user names, in the user's order.

    Args:
        wanted: for each the name or the beginning of the fingerprint.

    Raises:
        UserError: a name fits no detector, or several, or two names fit the same detector.
    """
    rows = connection.execute(
        "SELECT any_value(detector), detector_fingerprint, count(score), count(*) - count(score), "
        "arg_max(threshold, scored_at) FILTER (score IS NOT NULL) FROM scores "
        "WHERE detector_fingerprint <> '' GROUP BY 2 ORDER BY 2"
    ).fetchall()
    there = [Scorer(*row) for row in rows]
    shown = ", ".join(f"{one.name} ({one.fingerprint})" for one in there)
    found = []
    for name in wanted:
        fits = [one for one in there if name == one.name or (name and one.fingerprint.startswith(name))]
        if not fits:
            raise UserError(f"no detector {name!r} has scored images of the table: those that have are {shown}")
        if len(fits) > 1:
            which = ", ".join(one.fingerprint for one in fits)
            raise UserError(f"{len(fits)} detectors are called {name}: name one by its fingerprint, {which}")
        found += fits
    if len(set(found)) < len(found):
        raise UserError(f"{' and '.join(wanted)} are the same detector: name two, of {shown}")
    return found


def create_pairs(
    connection: duckdb.DuckDBPyConnection, old: Scorer, new: Scorer, by: Sequence[str], group_by: str | None
) -> int:
    """Create the table `pairs`, one row for each image that both detectors scored, or for each part with such images.

    Its columns are `old_image`, `new_image` (the image_id of the image, or of the worst image of the part for each
    detector), `old_score`, `old_tail`, `old_decision`, `new_score`, `new_tail`, `new_decision`, `verdict`, the columns
    of `by` as texts, and `PART` if there is one.

    Args:
        by: columns by which the pairs will be grouped.
        group_by: the column that names the part; None: each image is on its own.

    Returns:
        The number of images that both detectors scored and that belong to no part.

    Raises:
        UserError: the table has no such column.
    """
    check_columns(connection, [*by, *([group_by] if group_by else [])])
    names = dict.fromkeys([*by, *([group_by] if group_by else [])])
    columns = "".join(f", {identifier(name)}" for name in names)
    images = "image_pairs" if group_by else "pairs"
    fingerprints = {"old": quoted(old.fingerprint), "new": quoted(new.fingerprint)}
    connection.execute(IMAGES.format(name=images, columns=columns, **fingerprints))
    if not group_by:
        return 0
    part = identifier(group_by)
    several = "CASE WHEN count(DISTINCT {0}) > 1 THEN '" + SEVERAL_VALUES + "' ELSE any_value({0})::VARCHAR END AS {0}"
    groups = "".join(f", {several.format(identifier(name))}" for name in by)
    decisions = {name: severest("decision", name) for name in ("old_decision", "new_decision")}
    verdict = severest("verdict")
    connection.execute(PARTS.format(part=part, groups=groups, verdict=verdict, **decisions))
    ((without,),) = connection.execute(f"SELECT count(*) FROM image_pairs WHERE {part} IS NULL").fetchall()
    return int(without)


def find_unpaired(connection: duckdb.DuckDBPyConnection, has: Scorer, lacks: Scorer) -> Unpaired:
    """Count the images that one detector scored and the other one did not."""
    rows = "FROM scores WHERE detector_fingerprint = "
    ((images, failed, example),) = connection.execute(
        f"SELECT count(*), count(other.image_id), min(image_uri) FROM "
        f"(SELECT image_id, image_uri {rows} {quoted(has.fingerprint)} AND score IS NOT NULL) AS mine "
        f"LEFT JOIN (SELECT image_id, score {rows} {quoted(lacks.fingerprint)}) AS other USING (image_id) "
        "WHERE other.score IS NULL"
    ).fetchall()
    return Unpaired(images, failed, example)


def match_alerts(connection: duckdb.DuckDBPyConnection) -> MatchedThreshold:
    """Find the threshold of the new detector that gives as many alerts as the old one, and judge `pairs` by it alone,
    without a band of images to review."""
    counted = f"SELECT count(*) FILTER (old_decision = '{REJECT}') FROM pairs"
    ((wanted,),) = connection.execute(counted).fetchall()
    reject, alerts = _threshold_for(connection, wanted)
    judged = f"CASE WHEN new_score >= {reject!r}::DOUBLE THEN '{REJECT}' ELSE '{GOOD}' END"
    connection.execute(f"UPDATE pairs SET new_decision = {judged}")
    return MatchedThreshold(reject, alerts, wanted)


def _threshold_for(connection: duckdb.DuckDBPyConnection, alerts: int) -> tuple[float, int]:
    """Return the threshold that gives the number of alerts nearest to the wanted one, and its number of alerts."""
    if alerts == 0:
        ((highest,),) = connection.execute("SELECT max(new_score) FROM pairs").fetchall()
        return float(np.nextafter(np.float32(highest), np.float32(np.inf))), 0
    ((lowest, count),) = connection.execute(
        "SELECT new_score, sum(images) OVER (ORDER BY new_score DESC)::BIGINT AS alerts "
        "FROM (SELECT new_score, count(*) AS images FROM pairs GROUP BY new_score) "
        f"ORDER BY abs(alerts - {alerts}), alerts DESC LIMIT 1"
    ).fetchall()
    ((below,),) = connection.execute("SELECT max(new_score) FROM pairs WHERE new_score < ?", [lowest]).fetchall()
    return (float(lowest) if below is None else short_between(below, lowest)), count


def count_cells(connection: duckdb.DuckDBPyConnection) -> list[ScoreCell]:
    """Count `pairs` in a grid of `CELLS` x `CELLS` over their scores; cells without any are left out."""
    ends = "min(old_score), max(old_score), min(new_score), max(new_score)"
    ((old_low, old_high, new_low, new_high),) = connection.execute(f"SELECT {ends} FROM pairs").fetchall()

    def middle(score: str, low: float, high: float) -> str:
        # Equal scores have a grid of no width; they all lie in its first cell.
        width = (high - low) / CELLS or 1.0
        return f"{low!r} + (least(floor(({score} - {low!r}) / {width!r}), {CELLS - 1}) + 0.5) * {width!r}"

    grid = f"{middle('old_score', old_low, old_high)} AS x, {middle('new_score', new_low, new_high)} AS y"
    sql = f"SELECT x, y, count(*) FROM (SELECT {grid} FROM pairs) GROUP BY x, y ORDER BY x, y"
    return [ScoreCell(*row) for row in connection.execute(sql).fetchall()]


def short_between(low: float, high: float) -> float:
    """Return the number above `low` and up to `high` that has the fewest digits, as near to the middle as these allow.

    Example:
        >>> short_between(2.4131, 2.4288)
        2.42
    """
    middle = low + (high - low) / 2
    for digits in range(1, 18):
        rounded = float(f"{middle:.{digits}g}")
        if low < rounded <= high:
            return rounded
    return high
