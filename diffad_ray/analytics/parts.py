"""The view `parts`: one row for each part and night, over all images of the part.

A part is a value of a column that a manifest or a path template brought along, such as a serial number.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import duckdb

from diffad_ray.errors import UserError
from diffad_ray.sql import identifier, quoted
from diffad_ray.table.decisions import DECISION, GOOD, REJECT, REVIEW
from diffad_ray.table.parts import SCORES
from diffad_ray.table.views import ask_views

NOT_OF_USERS = frozenset((*SCORES.columns.names, "run_date", DECISION))
"Columns of the view `scores` that every table has."
SEVEREST = {DECISION: (REJECT, REVIEW, GOOD), "verdict": ("defect", "unsure", "good")}
"The values that the images of a part may have, the one that counts for the whole part first."

VIEW = """CREATE VIEW parts AS
SELECT {column}, run_date, images, failed_images, worst.image_id AS image_id, worst.image_uri AS image_uri,
    worst.score AS score, worst.tail_probability AS tail_probability, worst.detector AS detector,
    worst.detector_fingerprint AS detector_fingerprint, decision, verdict, verdict_images
FROM (
    SELECT {column}, run_date, {images} AS images, {failed_images} AS failed_images,
        arg_min({{
            image_id: image_id, image_uri: image_uri, score: score, tail_probability: tail_probability,
            detector: detector, detector_fingerprint: detector_fingerprint
        }}, coalesce(tail_probability, 1)) FILTER (score IS NOT NULL) AS worst,
        {decision} AS decision, {verdict} AS verdict,
        {verdict_images} AS verdict_images
    FROM scores LEFT JOIN (SELECT image_id, verdict FROM verdicts) USING (image_id)
    WHERE {column} IS NOT NULL GROUP BY {column}, run_date
)"""

WORST_PARTS = (
    "FROM parts WHERE run_date = (SELECT max(run_date) FROM parts) ORDER BY tail_probability, image_uri LIMIT 20"
)
"The worst parts of the last night."


class WithoutPart(NamedTuple):
    """The images that belong to no part, because the column is null there.

    Attributes:
        column: name of the column.
        images: number of these images.
        example: URI of one of them; None if there are none.
    """

    column: str
    images: int
    example: str | None

    def __str__(self) -> str:
        return f"{self.images} images have no {self.column} and belong to no part, such as {self.example}"


def users_columns(connection: duckdb.DuckDBPyConnection) -> list[str]:
    """Return the columns of the view `scores` that come from manifests and path templates, in their order."""
    return [name for name in connection.sql("FROM scores").columns if name not in NOT_OF_USERS]


def check_columns(connection: duckdb.DuckDBPyConnection, columns: list[str]) -> None:
    """Raise UserError if a column by which images are grouped is not one of `users_columns`."""
    there = users_columns(connection)
    for column in columns:
        if column not in there:
            advice = f"it has {', '.join(there)}" if there else "a manifest or `score --template` brings such columns"
            raise UserError(f"the table has no column {column!r} to group by: {advice}")


def create_parts(connection: duckdb.DuckDBPyConnection, column: str) -> None:
    """Create the view `parts` from the views `scores` and `verdicts`: one row for each value of a column and night.

    The row of a part names its worst image, which is the one with the lowest tail probability, because scores of
    different detectors are not comparable. If two detectors scored an image in one night, both count.

    - `images`, `failed_images`, `verdict_images`: the number of images, of images without a score, and of images that
      people have judged.
    - `image_id`, `image_uri`, `score`, `tail_probability`, `detector`, `detector_fingerprint`: of the worst image; null
      if no image of the part has a score.
    - `decision`, `verdict`: the severest one over the images, by the order in `SEVEREST`; null if none has any.

    Args:
        connection: from `open_table`.
        column: one of `users_columns`.

    Raises:
        UserError: the table has no such column.

    Example:
        >>> create_parts(connection, "serial")  # doctest: +SKIP
        >>> connection.sql("FROM parts WHERE decision = 'reject' AND failed_images = 0")  # doctest: +SKIP
    """
    check_columns(connection, [column])
    connection.execute(
        VIEW.format(
            column=identifier(column),
            images=_distinct_images("true"),
            failed_images=_distinct_images("score IS NULL"),
            verdict_images=_distinct_images("verdict IS NOT NULL"),
            decision=severest("decision"),
            verdict=severest("verdict"),
        )
    )


def _distinct_images(condition: str) -> str:
    """Return an SQL aggregate of the number of images with a row that meets a condition.

    An image has several rows in one night if several detectors scored it. DuckDB counts the distinct values of many
    short lists with less time and memory than `count(DISTINCT image_id)` takes for as many groups.
    """
    return f"coalesce(list_unique(list(image_id) FILTER ({condition})), 0)"


def severest(kind: str, column: str | None = None) -> str:
    """Return an SQL aggregate of the severest decision or verdict of the images of a part.

    Args:
        kind: a key of `SEVEREST`.
        column: name of the column that holds it; None: the same name.

    Example:
        >>> severest("verdict")
        "CASE WHEN bool_or(verdict = 'defect') THEN 'defect' WHEN ... END"  # doctest: +SKIP
    """
    name = column or kind
    cases = " ".join(f"WHEN bool_or({name} = {quoted(value)}) THEN {quoted(value)}" for value in SEVEREST[kind])
    return f"CASE {cases} END"


def images_without_part(table: str | Path, column: str) -> WithoutPart:
    """Count the images of a table whose value of a column is null, which the view `parts` leaves out.

    Raises:
        UserError: there is no table or no such column.
    """

    def count(connection: duckdb.DuckDBPyConnection) -> WithoutPart:
        check_columns(connection, [column])
        counted = f"SELECT count(DISTINCT image_id), min(image_uri) FROM scores WHERE {identifier(column)} IS NULL"
        ((images, example),) = connection.execute(counted).fetchall()
        return WithoutPart(column, images, example)

    return ask_views(str(table), count)
