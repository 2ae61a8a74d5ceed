"""Temporary folders that are removed even if their process is killed."""

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
"Seconds for which a new folder is not removed, because its process may not hold the lock yet."


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Create a temporary folder for the `with` block, and first remove those of killed processes.

    Each process locks its folder, and the system releases the locks of killed processes.
    """
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
        return False  # the folder is in use, removed, or another user's
