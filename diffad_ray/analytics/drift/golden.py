"""Golden samples: parts that are known, scored again every night. If their scores move, the product has not changed."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import duckdb
import numpy as np

from diffad_ray import storage
from diffad_ray.analytics.drift.findings import SMALL_QUALITY
from diffad_ray.analytics.drift.shifts import FEWEST_DAYS, SURE
from diffad_ray.errors import UserError, counted, percent
from diffad_ray.images.quality import Quality
from diffad_ray.sql import reason_of
from diffad_ray.table.detectors import read_detectors
from diffad_ray.table.reading import connect, existing, rows_of

SAME_FILE, RETAKEN, UNTRIED = 0.02, 0.25, 1.0
"""Least tolerances in standard deviations of normal scores: of a file that is the same, of a part that was photographed
again, and of one that was photographed fewer than `FEWEST_DAYS` times before."""
MANY = 0.25
"Share of the samples that must move; one part alone may have been scratched or laid down differently."
NIGHTS = 60
"Earlier nights that count."

GoldenState = Literal["first night", "steady", "watch", "moved"]


@dataclass(frozen=True)
class GoldenSample:
    """A sample in the last night, against the nights before.

    Attributes:
        before: median score of the nights before, by the same detector.
        tolerance: largest difference that is not remarkable, in units of the score.
        nights: before the last one.
        is_same_file: whether the file was there in the night before, unchanged.
    """

    image_uri: str
    score: float
    before: float
    tolerance: float
    nights: int
    is_same_file: bool

    @property
    def has_moved(self) -> bool:
        return abs(self.score - self.before) > self.tolerance


@dataclass(frozen=True)
class Golden:
    """The golden samples of the last night.

    Attributes:
        state: `moved` if the camera, its light or the detector has changed, and not the product.
        samples: those that could be compared, the most changed first.
        reasons: sentences.
    """

    state: GoldenState
    images: int
    samples: list[GoldenSample]
    reasons: list[str]


def golden(table: str | Path) -> Golden:
    """Compare the last night of a table of golden samples with the nights before it.

    A sample is known by its URI. A camera that photographs it again writes it under the same name. Rows of all nights
    count, also those that a later night has superseded, so such a table must not be compacted.

    Raises:
        UserError: there is no table, or it can't be read.
    """
    location = existing(storage.normalised(table))
    names = ", ".join(Quality._fields)
    sql = (
        f"SELECT run_id, image_uri, image_id, detector_fingerprint, score, {names} FROM {rows_of(location, 'scores')} "
        "ORDER BY run_id, image_uri"
    )
    try:
        with connect(location) as connection:
            found = connection.execute(sql).fetchall()
    except duckdb.Error as error:
        raise UserError(f"the table {location} can't be read: {reason_of(error)}") from error
    spreads = {
        fingerprint: max(float(np.std(one.calibration.scores)), 1e-6)
        for fingerprint, one in read_detectors(location).items()
        if one.calibration
    }
    return _compared(found, spreads)


def _compared(rows: list[tuple[Any, ...]], spreads: dict[str, float]) -> Golden:
    nights = sorted({row[0] for row in rows})[-1 - NIGHTS :]
    history: dict[tuple[str, str], list[tuple[Any, ...]]] = defaultdict(list)
    for row in rows:
        if row[0] in nights[:-1] and row[4] is not None:
            history[row[1], row[3]].append(row)
    last = [row for row in rows if row[0] == nights[-1]]
    pairs = [(row, history[row[1], row[3]]) for row in last if row[4] is not None and history[row[1], row[3]]]
    samples = [_sample(row, before, spreads) for row, before in pairs]
    samples.sort(key=lambda one: -abs(one.score - one.before) / one.tolerance)
    reasons = []
    if unscored := [row for row in last if row[4] is None]:
        reasons.append(f"{counted(len(unscored), 'golden sample')} could not be scored, such as {unscored[0][1]}.")
    if lacking := {row[1] for row in rows if row[0] == nights[-2 if len(nights) > 1 else -1]} - {
        row[1] for row in last
    }:
        reasons.append(f"{counted(len(lacking), 'golden sample')} of the night before is missing: {min(lacking)}.")
    if not samples:
        new = "" if len(nights) < 2 else " The detector has changed, so its scores can't be compared with those before."
        return Golden("first night", len(last), [], [*reasons, "Nothing to compare with yet." + new])
    moved = [one for one in samples if one.has_moved]
    is_detector = any(one.is_same_file for one in moved)
    if not moved:
        return Golden("watch" if reasons else "steady", len(last), samples, reasons)
    reasons.insert(0, _words(moved, len(samples)))
    if is_detector:
        reasons.append("The files are the same, so the detector's side changed: machine, libraries or precision.")
    else:
        reasons += _quality(pairs)
    is_moved = is_detector or len(moved) >= MANY * len(samples)
    return Golden("moved" if is_moved else "watch", len(last), samples, reasons)


def _sample(row: tuple[Any, ...], before: list[tuple[Any, ...]], spreads: dict[str, float]) -> GoldenSample:
    scores = np.array([one[4] for one in before], dtype=np.float64)
    level, nights = float(np.median(scores)), len(scores)
    spread = spreads.get(row[3], 1.0)
    is_same_file = before[-1][2] == row[2]
    if is_same_file:
        level, tolerance = float(scores[-1]), SAME_FILE * spread
    elif nights < FEWEST_DAYS:
        tolerance = UNTRIED * spread
    else:
        own = 1.4826 * float(np.median(np.abs(scores - level)))
        tolerance = max(SURE * (1 + FEWEST_DAYS / nights) * own, RETAKEN * spread)
    return GoldenSample(row[1], float(row[4]), level, tolerance, nights, is_same_file)


def _words(moved: list[GoldenSample], samples: int) -> str:
    worst = moved[0]
    change = f"{worst.image_uri} from {worst.before:.2f} to {worst.score:.2f}"
    return f"The scores of {len(moved)} of {counted(samples, 'golden sample')} moved, such as {change}."


def _quality(pairs: list[tuple[tuple[Any, ...], list[tuple[Any, ...]]]]) -> list[str]:
    """Which figures of light and focus moved with the scores of parts that were photographed again."""
    told = []
    for number, name in enumerate(Quality._fields, start=5):
        ratios = [
            row[number] / np.median(values) - 1
            for row, before in pairs
            if row[number] is not None and (values := [one[number] for one in before if one[number]])
        ]
        if ratios and abs(change := float(np.median(ratios))) >= SMALL_QUALITY:
            word = "fell" if change < 0 else "rose"
            told.append(f"Their {name} {word} by {percent(abs(change))}: look at the camera and its light.")
    return told or ["Their light and focus did not change: look at how the parts lie, and at the parts."]
