"""The verdicts of people as labels of a table's images."""

from __future__ import annotations

import duckdb

from diffad_ray.errors import UserError, counted
from diffad_ray.labels.datasets import DEFECT, GOOD
from diffad_ray.labels.tables import Label
from diffad_ray.labels.words import kind_of
from diffad_ray.table.views import ask_views

VERDICTS = "verdicts"
"What `evaluate --labels` is given in place of a file."
SQL = """SELECT image_uri, verdict, kind, is_disputed, sample, image_id IN (SELECT image_id FROM scores) AS is_there
FROM verdicts ORDER BY image_uri, reviewed_at"""


def verdict_labels(table: str) -> tuple[list[Label], list[str]]:
    """Return a label for each image that people call a defect or good, and notes in sentences.

    Verdicts on images that were replaced since then are left out, because they are about other pixels.

    Raises:
        UserError: there is no table, or nobody has called an image of it a defect or good.
    """

    def use(views: duckdb.DuckDBPyConnection) -> list[tuple[str, str, str | None, bool, str | None, bool]]:
        return views.execute(SQL).fetchall()

    rows = ask_views(table, use)
    product = table.rstrip("/").rpartition("/")[2]
    labels, unsure, replaced, disputed, outside = [], 0, 0, 0, 0
    for uri, verdict, kind, is_disputed, sample, is_there in rows:
        if not is_there:
            replaced += 1
        elif verdict == "unsure":
            unsure += 1
        else:
            labels.append(Label(uri, _kind(verdict, kind), None, product))
            disputed += is_disputed
            outside += sample is None
    if not labels:
        raise UserError(
            f"no image of the table {table} has a verdict, defect or good: give some with `diffad-ray review {table}`"
        )
    notes = []
    if unsure:
        notes.append(f"{counted(unsure, 'image')} called unsure left out")
    if replaced:
        notes.append(f"{counted(replaced, 'verdict')} left out: the images were replaced since then")
    if disputed:
        notes.append(f"reviewers disagree on {counted(disputed, 'image')}; the last verdict counts")
    if outside:
        notes.append(
            f"{outside} of {len(labels)} images were not reviewed for a random sample: the figures describe the "
            "reviewed images, and not the archive, for which `diffad-ray review --estimate` has estimates"
        )
    return labels, notes


def _kind(verdict: str, kind: str | None) -> str:
    """Return the kind of a label; a defect is never good, whatever its kind is called."""
    if verdict == "good":
        return GOOD
    return DEFECT if not kind or kind_of(kind) == GOOD else kind
