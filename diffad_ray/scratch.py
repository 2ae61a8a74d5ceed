"""Temporary folders that no killed process leaves behind for good."""

from __future__ import annotations

import fcntl
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PREFIX = "diffad-scratch-"
JUST_MADE = 60.0
"Seconds for which a folder is left alone: its maker may not hold its lock yet."


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A temporary folder of this process. Those of processes that were killed are removed first: their locks, which
    the system takes back at a process's end, are free."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        if _is_abandoned(folder):
            shutil.rmtree(folder, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=PREFIX) as name, (Path(name) / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield Path(name)


def _is_abandoned(folder: Path) -> bool:
    try:
        if time.time() - folder.stat().st_mtime < JUST_MADE:
            return False
        with (folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    except OSError:
        return False  # it is in use, gone, or another user's
