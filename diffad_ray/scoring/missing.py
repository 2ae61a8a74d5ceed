"""Alerts without regions: images that a threshold applied later calls alerts, and that were judged below theirs.

Scoring makes masks and regions of alerts alone. So the images that a lower threshold adds have none, until they are
scored again.
"""

from __future__ import annotations

from collections.abc import Mapping

from diffad_ray.errors import UserError
from diffad_ray.scoring.selection import Selection
from diffad_ray.sql import quoted
from diffad_ray.table.reading import has_rows, rows_of

_KEY = "image_id, detector_fingerprint"


def only_missing(selection: Selection, table: str, thresholds: Mapping[str, float]) -> Selection:
    """Return the images of a selection that are alerts and were judged below the threshold when they were last scored.

    Args:
        table: the normalised location.
        thresholds: by fingerprint, the score from which an image is an alert.

    Raises:
        UserError: the table has no rows.
    """
    if not has_rows(table):
        raise UserError(f"no table at {table}: it has no scores, so none of its alerts lacks a mask")
    missing = _missing(table, thresholds)
    connection = selection.connection
    ((wanted,),) = connection.execute(f"SELECT count(*) FROM {missing}").fetchall()
    rows = f"(SELECT * FROM {selection.rows} SEMI JOIN {missing} USING ({_KEY}))"
    ((chosen,),) = connection.execute(f"SELECT count(*) FROM {rows}").fetchall()
    notes = list(selection.notes)
    if wanted > chosen:
        notes.append(f"{wanted - chosen} more alerts lack masks, and this call chose no image of them")
    return selection._replace(rows=rows, notes=notes)


def _missing(table: str, thresholds: Mapping[str, float]) -> str:
    """SQL of the images and detectors in question."""
    rows = rows_of(table, "scores")
    whens = " ".join(f"WHEN {quoted(fingerprint)} THEN {value!r}::DOUBLE" for fingerprint, value in thresholds.items())
    reached = f"score >= CASE detector_fingerprint {whens} END"
    # Few images come into question, so that the last row of an image is looked for among few rows.
    perhaps = f"SELECT DISTINCT {_KEY} FROM {rows} WHERE {reached} AND NOT is_anomalous"
    is_missing = f"coalesce({reached} AND NOT is_anomalous, false)"
    last = f"SELECT {_KEY}, arg_max({is_missing}, scored_at) AS is_missing FROM {rows} SEMI JOIN ({perhaps}) "
    return f"(SELECT {_KEY} FROM ({last} USING ({_KEY}) GROUP BY ALL) WHERE is_missing)"
