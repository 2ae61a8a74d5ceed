"""What a listing leaves out: which folders it need not enter, and how many names it had to leave out and why."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

log = logging.getLogger(__name__)
HIDDEN = re.compile(r"(?:^|/)\.(?:[^./]|\.[^/])[^/]*")
"""A part of a path that is a hidden name: it starts with a dot. The parts `.` and `..`, which keys of S3 may have, are
none. RE2 reads the expression alike."""
Kind = Literal["hidden", "unlisted", "repeated", "above", "dangling"]
_SENTENCES: dict[Kind, tuple[str, str]] = {
    "unlisted": (
        "1 folder could not be listed, and what it holds is left out: {}",
        "{count} folders could not be listed, and what they hold is left out, such as {}",
    ),
    "repeated": (
        "1 folder is linked a second time and was listed once, by another path: {}",
        "{count} folders are linked a second time and were listed once, by another path, such as {}",
    ),
    "above": (
        "1 linked folder was not followed, because it leads to a folder that holds this one: {}",
        "{count} linked folders were not followed, because they lead to a folder that holds this one, such as {}",
    ),
    "dangling": ("1 link leads to nothing: {}", "{count} links lead to nothing, such as {}"),
    "hidden": (
        "1 hidden name (it starts with a dot) is left out: {}",
        "{count} hidden names (they start with a dot) are left out, such as {}",
    ),
}
"What is said of one and of several of a kind, the gravest first."


class Omissions:
    """Counts what listings leave out, and keeps the first example of each kind by name; threads may share it."""

    def __init__(self) -> None:
        self._found: dict[Kind, tuple[int, str, str]] = {}
        self._hidden_folders: set[str] = set()
        self._lock = threading.Lock()

    def add(self, kind: Kind, location: str, reason: str = "") -> None:
        with self._lock:
            self._add(kind, location, reason)

    def add_hidden_key(self, root: str, path: str) -> None:
        """Count an object whose path below `root` has a hidden part; a hidden folder counts once, as on a disk, where
        nobody looks into it."""
        found = HIDDEN.search(path)
        end = found.end() if found else len(path)
        with self._lock:
            if end < len(path):
                if path[:end] in self._hidden_folders:
                    return
                self._hidden_folders.add(path[:end])
            self._add("hidden", f"{root}{path[:end]}", "")

    def _add(self, kind: Kind, location: str, reason: str) -> None:
        count, first, why = self._found.get(kind, (0, location, reason))
        if location < first:
            first, why = location, reason
        self._found[kind] = (count + 1, first, why)

    def sentences(self) -> list[str]:
        """What was left out, a sentence a kind."""
        sentences = []
        for kind, (one, several) in _SENTENCES.items():
            if kind in self._found:
                count, first, why = self._found[kind]
                example = f"{first} ({why})" if why else first
                sentences.append((one if count == 1 else several).format(example, count=count))
        return sentences

    def warn(self) -> None:
        """Log the sentences, for work that keeps no notes."""
        for sentence in self.sentences():
            log.warning(sentence)


@dataclass(frozen=True)
class Scope:
    """What a listing is to look at.

    Attributes:
        enters: whether any file of a folder, at whatever depth, may be wanted, by the folder's path below the listed
            one; other folders are not listed.
        omissions: takes what is left out. Without it, a folder that can't be listed ends the listing with an error.
        apart: a location whose files are not wanted, even where a link leads to it.
    """

    enters: Callable[[str], bool] | None = None
    omissions: Omissions | None = None
    apart: str | None = None

    def is_entered(self, path: str) -> bool:
        return self.enters is None or self.enters(path)

    def omit(self, kind: Kind, location: str, reason: str = "") -> None:
        if self.omissions is not None:
            self.omissions.add(kind, location, reason)
