"""The scope of a listing, and counts of the names that a listing omits, with reasons."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

log = logging.getLogger(__name__)
HIDDEN = re.compile(r"(?:^|/)\.(?:[^./]|\.[^/])[^/]*")
"""Matches a hidden part of a path: it starts with a dot, but is not `.` or `..`, which S3 keys may contain. The
expression has the same meaning in RE2."""
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
"Sentences for one and for several omissions of a kind, the most serious kind first."


class Omissions:
    """Counts omissions by kind, and keeps the alphabetically first example of each; thread-safe."""

    def __init__(self) -> None:
        self._found: dict[Kind, tuple[int, str, str]] = {}
        self._hidden_folders: set[str] = set()
        self._lock = threading.Lock()

    def add(self, kind: Kind, location: str, reason: str = "") -> None:
        with self._lock:
            self._add(kind, location, reason)

    def add_hidden_key(self, root: str, path: str) -> None:
        """Count an object whose path below `root` has a hidden part; a hidden folder counts once, as on a disk."""
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
        """Return one sentence per kind of omission."""
        sentences = []
        for kind, (one, several) in _SENTENCES.items():
            if kind in self._found:
                count, first, why = self._found[kind]
                example = f"{first} ({why})" if why else first
                sentences.append((one if count == 1 else several).format(example, count=count))
        return sentences

    def warn(self) -> None:
        """Log the sentences as warnings, for callers that keep no notes."""
        for sentence in self.sentences():
            log.warning(sentence)


@dataclass(frozen=True)
class Scope:
    """The scope of a listing.

    Attributes:
        enters: receives a folder's path below the listed one, and returns whether any file in it, at any depth, may be
            wanted; other folders are not listed.
        omissions: collects omissions. Without it, a folder that can't be listed is an error.
        apart: a location whose files are not wanted, even if a link leads to it.
    """

    enters: Callable[[str], bool] | None = None
    omissions: Omissions | None = None
    apart: str | None = None

    def is_entered(self, path: str) -> bool:
        return self.enters is None or self.enters(path)

    def omit(self, kind: Kind, location: str, reason: str = "") -> None:
        if self.omissions is not None:
            self.omissions.add(kind, location, reason)
