"""Folders of this machine or of a network mount: what is in them and below, links to folders included."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

from diffad_ray.storage.listings import FileInfo, Steps, depth_first, interleaved
from diffad_ray.storage.locations import as_text
from diffad_ray.storage.omissions import Kind, Scope

STEP_FILES = 200
OWN_LIMITS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"What this process lacks; the folder may be all right."
LEADS_NOWHERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
Identity: TypeAlias = "tuple[int, int] | str"
"Of a folder, whatever path leads there."


class Tree:
    """One listing of a folder.

    Each real folder is listed once. First all that lies in the tree without links; then the folders that links in it
    lead to, then those that links in these lead to, and so on. So a real path is preferred to a linked one. Links are
    taken in the order of their paths, so that neither the order of a directory nor the number of threads matters.
    """

    def __init__(self, root: str, scope: Scope):
        self.root, self.scope = root, scope
        self.start = len(root.rstrip("/")) + 1
        self.links: list[str] = []
        "Links to folders that were found and not looked at yet."
        self.targets: frozenset[str] = frozenset()
        "Links that are being followed."
        self.known: dict[Identity, Kind | None] = {}
        "Folders that are not listed again, each with the kind of omission that it would be."
        if scope.apart:
            self._know(scope.apart, None)

    def files(self, threads: int) -> Iterator[list[FileInfo]]:
        """All files, sorted by path if there is one thread."""
        if threads > 1:
            yield from interleaved(self._scan([self.root]), threads)
            while links := self._followed():
                yield from interleaved(self._scan(links), threads)
            return
        later: list[FileInfo] = []
        for file in depth_first(self.root, self._contents):
            # Where there is a link, what it leads to may come before this file.
            if self.links:
                later.append(file)
            else:
                yield [file]
        while links := self._followed():
            later += [file for link in links for file in depth_first(link, self._contents)]
        if later:
            yield sorted(later)

    def _followed(self) -> list[str]:
        """The links found so far that are to be followed."""
        if not self.targets:
            for folder in Path(os.path.realpath(self.root)).parents:
                self._know(str(folder), "above")
        found, self.links = sorted(self.links, key=as_text), []
        followed = []
        for link in found:
            try:
                identity = _identity(link)
            except OSError as error:
                self._unlisted(link, error)
                continue
            if identity in self.known:
                self._omit(self.known[identity], link)
            else:
                self.known[identity] = "repeated"
                followed.append(link)
        self.targets = frozenset(followed)
        return followed

    def _know(self, folder: str, kind: Kind | None) -> None:
        with suppress(OSError):  # what is not there, no link leads to
            self.known.setdefault(_identity(folder), kind)

    def _omit(self, kind: Kind | None, path: str) -> None:
        if kind:
            self.scope.omit(kind, as_text(path))

    def _scan(self, folders: list[str]) -> Steps:
        """Folders and all below them; after each step another thread may take half of those that are left."""
        files: list[FileInfo] = []
        while folders:
            for name, content in self._contents(folders.pop()):
                (folders if name.endswith("/") else files).append(content)
                if len(files) >= STEP_FILES:
                    half = folders[::2]
                    del folders[::2]
                    yield files, [self._scan(half)] if half else []
                    files = []
        yield files, []

    def _contents(self, folder: str) -> Iterator[tuple[str, Any]]:
        """What is in a folder and not hidden: files, and `name/` with the path of a folder. What vanishes meanwhile is
        left out, and links to folders are set aside."""
        try:
            if self._is_listed(folder):
                return
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        self._omit("hidden", entry.path)
                    elif found := self._found(entry):
                        yield found
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            self._unlisted(folder, error)

    def _is_listed(self, folder: str) -> bool:
        """Whether a folder is listed by another path; from now on it is by this one."""
        if folder in self.targets:
            return False
        identity = _identity(folder)
        if not self.targets:
            # Nothing is left out here: some network mounts give different folders one number.
            self.known[identity] = "repeated"
            return False
        if identity in self.known:
            self._omit(self.known[identity], folder)
            return True
        self.known[identity] = "repeated"
        return False

    def _unlisted(self, folder: str, error: OSError) -> None:
        if self.scope.omissions is None or folder == self.root or error.errno in OWN_LIMITS:
            raise error
        self.scope.omit("unlisted", as_text(folder), error.strerror or str(error))

    def _found(self, entry: os.DirEntry[str]) -> tuple[str, Any] | None:
        """An entry of a folder as `_contents` gives it; None for devices, pipes and what is not entered."""
        path = as_text(entry.path)
        try:
            if entry.is_dir(follow_symlinks=False):
                return (f"{as_text(entry.name)}/", entry.path) if self._is_entered(path) else None
            status = entry.stat()
        except FileNotFoundError:
            return self._of_no_status(entry, path)
        except OSError as error:
            if error.errno in OWN_LIMITS or (self.scope.omissions is None and not entry.is_symlink()):
                raise
            return self._of_no_status(entry, path, error)
        if stat.S_ISREG(status.st_mode):
            return as_text(entry.name), info_of(path, status)
        if stat.S_ISDIR(status.st_mode) and self._is_entered(path):
            self.links.append(entry.path)
        return None

    def _is_entered(self, path: str) -> bool:
        return path != self.scope.apart and self.scope.is_entered(path[self.start :])

    def _of_no_status(
        self, entry: os.DirEntry[str], path: str, error: OSError | None = None
    ) -> tuple[str, FileInfo] | None:
        """An entry that nothing is known of but its name. It is listed, so that an image gets a row."""
        if error is not None and error.errno not in LEADS_NOWHERE:
            if entry.is_symlink():
                self._unlisted(entry.path, error)  # it may have led to a folder
            return as_text(entry.name), FileInfo(path, 0, "unknown", None)
        if not entry.is_symlink():
            return None
        self._omit("dangling", entry.path)
        return as_text(entry.name), FileInfo(path, 0, "dangling", None)


def _identity(folder: str) -> Identity:
    status = Path(folder).stat()
    # Some file systems of users (FUSE) number nothing.
    return (status.st_dev, status.st_ino) if status.st_ino else os.path.realpath(folder)


def info_of(path: str, status: os.stat_result) -> FileInfo:
    try:
        modified = datetime.fromtimestamp(status.st_mtime, UTC)
    except (ValueError, OverflowError, OSError):
        modified = None  # a clock was off by millennia
    return FileInfo(path, status.st_size, version_of(status), modified)


def version_of(status: os.stat_result) -> str:
    return f"{status.st_size}-{status.st_mtime_ns}"
