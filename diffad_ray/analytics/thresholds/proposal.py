"""`threshold`: candidate thresholds of a table, what they would mean, the chosen ones, and how they are applied."""

from __future__ import annotations

import getpass
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import duckdb

from diffad_ray import storage
from diffad_ray.analytics.period import Period, period
from diffad_ray.analytics.thresholds.by_parts import show_images, show_parts
from diffad_ray.analytics.thresholds.choice import Choice, Wish, choose
from diffad_ray.analytics.thresholds.consequences import Candidate, Consequence, Frame, consequences, windows_of
from diffad_ray.analytics.thresholds.subjects import Subject, find_subjects, of_detectors, scored_in
from diffad_ray.errors import UserError, percent
from diffad_ray.sql import quoted
from diffad_ray.table.runs import read_runs
from diffad_ray.table.thresholds import AppliedThreshold, apply_threshold
from diffad_ray.table.views import ask_views

RATES = (0.0001, 0.001, 0.01)
"False-alarm rates of the candidates, if none is asked for."
AROUND = (0.1, 0.3, 1.0, 3.0, 10.0)
"Multiples of a rate that is asked for."
DEFAULT_PERIOD = "30d"
SECONDS_PER_IMAGE = 5.0


@dataclass(frozen=True)
class Change:
    """What chosen thresholds change for the images of a detector, over the whole table.

    Attributes:
        become: images that become alerts; `cease`: that are alerts no more; `review`: in the review band.
        without_regions: of those that become alerts, the images that have no regions in the table.
        command: that makes these regions; empty if none are missing.
    """

    fingerprint: str
    become: int
    cease: int
    review: int
    without_regions: int
    command: str


@dataclass(frozen=True)
class Proposal:
    """Candidate thresholds of a table.

    Attributes:
        table: its location.
        period: by which thresholds are chosen.
        detectors: with scores in the period.
        consequences: of each candidate, by group.
        choice: None if nothing is to be chosen; `changes`: what it changes, always in images.
        part: the column whose values are counted in place of images; None: images are counted.
    """

    table: str
    period: Period
    detectors: list[Subject]
    consequences: list[Consequence]
    choice: Choice | None
    changes: list[Change]
    part: str | None = None


def propose(
    table: str | Path,
    wish: Wish | None = None,
    *,
    by: Sequence[str] = (),
    detector: str | None = None,
    since: str | None = None,
    until: str | None = None,
    seconds_per_image: float = SECONDS_PER_IMAGE,
    group_by: str | None = None,
) -> Proposal:
    """Return candidate thresholds of a table with their consequences, and the choice that a wish makes. Writes nothing.

    Args:
        table: folder or URI.
        wish: how to choose; None chooses nothing.
        by: columns of `scores` by which consequences are divided, beside the detector.
        detector: name, or beginning of the fingerprint, of the detectors in question; None: all.
        since, until: as `period` takes them; without `since`, the month before `until` counts.
        seconds_per_image: that a person needs for an image, or for a part.
        group_by: a column that is the same for all images of a part, such as `serial`: parts are counted then.

    Raises:
        UserError: there is no table or no score, a column is unknown, or the wish can't be fulfilled.

    Example:
        >>> propose("scores", Wish(alerts_per_night=200)).choice.reject  # doctest: +SKIP
        {'6d0e4ac2f1b39857': 3.25}
    """
    if seconds_per_image <= 0:
        raise UserError(f"--seconds-per-image {seconds_per_image} must be more than 0")
    wish = wish or Wish()
    if group_by is not None and wish.fdr is not None:
        raise UserError("--fdr counts images, whose tail probabilities the calibration gives: leave --group-by out")
    location = storage.normalised(str(table))
    chosen_in = period(location, since or DEFAULT_PERIOD, until)
    keys = ("detector", *(key for key in by if key != "detector"))
    frame = Frame(keys, windows_of(chosen_in, bool(since)), seconds_per_image, group_by is not None)

    def ask(connection: duckdb.DuckDBPyConnection) -> Proposal:
        subjects = find_subjects(connection, location, chosen_in, detector)
        if group_by is not None:
            show_parts(connection, group_by)
        choice = choose(connection, scored_in(chosen_in, subjects), subjects, wish)
        candidates = [one for subject in subjects for one in candidates_of(subject, wish, choice)]
        found = consequences(connection, subjects, candidates, frame)
        if group_by is not None:
            show_images(connection)
        changes = _changes(connection, location, subjects, choice) if choice else []
        return Proposal(location, chosen_in, subjects, found, choice, changes, group_by)

    return ask_views(location, ask)


