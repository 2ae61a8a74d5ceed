"""Parts in place of images: a part with several images is rejected if any of them is."""

from __future__ import annotations

import duckdb

from diffad_ray.analytics.parts import check_columns, severest
from diffad_ray.sql import identifier


def show_parts(connection: duckdb.DuckDBPyConnection, column: str) -> None:
    """Let `scores` and `verdicts` of a connection have a row for each detector, part and night, until `show_images`.

    The row of a part is that of its image with the highest score, by which any threshold judges the part. Its verdict
    is the severest one over its images. Images without a value of the column or without a score belong to no part.

    Args:
        connection: from `open_table`.
        column: whose values are the parts, such as `serial`.

    Raises:
        UserError: the table has no such column.
    """
    check_columns(connection, [column])
    name = identifier(column)
    connection.execute(
        f"CREATE TEMP VIEW scores AS FROM memory.main.scores WHERE {name} IS NOT NULL AND score IS NOT NULL "
        f"QUALIFY row_number() OVER (PARTITION BY detector_fingerprint, run_date, {name} "
        "ORDER BY score DESC, image_id) = 1"
    )
    connection.execute(
        f"CREATE TEMP VIEW verdicts AS SELECT highest.image_id, {severest('verdict')} AS verdict "
        f"FROM (SELECT DISTINCT image_id, run_date, {name} FROM scores) AS highest "
        f"JOIN (SELECT image_id AS judged_image, run_date, {name} FROM memory.main.scores) USING (run_date, {name}) "
        "JOIN (SELECT image_id AS judged_image, verdict FROM memory.main.verdicts) USING (judged_image) GROUP BY 1"
    )


def show_images(connection: duckdb.DuckDBPyConnection) -> None:
    """Let `scores` and `verdicts` have a row for each image again."""
    connection.execute("DROP VIEW temp.main.verdicts")
    connection.execute("DROP VIEW temp.main.scores")
