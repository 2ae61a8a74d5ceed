"""Levels of the tail probability that keep a budget: alerts a night, or a share of false alerts.

Tail probabilities are comparable between detectors, so a table of several detectors has one level, and each detector
its own threshold at it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import duckdb
import numpy as np

from diffad_ray.analytics.thresholds.subjects import Subject
from diffad_ray.errors import UserError
from diffad_ray.sql import quoted

MOST_A_NIGHT = 999_999
"Alerts a night that can be asked for: DuckDB keeps so many lowest values at most."


class Night(NamedTuple):
    """A level that keeps to a budget, and the night that decided it."""

    level: float
    night: str


def level_of_alerts(connection: duckdb.DuckDBPyConnection, condition: str, most: int) -> Night:
    """Return the highest level at which no night has more than `most` images with a tail probability up to it.

    Args:
        condition: SQL of the rows of `scores` that count.
        most: images a night, of all detectors together.

    Raises:
        UserError: `most` is out of range, or no night has so many images.
    """
    if not 1 <= most <= MOST_A_NIGHT:
        raise UserError(f"the number of images a night must be 1 to {MOST_A_NIGHT}, not {most}")
    found = connection.execute(
        f"SELECT lowest[{most + 1}] AS next, run_date::VARCHAR FROM (SELECT run_date, "
        f"min(tail_probability, {most + 1}) AS lowest FROM scores WHERE {condition} GROUP BY 1) "
        f"WHERE len(lowest) > {most} ORDER BY 1, 2 LIMIT 1"
    ).fetchone()
    if found is None:
        raise UserError(f"no night of the period has more than {most} such images, so that any threshold keeps to it")
    # The next image of this night must stay below the threshold.
    return Night(float(np.nextafter(found[0], 0.0)), found[1])


class Discovery(NamedTuple):
    """What the procedure of Benjamini and Hochberg found.

    Attributes:
        level: the highest tail probability of an alert; None if there is no alert.
        alerts, images: their numbers.
    """

    level: float | None
    alerts: int
    images: int


def discoveries(
    connection: duckdb.DuckDBPyConnection, condition: str, fdr: float, floors: Mapping[str, float] | None = None
) -> Discovery:
    """Apply the procedure of Benjamini and Hochberg (1995) to tail probabilities as p-values.

    The k images with the lowest tail probabilities are alerts for the largest k whose k-th is at most fdr * k / images.

    Args:
        condition: SQL of the rows of `scores` that count.
        fdr: expected share of alerts that are false, in (0, 1).
        floors: by fingerprint, the smallest tail probability that the calibration gives without the fitted tail.
    """
    p = "tail_probability"
    most = f"{fdr!r}::DOUBLE"  # A plain 0.1 would be a DECIMAL, whose product with a count is rounded otherwise.
    if floors:
        whens = " ".join(f"WHEN {quoted(key)} THEN {floor!r}::DOUBLE" for key, floor in floors.items())
        p = f"greatest({p}, CASE detector_fingerprint {whens} ELSE 0 END)"
    row = connection.execute(
        f"WITH images AS (SELECT count(*) AS m FROM scores WHERE {condition}), "
        f"distinct_p AS (SELECT {p} AS p, count(*) AS n FROM scores WHERE {condition} AND {p} <= {most} GROUP BY 1), "
        "counted AS (SELECT p, sum(n) OVER (ORDER BY p) AS k FROM distinct_p) "
        f"SELECT max(p), coalesce(max(k), 0)::BIGINT, (SELECT m FROM images) FROM counted, images "
        f"WHERE p * m <= {most} * k"
    ).fetchone()
    assert row is not None
    return Discovery(*row)


def level_of_fdr(
    connection: duckdb.DuckDBPyConnection, condition: str, fdr: float, subjects: Sequence[Subject]
) -> tuple[float, str]:
    """Return the level at which the expected share of false alerts is `fdr`, and a sentence on what carries it.

    Conformal tail probabilities control the share (Bates et al. 2023), but n calibration images give none below
    1 / (n + 1). If these find no alert, the level is that of the fitted tail, and the sentence says so.

    Raises:
        UserError: fdr is out of range, or there is no alert even so.
    """
    if not 0 < fdr < 1:
        raise UserError(f"--fdr {fdr} must lie between 0 and 1: 0.1 lets one alert in ten be false")
    known = {subject.fingerprint: subject.calibration for subject in subjects}
    fewest = min((calibration.images if calibration else 0) for calibration in known.values())
    floors = {key: 1 / (calibration.images + 1) if calibration else 1.0 for key, calibration in known.items()}
    sure = discoveries(connection, condition, fdr, floors)
    carried = f"{fewest} calibration images carry rates down to {1 / (fewest + 1):.2g}"
    if sure.level is not None:
        return sure.level, f"{carried}, which is enough for {sure.alerts} alerts among {sure.images} images"
    fitted = discoveries(connection, condition, fdr)
    if fitted.level is None:
        raise UserError(
            f"no image is so unlike the calibration images that it can be an alert at an fdr of {fdr:g}: take a larger "
            "one, or choose by --false-alarm-rate or --alerts-per-night"
        )
    needed = math.ceil(1 / fitted.level) - 1
    best = _best_fdr(connection, condition, max(floors.values()))
    instead = f"an fdr of {best:.2g} at best" if best < 1 else "no fdr at all"
    return fitted.level, (
        f"there are too few calibration images for an fdr of {fdr:g}: {carried}, and with them {instead}. "
        f"The level {fitted.level:.2g} comes from the fitted tail beyond them, without a guarantee; "
        f"{needed} calibration images or more would carry it"
    )


def _best_fdr(connection: duckdb.DuckDBPyConnection, condition: str, floor: float) -> float:
    """Return the smallest fdr at which tail probabilities that end at a floor find an alert."""
    beyond = f"count(*) FILTER (tail_probability <= {floor!r}::DOUBLE)"
    row = connection.execute(f"SELECT {beyond}, count(*) FROM scores WHERE {condition}").fetchone()
    assert row is not None
    return floor * row[1] / row[0] if row[0] else math.inf


def thresholds_at(
    connection: duckdb.DuckDBPyConnection, condition: str, level: float, subjects: Sequence[Subject]
) -> dict[str, float]:
    """Return the threshold of each detector at a level, by fingerprint: the rows that count reach it only up to the
    level.

    Tail probabilities in the rows may stem from an earlier calibration, so the rows have their say.

    Raises:
        UserError: nothing is known of a detector.
    """
    below = connection.execute(
        "SELECT detector_fingerprint, max(score) FILTER (tail_probability > ?) FROM scores "
        f"WHERE {condition} GROUP BY 1",
        [level],
    ).fetchall()
    highest = dict(below)
    found = {}
    for subject in subjects:
        low = highest.get(subject.fingerprint)
        bounds = [] if low is None else [float(np.nextafter(np.float32(low), np.float32(np.inf)))]
        if subject.calibration is not None:
            bounds.append(subject.calibration.threshold_at(level))
        if not bounds:
            raise UserError(
                f"neither the calibration of {subject.name} ({subject.fingerprint}) is known, nor has it enough rows "
                "with tail probabilities: leave it out with --detector, or choose by --threshold"
            )
        found[subject.fingerprint] = max(bounds)
    return found