def candidates_of(subject: Subject, wish: Wish, choice: Choice | None) -> list[Candidate]:
    """Return the candidates of a detector, the lowest threshold first; equal ones are one with several reasons."""
    wanted = [(subject.reject, subject.review, "in force")]
    if subject.calibration is not None:
        asked = wish.false_alarm_rate
        rates = RATES if asked is None else [asked * factor for factor in AROUND if asked * factor < 1]
        wanted += [(subject.threshold_at(rate), None, f"rate {percent(rate)}") for rate in rates]
    if choice is not None:
        wanted.append((choice.reject[subject.fingerprint], choice.review.get(subject.fingerprint), "chosen"))
    reasons: dict[tuple[float, float | None], list[str]] = {}
    bands = {reject: review for reject, review, _ in wanted if review is not None}
    for reject, review, reason in wanted:
        # A rate says nothing of a band, so it joins a candidate with the same threshold.
        shown = bands.get(reject) if reason.startswith("rate") else review
        reasons.setdefault((reject, shown), []).append(reason)
    return [
        Candidate(subject.fingerprint, reject, review, subject.rate(reject), tuple(why))
        for (reject, review), why in sorted(reasons.items(), key=lambda item: (item[0][0], item[0][1] or item[0][0]))
    ]


def _changes(
    connection: duckdb.DuckDBPyConnection, table: str, subjects: Sequence[Subject], choice: Choice
) -> list[Change]:
    def threshold(values: dict[str, float]) -> str:
        whens = " ".join(f"WHEN {quoted(key)} THEN {value!r}::FLOAT" for key, value in values.items())
        return f"CASE detector_fingerprint {whens} END" if whens else "NULL::FLOAT"

    is_alert = f"score >= {threshold(choice.reject)}"
    rows = connection.execute(
        f"SELECT detector_fingerprint, count(*) FILTER (NOT is_anomalous AND {is_alert}), "
        f"count(*) FILTER (is_anomalous AND NOT ({is_alert})), "
        f"count(*) FILTER (NOT ({is_alert}) AND score >= {threshold(choice.review)}), "
        f"count(*) FILTER (NOT is_anomalous AND {is_alert} AND region_count = 0) "
        f"FROM scores WHERE {of_detectors(subjects)} GROUP BY 1"
    ).fetchall()
    by_name = {subject.fingerprint: subject for subject in subjects}
    return [
        Change(name, become, cease, review, without_regions, _command(table, by_name[name]) if without_regions else "")
        for name, become, cease, review, without_regions in rows
    ]


def _command(table: str, subject: Subject) -> str:
    """The command that makes the regions of new alerts."""
    plans = [run.plan for run in read_runs(table)]
    archives = [plan.archive for plan in plans if any(one.fingerprint == subject.fingerprint for one in plan.detectors)]
    archive = archives[-1] if archives else "ARCHIVE"
    location = subject.known.location if subject.known and subject.known.location else "DETECTOR"
    return f"diffad-ray score {archive} --detector {location} --table {table} --missing-masks"


def apply(proposal: Proposal, why: str, who: str | None = None) -> list[AppliedThreshold]:
    """Put the chosen thresholds of a proposal in force, one file for each detector, and return them.

    Args:
        why: the reason, for those who read the table later.
        who: None: the name of the user of this process.

    Raises:
        UserError: nothing was chosen, there is no reason, or the process has no user name.
    """
    choice = proposal.choice
    if choice is None:
        raise UserError(
            "nothing was chosen: give --false-alarm-rate, --alerts-per-night, --fdr, --from-verdicts or --threshold"
        )
    if not why.strip():
        raise UserError('--apply needs a reason for those who read the table later: --why "…"')
    applied = [
        AppliedThreshold(
            detector_fingerprint=subject.fingerprint,
            reject=choice.reject[subject.fingerprint],
            review=choice.review.get(subject.fingerprint),
            chosen_by=choice.chosen_by[subject.fingerprint],
            who=who or user_name(),
            why=why,
            applied_at=datetime.now(UTC).isoformat(),
        )
        for subject in proposal.detectors
    ]
    for one in applied:
        apply_threshold(proposal.table, one)
    return applied


def user_name() -> str:
    """Return the name of the user of this process.

    Raises:
        UserError: it has none, as in a container with an arbitrary user id.
    """
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError) as error:
        raise UserError("this process has no user name: give one with --who") from error
