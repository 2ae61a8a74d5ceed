"""`report`: the numbers of a period of a table, and what changed since the period before."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import duckdb

from diffad_ray import storage
from diffad_ray.analytics.estimates import SampleEstimates, estimate
from diffad_ray.analytics.history import RunState, runs
from diffad_ray.analytics.period import Period, before, period_within, run_day
from diffad_ray.analytics.period import period as period_of
from diffad_ray.analytics.report.changes import Change, changes
from diffad_ray.analytics.report.counts import ALL, Failure, Group, failures, groups, runs_of
from diffad_ray.analytics.report.detectors import DetectorInForce, detectors_in_force
from diffad_ray.analytics.report.examples import Examples, examples, good_images
from diffad_ray.analytics.report.light import LightChange, light_changes
from diffad_ray.analytics.report.new_kinds import NewKind, new_kinds
from diffad_ray.analytics.report.normal import DetectorDrift, drift_of_detectors
from diffad_ray.analytics.report.places import Bar, Density, densities, pareto
from diffad_ray.analytics.report.recurring import Recurring, recurring
from diffad_ray.analytics.report.rows import (
    RUN_DATE,
    Asked,
    choose_columns,
    create_rows,
    day_bounds,
    refuse_unknown,
    undated,
)
from diffad_ray.analytics.report.scores import Scores, scores
from diffad_ray.analytics.report.serials import Serials, serials
from diffad_ray.analytics.report.verdicts import Verdicts, verdicts
from diffad_ray.errors import UserError
from diffad_ray.scratch import scratch_folder
from diffad_ray.table.detectors import read_detectors
from diffad_ray.table.reading import bound, existing
from diffad_ray.table.runs import read_runs
from diffad_ray.table.samples import sample_ids
from diffad_ray.table.thresholds import in_force
from diffad_ray.table.views import ask_views

SINCE = "7d"
"The period of a report, if none is given."
MEMORY = "1GB"
"Of DuckDB; what needs more goes to a temporary folder."
PICTURED = 4
"Detectors whose good images are named, those with the most regions."


@dataclass(frozen=True, kw_only=True)
class Question:
    """What a report is asked for.

    Attributes:
        since, until: the period, as `analytics/period.py` reads it; by default the last `SINCE`.
        run: a run in place of a period.
        by: the user's columns to count by; None: those with few distinct values.
        only: columns and the value that they must have, as text.
        day_column: the column that has the day of an image, if it is not the day of scoring.
        group_by: the column of parts that have several images, such as `serial`.
    """

    since: str | None = None
    until: str | None = None
    run: str | None = None
    by: tuple[str, ...] | None = None
    only: tuple[tuple[str, str], ...] = ()
    day_column: str = RUN_DATE
    group_by: str | None = None


@dataclass(frozen=True)
class Report:
    """The numbers of a period.

    Attributes:
        table: location.
        asked: the rows that were counted.
        groups: all images, then by detector and by each column; `whole` is the first.
        changes, recurring, light: what changed since the period before, the largest effect first: rates by group,
            places where defects recur, and how the images of a group look.
        kinds: regions of a size and shape that are new, most images first.
        drift: whether what is normal has moved, by detector; empty where a report is about a choice of images.
        failures: by reason, the most frequent first.
        pareto, densities: where on the product regions lie.
        scores: their distributions by detector.
        detectors: that scored the images, with their thresholds in force.
        verdicts: of people, or None.
        estimates: overkill and escapes of the archive, where people judged a random sample.
        parts: figures of parts and the worst ones, where a column of them was given.
        runs: that wrote the rows.
        examples: images to look at.
        good: by fingerprint, images of the most frequent detectors that look most like good ones; see `good_images`.
        notes: what the reader must know of the numbers, in sentences.
    """

    table: str
    asked: Asked
    groups: list[Group]
    changes: list[Change]
    recurring: list[Recurring]
    light: list[LightChange]
    kinds: list[NewKind]
    drift: list[DetectorDrift]
    failures: list[Failure]
    pareto: list[Bar]
    densities: list[Density]
    scores: list[Scores]
    detectors: list[DetectorInForce]
    verdicts: Verdicts | None
    estimates: SampleEstimates | None
    parts: Serials | None
    runs: list[RunState]
    examples: Examples
    good: dict[str, list[tuple[str, int, int]]]
    notes: list[str]

    @property
    def whole(self) -> Group:
        return next(group for group in self.groups if group.column == ALL)

    def as_json(self) -> dict[str, Any]:
        """Return every number as plain data for JSON; dates are texts, and outlines of regions are left out."""
        value: dict[str, Any] = _without_outlines(asdict(self))
        return value


def _without_outlines(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_outlines(inner) for name, inner in value.items() if name != "mask_runs"}
    return [_without_outlines(inner) for inner in value] if isinstance(value, list) else value


def report(table: str | Path, question: Question | None = None) -> Report:
    """Return the numbers of a period of a table; no image is opened.

    Raises:
        UserError: there is no table, it can't be read, the period is wrong or has no images, or a column is unknown.

    Example:
        >>> report("scores", Question(since="7d", by=("line", "camera"))).changes  # doctest: +SKIP
    """
    location = existing(storage.normalised(table))
    wanted = question or Question()
    history = runs(location)

    def ask(connection: duckdb.DuckDBPyConnection) -> Report:
        with scratch_folder() as scratch:
            bound(connection, MEMORY, scratch)
            return _report(connection, location, wanted, history)

    return ask_views(location, ask)


def _report(connection: duckdb.DuckDBPyConnection, table: str, question: Question, history: list[RunState]) -> Report:
    asked = _asked(connection, table, question)
    create_rows(connection, asked)
    columns = asked.columns
    counted = groups(connection, columns)
    if not counted or not counted[0].now.images:
        raise UserError(f"the table {table} has no image of {asked.period}: choose another period or group")
    told = changes(connection, columns)
    places = recurring(connection, columns)
    kinds = new_kinds(connection)
    said = verdicts(connection)
    dense = densities(connection)
    known = read_detectors(table)
    calibrations = {name: one.calibration for name, one in known.items() if one.calibration is not None}
    return Report(
        table=table,
        asked=asked,
        groups=counted,
        changes=told,
        recurring=places,
        light=light_changes(connection, columns),
        kinds=kinds,
        drift=drift_of_detectors(connection, table, asked),
        failures=failures(connection),
        pareto=pareto(connection),
        densities=dense,
        scores=scores(connection, calibrations),
        detectors=detectors_in_force(connection, known, in_force(table)),
        verdicts=said,
        estimates=estimate(table) if sample_ids(table) else None,
        parts=serials(connection, asked, question.group_by) if question.group_by else None,
        runs=runs_of(connection, history),
        examples=examples(connection, columns, places, told, kinds, said.new_kinds if said else []),
        good={one.fingerprint: good_images(connection, one.fingerprint) for one in dense[:PICTURED]},
        notes=_notes(connection, asked, counted[0]),
    )


def _asked(connection: duckdb.DuckDBPyConnection, table: str, question: Question) -> Asked:
    """The rows that a question is about, with its columns checked or chosen."""
    refuse_unknown(connection, [*(question.by or ()), *(name for name, _ in question.only)])
    if question.run is not None:
        asked = _asked_run(table, question)
    elif question.day_column == RUN_DATE:
        shown = period_of(table, question.since or SINCE, question.until)
        asked = Asked(shown, before(shown), only=question.only)
    else:
        shown = period_within(question.since or SINCE, question.until, *day_bounds(connection, question.day_column))
        asked = Asked(shown, before(shown), question.day_column, only=question.only)
    columns = choose_columns(connection, asked) if question.by is None else tuple(dict.fromkeys(question.by))
    return replace(asked, columns=columns)


def _asked_run(table: str, question: Question) -> Asked:
    """The rows of a run, and of the run before."""
    assert question.run is not None, "a run was asked for"
    if question.day_column != RUN_DATE:
        raise UserError("a run is on its own date: give either --run or --day-column")
    period_of(table, question.since, question.until, question.run)
    plans = [run.plan for run in read_runs(table)]
    names = [plan.run_id for plan in plans]
    place = names.index(question.run)
    earlier = names[place - 1] if place else None
    day = run_day(table, question.run)
    days = Period(day, day)
    if earlier is None:
        return Asked(days, before(days), run=question.run, only=question.only)
    earlier_day = run_day(table, earlier)
    return Asked(days, Period(earlier_day, earlier_day), run=question.run, earlier_run=earlier, only=question.only)


def _notes(connection: duckdb.DuckDBPyConnection, asked: Asked, whole: Group) -> list[str]:
    notes = []
    missing, example = undated(connection, asked)
    if missing:
        notes.append(
            f"{missing:,} images of the table have no date in the column {asked.day_column} and are not counted, "
            f"such as {example}."
        )
    if not whole.earlier.images:
        notes.append(f"The table has no images of {asked.earlier}, so nothing is compared with the period before.")
    return notes
