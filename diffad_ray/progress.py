"""Progress display: a bar in a terminal, else one line every half minute."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

SECONDS_BETWEEN_LINES = 30.0


class ProgressBar:
    """A context manager that shows progress and time left of a job on stderr.

    Args:
        title: name of the job.
        total: number of units.
        visible: whether to show anything.
    """

    def __init__(self, title: str, total: int, visible: bool = True):
        self.title, self.total, self.visible = title, total, visible
        self.start = self.last_line = time.monotonic()
        self.first: int | None = None
        self.bar: Progress | None = None
        self.task = TaskID(0)

    def __enter__(self) -> Self:
        if self.visible and sys.stderr.isatty():
            self.bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}"),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self.bar.start()
            self.task = self.bar.add_task(self.title, total=self.total, note="")
        return self

    def update(self, done: int, note: str = "") -> None:
        """Set the number of finished units, and a note such as losses or failures."""
        now = time.monotonic()
        if self.first is None:
            # The rate of a resumed job excludes the units of earlier runs.
            self.first, self.start = done, now
        if self.bar is not None:
            self.bar.update(self.task, completed=done, note=note)
        elif self.visible and now - self.last_line >= SECONDS_BETWEEN_LINES:
            self.last_line = now
            rate = (done - self.first) / max(now - self.start, 1e-9)
            left = f"{(self.total - done) / rate:.0f} s left" if rate > 0 else "time left unknown"
            if done >= self.total:
                left = "finishing"
            print(f"{self.title}: {done}/{self.total}  {note}  {left}", file=sys.stderr, flush=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.stop()
