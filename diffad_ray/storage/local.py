"""Files of this machine or of a network mount."""

from __future__ import annotations

import errno
import io
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from diffad_ray.storage.failures import Changed
from diffad_ray.storage.listings import FileInfo, Steps, depth_first, interleaved
from diffad_ray.storage.locations import as_text, on_disk

STEP_FILES = 200


class LocalStore:
    """Paths of this machine or of a network mount."""

    def read(self, key: str, version: str | None) -> bytes:
        try:
            # Without waiting: a pipe that nobody writes to would keep the reader for ever.
            descriptor = os.open(on_disk(key), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise FileNotFoundError(f"{key} is a link that leads to itself") from error
            raise
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise FileNotFoundError(f"{key} is no file")
            data = read_all(descriptor, status.st_size)
            # Looked at after reading, this also finds a file that was changed meanwhile.
            if version is not None and version != _version(os.fstat(descriptor)):
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
            raise FileNotFoundError(f"{key} is no file")
        return _info(key, status)

    def files(self, key: str, threads: int) -> Iterator[list[FileInfo]]:
        root = on_disk(key)
        if not Path(root).is_dir():
            yield [self.info(key)]
        elif threads == 1:
            yield from ([file] for file in depth_first(root, _contents))
        else:
            yield from interleaved(_scan([root]), threads)


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


def _scan(folders: list[str]) -> Steps:
    """Folders and all below them; after each step another thread may take half of those that are left."""
    files: list[FileInfo] = []
    while folders:
        for name, content in _contents(folders.pop()):
            (folders if name.endswith("/") else files).append(content)
            if len(files) >= STEP_FILES:
                half = folders[::2]
                del folders[::2]
                yield files, [_scan(half)] if half else []
                files = []
    yield files, []


def _contents(folder: str) -> Iterator[tuple[str, Any]]:
    """What is in a folder and not hidden: files, and `name/` with the path of a folder.

    Links to folders are not followed, so that a loop of links ends. What vanishes meanwhile is left out.
    """
    try:
        entries = os.scandir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return
    with entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield f"{as_text(entry.name)}/", entry.path
            elif file := _file(entry):
                yield as_text(entry.name), file


def _file(entry: os.DirEntry[str]) -> FileInfo | None:
    """A file, also through a link; None for devices, pipes and links to folders."""
    path = as_text(entry.path)
    try:
        status = entry.stat()
    except OSError as error:
        if entry.is_symlink():
            return FileInfo(path, 0, "dangling", None)  # so that it gets a row
        if isinstance(error, FileNotFoundError):
            return None
        raise
    return _info(path, status) if stat.S_ISREG(status.st_mode) else None


def _info(path: str, status: os.stat_result) -> FileInfo:
    try:
        modified = datetime.fromtimestamp(status.st_mtime, UTC)
    except (ValueError, OverflowError, OSError):
        modified = None  # a clock was off by millennia
    return FileInfo(path, status.st_size, _version(status), modified)


def _version(status: os.stat_result) -> str:
    return f"{status.st_size}-{status.st_mtime_ns}"
