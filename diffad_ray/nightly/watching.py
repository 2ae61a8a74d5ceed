"""The steps of a night that look at its scores: golden samples, drift, and the report."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, replace

from diffad_ray import storage
from diffad_ray.analytics.drift import drift
from diffad_ray.analytics.drift.golden import golden
from diffad_ray.analytics.report import Question, report
from diffad_ray.errors import counted
from diffad_ray.nightly.state import Night, Outcome
from diffad_ray.reports.drift_text import described
from diffad_ray.reports.report_page import write_page
from diffad_ray.reports.report_page.sentences import headlines
from diffad_ray.scoring.pipeline import run_task
from diffad_ray.scoring.task import Task
from diffad_ray.table.reading import has_rows

NO_GOLDEN = "no golden samples: `golden` is not set"
NO_REPORT = "no page: `report` is not set"


def golden_task(night: Night) -> Task:
    """Return the task that scores all golden samples again, by the detectors, routes and thresholds of the night."""
    assert night.settings.golden is not None
    task = night.task
    every = replace(task.settings, include=(), exclude=(), since=None, sample=1.0, limit=None, template=None)
    settings = replace(every, masks="none", gate=False)
    # The detector itself is what golden samples watch.
    detectors = [detector._replace(gate=None) for detector in task.detectors]
    archive, table = storage.normalised(night.settings.golden), storage.normalised(night.golden_table)
    return replace(task, archive=archive, table=table, settings=settings, detectors=detectors, force=True)


def score_golden(night: Night) -> Outcome:
    if night.settings.golden is None:
        return Outcome(NO_GOLDEN)
    run_task(golden_task(night), show_progress=True)
    found = golden(night.golden_table)
    if found.state == "moved":
        night.alerts.append(f"golden samples moved, so the camera or the detector changed: {found.reasons[0]}")
    text = f"{counted(found.images, 'golden sample')}: {found.state}"
    return Outcome(text, asdict(found), found.reasons)


def would_score_golden(night: Night) -> Outcome:
    if night.settings.golden is None:
        return Outcome(NO_GOLDEN)
    return Outcome(f"would score the images of {night.settings.golden} again, into {night.golden_table}")


def look_for_drift(night: Night) -> Outcome:
    settings = night.settings
    found = drift(night.table, settings.drift_since, by=settings.drift_by)
    states = Counter(group.state for group in found.groups)
    text = "; ".join(f"{counted(count, 'group')} {state}" for state, count in states.items()) or "no images"
    notes = [f"{described(one)}: {one.state}. {' '.join(one.reasons)}" for one in found.groups if one.reasons]
    night.alerts += [f"{described(one)}: {one.state}. {one.reasons[0]}" for one in found.groups if one.needs_action]
    return Outcome(text, asdict(found), notes)


def would_look_for_drift(night: Night) -> Outcome:
    if not has_rows(night.table):
        return Outcome("would have no days to compare: there is no table yet")
    return Outcome(f"would compare the days of {night.settings.drift_since}")


def write_report(night: Night) -> Outcome:
    settings = night.settings
    if settings.report is None:
        return Outcome(NO_REPORT)
    found = report(night.table, Question(since=settings.report_since))
    write_page(found, settings.report)
    now = found.whole.now
    text = f"wrote {settings.report}: {counted(now.images, 'image')}, {counted(now.alerts, 'alert')}"
    return Outcome(text, found.as_json(), [one.text for one in headlines(found)])


def would_write_report(night: Night) -> Outcome:
    if night.settings.report is None:
        return Outcome(NO_REPORT)
    return Outcome(f"would write {night.settings.report} about the last {night.settings.report_since}")
