"""`nightly`: the steps of a night in their order, each told in a line as it ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from diffad_ray.cluster import check_address
from diffad_ray.nightly.settings import NightlySettings
from diffad_ray.nightly.steps import STEPS, Night
from diffad_ray.scoring.task import make_task
from diffad_ray.settings import build, merged, parse_overrides, read_settings_file


@dataclass(frozen=True)
class StepResult:
    """A step that ended well: `run`, the run that it was about, empty where none was begun; `text`, what it did, and
    the same as `figures`; `notes`, what the user should know."""

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
        say: is given what happens within a step, in lines.

    Raises:
        UserError: a setting is invalid, a detector can't be loaded, or no cluster is where `RAY_ADDRESS` says.
    """
    check_address()
    sections = ("nightly", "scoring", "cluster", "images", "storage")
    values = merged(read_settings_file(settings_file), parse_overrides(overrides, sections))
    settings = build(NightlySettings, values.get("nightly", {}), "nightly")
    of_task = [pair for pair in overrides if not pair.strip().startswith("nightly.")]
    task = make_task(
        settings.archive, settings.table, settings.detector, settings={}, settings_file=settings_file, overrides=of_task
    )
    return Night(settings, task, say)


def nightly(night: Night, tell: Callable[[StepResult], None], dry_run: bool = False) -> list[StepResult]:
    """Go through the steps: check, score what is new, compact, verify, prune. The first that fails ends the night.

    Args:
        night: as `prepare` makes it.
        tell: is given each step's result as the step ends, so that a later failure hides nothing.
        dry_run: do nothing, and tell what would be done.

    Returns:
        The results of all steps.

    Raises:
        TryLater: another run writes to the table, the cluster lacks what is asked for, or a store does not answer.
        Fault: `verify` found problems, or workers died.
        UserError: the user must act.
    """
    results = []
    for step in STEPS:
        started = time.monotonic()
        outcome = (step.foresee if dry_run else step.do)(night)
        seconds = round(time.monotonic() - started, 1)
        results.append(StepResult(step.name, night.run_id, outcome.text, seconds, outcome.figures, outcome.notes))
        tell(results[-1])
    return results
