"""`nightly`: runs the steps of a night in order, and reports each one as it ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from diffad_ray.cluster import check_address
from diffad_ray.errors import UserError, counted
from diffad_ray.nightly.settings import NightlySettings
from diffad_ray.nightly.state import Night
from diffad_ray.nightly.steps import STEPS
from diffad_ray.scoring.task import make_task
from diffad_ray.settings import build, read_settings


@dataclass(frozen=True)
class StepResult:
    """The result of a step that succeeded.

    Attributes:
        run: ID of the run; empty if none was begun.
        text: what the step did; `figures`: the same as numbers.
        notes: sentences for the user.
    """

    step: str
    run: str
    text: str
    seconds: float
    figures: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def prepare(settings_file: str, overrides: Sequence[str], say: Callable[[str], None]) -> Night:
    """Read the settings of a night, and load its detectors.

    Args:
        settings_file: TOML with the sections `[nightly]`, `[scoring]`, `[cluster]`, `[images]` and `[storage]`.
        overrides: `section.key=value` of these sections, which win over the file.
        say: receives lines about the progress of a step.

    Raises:
        UserError: a setting is invalid, a detector can't be loaded, or no cluster is where `RAY_ADDRESS` says.
    """
    check_address()
    sections = ("nightly", "scoring", "cluster", "images", "storage")
    values = read_settings(settings_file, overrides, sections=sections)
    settings = build(NightlySettings, values.get("nightly", {}), "nightly")
    of_task = [pair for pair in overrides if not pair.strip().startswith("nightly.")]
    task = make_task(
        settings.archive, settings.table, settings.detector, settings={}, settings_file=settings_file, overrides=of_task
    )
    return Night(settings, task, say)


def nightly(night: Night, tell: Callable[[StepResult], None], dry_run: bool = False) -> list[StepResult]:
    """Run the steps: check, score new images, compact, verify, look at golden samples and drift, report, prune.

    The first step that fails ends the night. If somebody must act on golden samples or drift, a last result named
    `alerts` says so.

    Args:
        night: the night that `prepare` returns.
        tell: receives the result of each step as the step ends, so that a later failure hides nothing.
        dry_run: change nothing, and report what would be done.

    Returns:
        The results of all steps.

    Raises:
        TryLater: another run writes to the table, the cluster lacks what is asked for, or a store does not answer.
        Fault: `verify` found problems, or workers died.
        UserError: the user must act; on drift only with `fail_on_drift`.
    """
    with night.kept:
        return _run_steps(night, tell, dry_run)


def _run_steps(night: Night, tell: Callable[[StepResult], None], dry_run: bool) -> list[StepResult]:
    results = []
    for step in STEPS:
        started = time.monotonic()
        outcome = (step.foresee if dry_run else step.do)(night)
        seconds = round(time.monotonic() - started, 1)
        results.append(StepResult(step.name, night.run_id, outcome.text, seconds, outcome.figures, outcome.notes))
        tell(results[-1])
    if night.alerts:
        text = f"somebody must act on {counted(len(night.alerts), 'finding')}"
        results.append(StepResult("alerts", night.run_id, text, 0.0, {}, night.alerts))
        tell(results[-1])
        if night.settings.fail_on_drift:
            raise UserError(f"{text}, and fail_on_drift is set: {night.alerts[0]}")
    return results
