"""Thresholds from verdicts of people, and the uncertainty of shares."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import duckdb
import numpy as np

from diffad_ray.errors import UserError

JUDGED = (
    "(SELECT image_id AS judged_image, verdict FROM verdicts WHERE verdict <> 'unsure') AS judged "
    "JOIN scores ON judged_image = image_id"
)
"SQL, to follow FROM, of the scores of images that people called good or defective."


class Words(NamedTuple):
    """Images with one score: how many of them people called good, and how many defective."""

    score: float
    good: int
    defective: int


class ByVerdicts(NamedTuple):
    """A threshold from verdicts.

    Attributes:
        threshold: float32.
        found, defective: defective images at or above it, and all of them.
        rejected, good: good images at or above it, and all of them.
    """

    threshold: float
    found: int
    defective: int
    rejected: int
    good: int

    def __str__(self) -> str:
        return f"{self.found} of {self.defective} defects found, {self.rejected} of {self.good} good parts rejected"


def threshold_by_verdicts(words: Sequence[Words], rate: float | None = None) -> ByVerdicts:
    """Choose the threshold that agrees best with verdicts.

    Args:
        words: by score.
        rate: the lowest threshold is chosen at which at most this share of the good images is rejected. None: the one
            with the largest difference between the share of defective and of good images at or above it (the index of
            Youden, 1950); of several, the lowest.

    Raises:
        UserError: there is no good or no defective image.

    Example:
        >>> threshold_by_verdicts([Words(1.0, 3, 0), Words(2.0, 1, 1), Words(3.0, 0, 2)]).threshold
        2.0
    """
    good, defective = sum(word.good for word in words), sum(word.defective for word in words)
    if not good or not defective:
        raise UserError(
            f"verdicts call {defective} images of the detector defective and {good} good: a threshold needs both. "
            "`diffad-ray review TABLE` collects them"
        )
    ordered = sorted(words, reverse=True)
    above = float(np.nextafter(np.float32(ordered[0].score), np.float32(np.inf)))
    best, best_index = ByVerdicts(above, 0, defective, 0, good), 0.0
    found = rejected = 0
    for word in ordered:
        found, rejected = found + word.defective, rejected + word.good
        index = found / defective - rejected / good
        is_better = index >= best_index if rate is None else rejected <= rate * good
        if is_better:
            best, best_index = ByVerdicts(word.score, found, defective, rejected, good), index
    return best


def read_words(connection: duckdb.DuckDBPyConnection, fingerprint: str) -> list[Words]:
    """Return the verdicts on images that a detector scored, over the whole table."""
    found = connection.execute(
        "SELECT score, count(*) FILTER (verdict = 'good'), count(*) FILTER (verdict = 'defect') "
        f"FROM {JUDGED} WHERE detector_fingerprint = ? AND score IS NOT NULL GROUP BY 1",
        [fingerprint],
    ).fetchall()
    return [Words(*row) for row in found]
