"""The choice of thresholds by one of several wishes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import duckdb

from diffad_ray.analytics.thresholds.levels import level_of_alerts, level_of_fdr, thresholds_at
from diffad_ray.analytics.thresholds.subjects import Subject
from diffad_ray.analytics.thresholds.verdicts import read_words, threshold_by_verdicts
from diffad_ray.errors import UserError
from diffad_ray.sql import quoted
from diffad_ray.table.thresholds import score_at_least

MOST_SCORE = 1e38
"Scores are float32, which end soon after this."


@dataclass(frozen=True, kw_only=True)
class Wish:
    """How thresholds are chosen: in one way, or in none.

    Attributes:
        false_alarm_rate: share of normal images that may be rejected, by the calibration; with `from_verdicts`, by the
            verdicts.
        alerts_per_night: images a night that may be rejected at most, of all detectors together, in any night.
        fdr: expected share of rejected images that are good.
        from_verdicts: from what people said of images.
        threshold: the score itself, for one detector.
        review: where the band of images to review begins: below 1 a false-alarm rate, otherwise the number of images a
            night that the band may hold at most.

    Raises:
        UserError: there are two ways, or a number is out of range.
    """

    false_alarm_rate: float | None = None
    alerts_per_night: int | None = None
    fdr: float | None = None
    from_verdicts: bool = False
    threshold: float | None = None
    review: float | None = None

    def __post_init__(self) -> None:
        if self.ways > 1:
            raise UserError(
                "thresholds are chosen in one way: give one of --false-alarm-rate, --alerts-per-night, --fdr, "
                "--from-verdicts and --threshold; only --from-verdicts takes a --false-alarm-rate with it"
            )
        if self.false_alarm_rate is not None and not 0 < self.false_alarm_rate < 1:
            raise UserError(f"--false-alarm-rate {self.false_alarm_rate} must lie between 0 and 1: 0.001 is 0.1 %")
        if self.threshold is not None and not abs(self.threshold) < MOST_SCORE:
            raise UserError(f"--threshold {self.threshold} is no number to compare scores with")
        if self.review is not None and not 0 < self.review < math.inf:
            raise UserError(f"--review-band {self.review} must be a rate below 1, or a number of images a night")

    @property
    def ways(self) -> int:
        """How many ways are asked for. A rate beside verdicts is no way of its own."""
        rate = self.false_alarm_rate is not None and not self.from_verdicts
        others = (self.alerts_per_night, self.fdr, self.threshold)
        return rate + self.from_verdicts + sum(value is not None for value in others)


@dataclass
class Choice:
    """Chosen thresholds by fingerprint.

    Attributes:
        chosen_by: the wish in words, with what it rests on.
        reject: from which on images are rejected; `review`: from which on they are to be reviewed, if there is a band.
        notes: what the user should know of the choice, in sentences.
    """

    chosen_by: dict[str, str]
    reject: dict[str, float]
    review: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def choose(
    connection: duckdb.DuckDBPyConnection, condition: str, subjects: Sequence[Subject], wish: Wish
) -> Choice | None:
    """Choose the thresholds of detectors; None if no way is wished for.

    Args:
        condition: SQL of the rows of `scores` that count.

    Raises:
        UserError: the wish can't be fulfilled.
    """
    if wish.ways == 0 and wish.review is None:
        return None
    if wish.from_verdicts:
        choice = _by_verdicts(connection, subjects, wish.false_alarm_rate)
    elif wish.alerts_per_night is not None or wish.fdr is not None:
        choice = _by_level(connection, condition, subjects, wish)
    else:
        choice = _by_value(subjects, wish)
    if wish.review is not None:
        _add_band(connection, condition, subjects, wish.review, choice)
    return choice


def _by_value(subjects: Sequence[Subject], wish: Wish) -> Choice:
    """Choose a threshold or a rate that is given, or keep what is in force."""
    if wish.threshold is not None:
        if len(subjects) > 1:
            names = ", ".join(f"{subject.name} ({subject.fingerprint})" for subject in subjects)
            raise UserError(f"a threshold is a score of one detector: name one with --detector, of {names}")
        reject = {subjects[0].fingerprint: score_at_least(wish.threshold)}
        return Choice(_for_all(subjects, f"threshold {wish.threshold:g}"), reject)
    rate = wish.false_alarm_rate
    if rate is None:
        in_force = {subject.fingerprint: subject.reject for subject in subjects}
        return Choice(_for_all(subjects, "threshold in force"), in_force)
    choice = Choice(
        _for_all(subjects, f"false-alarm rate {rate:.3g}"),
        {one.fingerprint: one.threshold_at(rate) for one in subjects},
    )
    choice.notes += [note for one in subjects if (note := _extrapolated(one, rate))]
    return choice


def _by_level(connection: duckdb.DuckDBPyConnection, condition: str, subjects: Sequence[Subject], wish: Wish) -> Choice:
    """Choose by alerts a night, or by the share of false ones among them."""
    if wish.alerts_per_night is not None:
        level, night = level_of_alerts(connection, condition, wish.alerts_per_night)
        way = f"{wish.alerts_per_night} alerts a night"
        note = f"the night of {night} has most alerts and decides the level, {level:.2g}"
    else:
        assert wish.fdr is not None
        level, note = level_of_fdr(connection, condition, wish.fdr, subjects)
        way = f"fdr {wish.fdr:g}"
    reject = thresholds_at(connection, condition, level, subjects)
    return Choice(_for_all(subjects, f"{way}, level {level:.2g}"), reject, notes=[note])


def _for_all(subjects: Sequence[Subject], text: str) -> dict[str, str]:
    return {subject.fingerprint: text for subject in subjects}


def _extrapolated(subject: Subject, rate: float) -> str:
    """A sentence for a rate that the calibration images do not reach."""
    calibration = subject.calibration
    if calibration is None or rate * (calibration.images + 1) >= 1:
        return ""
    lowest = 1 / (calibration.images + 1)
    return (
        f"{subject.name}: {calibration.images} calibration images carry rates down to {lowest:.2g}; "
        f"the threshold for {rate:.2g} lies in the tail that was fitted beyond them"
    )


def _by_verdicts(connection: duckdb.DuckDBPyConnection, subjects: Sequence[Subject], rate: float | None) -> Choice:
    allowed = "" if rate is None else f" with at most {rate:.3g} of the good parts rejected"
    choice = Choice({}, {})
    for subject in subjects:
        words = read_words(connection, subject.fingerprint)
        try:
            found = threshold_by_verdicts(words, rate)
        except UserError as error:
            raise UserError(f"{subject.name}: {error}") from error
        choice.reject[subject.fingerprint] = found.threshold
        count = found.defective + found.good
        choice.chosen_by[subject.fingerprint] = f"{count} verdicts{allowed}: {found}"
        choice.notes.append(
            f"{subject.name}: chosen from {count} verdicts: {found}. Each verdict counts once; "
            "if people reviewed alerts alone, good parts that score lower are missing here"
        )
    return choice


def _add_band(
    connection: duckdb.DuckDBPyConnection, condition: str, subjects: Sequence[Subject], review: float, choice: Choice
) -> None:
    """Add the thresholds from which images are to be reviewed."""
    if review < 1:
        choice.review = {one.fingerprint: one.threshold_at(review) for one in subjects}
        band = f"review from false-alarm rate {review:.3g}"
    else:
        whens = " ".join(f"WHEN {quoted(key)} THEN {value!r}::DOUBLE" for key, value in choice.reject.items())
        below = f"{condition} AND score < CASE detector_fingerprint {whens} END"
        level, night = level_of_alerts(connection, below, int(review))
        choice.review = thresholds_at(connection, below, level, subjects)
        band = f"review of {int(review)} images a night"
        choice.notes.append(f"the night of {night} decides where the review band begins, at the level {level:.2g}")
    for subject in subjects:
        choice.chosen_by[subject.fingerprint] += f"; {band}"
        begin, end = choice.review[subject.fingerprint], choice.reject[subject.fingerprint]
        if begin >= end:
            raise UserError(
                f"the review band of {subject.name} would begin at {begin:.4g}, at or above its threshold {end:.4g}: "
                "take a larger --review-band"
            )
