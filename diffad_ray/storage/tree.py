"""Lists local folders recursively, including links to folders and network mounts."""

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
"Errors for resources that this process lacks; the folder itself may be intact."
LEADS_NOWHERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
Identity: TypeAlias = "tuple[int, int] | str"
"Identity of a folder, independent of its path: device and inode, or the real path."


class Tree:
    """One recursive listing of a folder.

    Each real folder is listed once. The listing first covers the tree without links, then the folders that its links
    lead to, then those of the links in these, and so on. So a real path is preferred to a linked one. Links are
    followed in the order of paths, so that the result depends neither on directory order nor on the number of threads.
    """

    def __init__(self, root: str, scope: Scope):
        self.root, self.scope = root, scope
        self.start = len(root.rstrip("/")) + 1
        self.links: list[str] = []
        "Links to folders that were found but not followed yet."
        self.targets: frozenset[str] = frozenset()
        "Links that are being followed."
        self.known: dict[Identity, Kind | None] = {}
        "Folders that are not listed again, each with the kind of omission to count for it, if any."
        if scope.apart:
            self._know(scope.apart, None)

    def files(self, threads: int) -> Iterator[list[FileInfo]]:
        """Yield all files; with one thread they are sorted by path."""
        if threads > 1:
            yield from interleaved(self._scan([self.root]), threads)
            while links := self._followed():
                yield from interleaved(self._scan(links), threads)
            return
        later: list[FileInfo] = []
        for file in depth_first(self.root, self._contents):
            # Once a link was found, files below it may precede this file in the order.
            if self.links:
                later.append(file)
            else:
                yield [file]
        while links := self._followed():
            later += [file for link in links for file in depth_first(link, self._contents)]
        if later:
            yield sorted(later)

    def _followed(self) -> list[str]:
        """Return the new links to follow; count the others as omissions."""
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
        with suppress(OSError):  # no link can lead to a missing folder
            self.known.setdefault(_identity(folder), kind)

    def _omit(self, kind: Kind | None, path: str) -> None:
        if kind:
            self.scope.omit(kind, as_text(path))

    def _scan(self, folders: list[str]) -> Steps:
        """List folders recursively; after each step another thread may take over half of the remaining folders."""
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
        """Yield the entries of a folder that are not hidden: files, and `name/` with the path of a subfolder.

        Entries that vanish meanwhile are omitted. Links to folders are added to `links`.
        """
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
        """Return whether a folder is already listed by another path; otherwise mark it as listed."""
        if folder in self.targets:
            return False
        identity = _identity(folder)
        if not self.targets:
            # Folders without links are never omitted, since some network mounts give different folders the same inode.
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
        """Return an entry of a folder for `_contents`; None for devices, pipes, links to folders and excluded ones."""
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
        """Return an entry without a status. The entry is listed, so that an image gets a row with the failure."""
        if error is not None and error.errno not in LEADS_NOWHERE:
            if entry.is_symlink():
                self._unlisted(entry.path, error)  # the link may lead to a folder
            return as_text(entry.name), FileInfo(path, 0, "unknown", None)
        if not entry.is_symlink():
            return None
        self._omit("dangling", entry.path)
        return as_text(entry.name), FileInfo(path, 0, "dangling", None)


def _identity(folder: str) -> Identity:
    status = Path(folder).stat()
    # Some FUSE file systems have no inode numbers.
    return (status.st_dev, status.st_ino) if status.st_ino else os.path.realpath(folder)


def info_of(path: str, status: os.stat_result) -> FileInfo:
    try:
        modified = datetime.fromtimestamp(status.st_mtime, UTC)
    except (ValueError, OverflowError, OSError):
        modified = None  # a clock was off by millennia
    return FileInfo(path, status.st_size, version_of(status), modified)


def version_of(status: os.stat_result) -> str:
    return f"{status.st_size}-{status.st_mtime_ns}"
