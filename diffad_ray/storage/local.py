"""The store of local files, including network mounts."""

from __future__ import annotations

import errno
import io
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from diffad_ray.storage.failures import Changed, described
from diffad_ray.storage.listings import FileInfo
from diffad_ray.storage.locations import on_disk
from diffad_ray.storage.omissions import Scope
from diffad_ray.storage.tree import Tree, info_of, version_of

NO_FILE = {
    errno.ELOOP: "the link leads to itself",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
    errno.ENAMETOOLONG: "the name is longer than the file system takes",
    errno.ENXIO: "this is no file",
}
"Reasons by errno why no file can exist at a path."


class LocalStore:
    """The store of local paths, including network mounts."""

    def read(self, key: str, version: str | None) -> bytes:
        try:
            # O_NONBLOCK, because opening a pipe without a writer would block for ever.
            descriptor = os.open(on_disk(key), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            if error.errno in NO_FILE:
                raise FileNotFoundError(described(key, NO_FILE[error.errno])) from error
            raise
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise FileNotFoundError(described(key, NO_FILE[errno.ENXIO]))
            data = read_all(descriptor, status.st_size)
            # The version is checked after reading, to detect changes during reading, too.
            if version is not None and version != version_of(os.fstat(descriptor)):
                raise Changed(f"{key} was replaced since it was listed")
        finally:
            os.close(descriptor)
        return data

    def write(self, key: str, data: bytes) -> None:
        path = Path(on_disk(key))
        with _staged(path.parent, data) as staged:
            if _linked(staged, path):
                return
            # The name exists, so the file is linked under a temporary name, which then replaces it.
            beside = _hidden_name(path.parent)
            _linked(staged, beside)
            beside.replace(path)

    def create(self, key: str, data: bytes) -> bool:
        path = Path(on_disk(key))
        with _staged(path.parent, data) as staged:
            return _linked(staged, path)

    def delete(self, key: str) -> None:
        Path(on_disk(key)).unlink(missing_ok=True)

    def info(self, key: str) -> FileInfo:
        status = Path(on_disk(key)).stat()
        if not stat.S_ISREG(status.st_mode):
            raise FileNotFoundError(described(key, NO_FILE[errno.ENXIO]))
        return info_of(key, status)

    def files(self, key: str, threads: int, scope: Scope) -> Iterator[list[FileInfo]]:
        root = on_disk(key)
        if not Path(root).is_dir():
            yield [self.info(key)]
        else:
            yield from Tree(root, scope).files(threads)


def read_all(descriptor: int, expected: int) -> bytes:
    """Read a file to its end, in one system call if it has the expected size.

    Each system call releases the GIL. If other threads compute, acquiring the GIL again takes longer than reading a
    small file, and Python's file objects make four more calls than needed.
    """
    data = os.read(descriptor, expected + 1)
    if len(data) == expected:
        return data
    return data + io.FileIO(descriptor, closefd=False).readall()


@contextmanager
def _staged(folder: Path, data: bytes) -> Iterator[int | Path]:
    """Write a complete file in a folder, to be linked to its name.

    On Linux the file has no name (O_TMPFILE), so it vanishes if this process dies. On other systems, and on file
    systems without O_TMPFILE, it has a hidden name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor: int | None = None
    try:
        descriptor = os.open(folder, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o644)
    except (AttributeError, IsADirectoryError, NotImplementedError):
        pass
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
    if descriptor is not None:
        with os.fdopen(descriptor, "wb", buffering=0) as file:
            _write_all(file, data)
            # Without fsync, a power cut could leave a name without data, which would count as a finished shard.
            os.fsync(descriptor)
            yield descriptor
        return
    staged = _hidden_name(folder)
    try:
        with staged.open("wb", buffering=0) as file:
            _write_all(file, data)
            os.fsync(file.fileno())
        yield staged
    finally:
        staged.unlink(missing_ok=True)


def _hidden_name(folder: Path) -> Path:
    return folder / f".{secrets.token_hex(8)}.part"


def _write_all(file: io.FileIO, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]


def _linked(staged: int | Path, path: Path) -> bool:
    """Hard-link a staged file to a name; return false if the name exists, which a rename would not detect."""
    try:
        if isinstance(staged, Path):
            path.hardlink_to(staged)
        else:
            # Only linkat follows the link to the file, and Python calls linkat if src_dir_fd is given, whatever it is.
            os.link(f"/proc/self/fd/{staged}", path, src_dir_fd=staged, follow_symlinks=True)
    except FileExistsError:
        return False
    return True
