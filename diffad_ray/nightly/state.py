"""What the steps of a night share, and what each of them gives back."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from diffad_ray.nightly.settings import NightlySettings
from diffad_ray.scoring.selection import Selection
from diffad_ray.scoring.task import Task


@dataclass
class Night:
    """The state that the steps of a night share.

    Attributes:
        say: receives lines about the progress of a step.
        run_id: the run of this night; empty before it is known, and if nothing was new.
        selection: images of the archive, from the check to the scoring; `kept` holds the folder in which they are.
        alerts: sentences about what somebody must act on, the gates first.
    """

    settings: NightlySettings
    task: Task
    say: Callable[[str], None]
    run_id: str = ""
    selection: Selection | None = None
    kept: ExitStack = field(default_factory=ExitStack)
    alerts: list[str] = field(default_factory=list)

    @property
    def table(self) -> str:
        return self.task.table

    @property
    def golden_table(self) -> str:
        return self.settings.golden_table or f"{self.table}-golden"


@dataclass(frozen=True)
class Outcome:
    """The result of a step in words and figures, and sentences for the user."""

    text: str
    figures: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
