"""Files of this machine or of a network mount."""

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
"Reasons why there can be no file at a path."


class LocalStore:
    """Paths of this machine or of a network mount."""

    def read(self, key: str, version: str | None) -> bytes:
        try:
            # Without waiting: a pipe that nobody writes to would keep the reader for ever.
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
            # Looked at after reading, this also finds a file that was changed meanwhile.
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
            # The name is taken, so the file needs another one for the moment until it takes that.
            beside = path.with_name(f".{secrets.token_hex(8)}.part")
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
    """A file to its end, fastest where it has the expected size.

    Each call of the system gives up Python's lock, and where other threads compute, getting it back costs more than
    reading a small file does; Python's own file objects make four more calls than are needed.
    """
    data = os.read(descriptor, expected + 1)
    if len(data) == expected:
        return data
    parts = [data]
    while part := os.read(descriptor, 2**20):
        parts.append(part)
    return b"".join(parts)


@contextmanager
def _staged(folder: Path, data: bytes) -> Iterator[int | Path]:
    """A whole file in a folder, to be given its name. On Linux it has none yet, so it is gone if this process dies;
    elsewhere, and on file systems that can't do that, it is a hidden file."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(folder, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o644)
    except (AttributeError, IsADirectoryError, NotImplementedError):
        descriptor = -1
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        descriptor = -1
    if descriptor >= 0:
        with os.fdopen(descriptor, "wb", buffering=0) as file:
            _write_all(file, data)
            # After a power cut, a name without its data would count as a shard that is done.
            os.fsync(descriptor)
            yield descriptor
        return
    staged = folder / f".{secrets.token_hex(8)}.part"
    try:
        with staged.open("wb", buffering=0) as file:
            _write_all(file, data)
            os.fsync(file.fileno())
        yield staged
    finally:
        staged.unlink(missing_ok=True)


def _write_all(file: io.FileIO, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]


def _linked(staged: int | Path, path: Path) -> bool:
    """Give a staged file a name; false if the name is taken. A hard link, unlike a rename, finds that out."""
    try:
        if isinstance(staged, Path):
            path.hardlink_to(staged)
        else:
            # The descriptor serves to call linkat, which alone follows the link to the file; its value plays no role.
            os.link(f"/proc/self/fd/{staged}", path, src_dir_fd=staged, follow_symlinks=True)
    except FileExistsError:
        return False
    return True
