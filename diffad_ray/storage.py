"""The one door to files and objects: local paths, S3, GCS and Azure (obstore), and whatever fsspec knows beside them.

A location is a local path or a URI (`s3://bucket/key`); its characters stand for themselves, none is decoded.
Reads and writes are whole objects, and every write is atomic: readers see the old object, the new one, or none.
Whatever the system, failures are FileNotFoundError, PermissionError, TimeoutError or another OSError.
"""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol

OBSTORE_SCHEMES = ("s3", "s3a", "gs", "az", "abfs", "abfss")
LISTING_CHUNK = 1000
READ_TIMEOUT = timedelta(seconds=30)


class FileInfo(NamedTuple):
    """One file or object of a listing."""

    uri: str
    bytes: int
    version: str
    "ETag where the store has one, else size and time of change: another content has another version"
    modified: datetime | None


class Store(Protocol):
    """A system of files; keys are what follows `scheme://bucket/`, or whole paths."""

    def read(self, key: str) -> bytes: ...
    def write(self, key: str, data: bytes) -> None: ...
    def create(self, key: str, data: bytes) -> bool: ...
    def delete(self, key: str) -> None: ...
    def info(self, key: str) -> FileInfo: ...
    def walk(self, prefix: str) -> Iterator[FileInfo]: ...


class LocalStore:
    """Paths of this machine or of a network mount."""

    def read(self, key: str) -> bytes:
        return Path(key).read_bytes()

    @contextmanager
    def _staged(self, key: str, data: bytes) -> Iterator[str]:
        folder = Path(key).parent
        folder.mkdir(parents=True, exist_ok=True)
        descriptor, staged = tempfile.mkstemp(prefix=".", suffix=".part", dir=folder)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
            Path(staged).chmod(0o644)
            yield staged
        finally:
            Path(staged).unlink(missing_ok=True)

    def write(self, key: str, data: bytes) -> None:
        with self._staged(key, data) as staged:
            Path(staged).replace(key)

    def create(self, key: str, data: bytes) -> bool:
        # A hard link, unlike a rename, fails where the name is taken.
        with self._staged(key, data) as staged:
            try:
                Path(key).hardlink_to(staged)
            except FileExistsError:
                return False
        return True

    def delete(self, key: str) -> None:
        Path(key).unlink(missing_ok=True)

    def info(self, key: str) -> FileInfo:
        status = Path(key).stat()
        if not Path(key).is_file():
            raise FileNotFoundError(f"{key} is no file")
        modified = datetime.fromtimestamp(status.st_mtime, UTC)
        return FileInfo(key, status.st_size, f"{status.st_size}-{status.st_mtime_ns}", modified)

    def walk(self, prefix: str) -> Iterator[FileInfo]:
        def fail(error: OSError) -> None:
            raise error

        # Links to folders are not followed, so that a loop of links ends. A link to nothing is listed: it gets a row.
        for folder, folders, names in os.walk(prefix, onerror=fail):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(names):
                path = f"{folder.rstrip('/')}/{name}"
                if name.startswith("."):
                    continue
                try:
                    yield self.info(path)
                except FileNotFoundError:
                    if Path(path).is_symlink():
                        yield FileInfo(path, 0, "dangling", None)


class ObjectStore:
    """A bucket of S3, GCS or Azure, through obstore: credentials and endpoint come from the environment."""

    def __init__(self, scheme: str, bucket: str):
        from obstore.store import from_url

        self.root = f"{scheme}://{bucket}/"
        plain_http = os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://")
        self.store: Any = from_url(self.root, client_options={"allow_http": plain_http, "timeout": READ_TIMEOUT})

    @contextmanager
    def _translated(self, key: str) -> Iterator[None]:
        from obstore import exceptions

        try:
            yield
        except exceptions.NotFoundError as error:
            raise FileNotFoundError(f"{self.root}{key} does not exist") from error
        except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError) as error:
            raise PermissionError(f"{self.root}{key}: the store refuses access") from error
        except exceptions.BaseError as error:
            message = " ".join(str(error).split())[:300]
            if "403" in message or "Forbidden" in message:
                raise PermissionError(f"{self.root}{key}: the store refuses access") from error
            if "timed out" in message or "timeout" in message.lower():
                raise TimeoutError(f"{self.root}{key}: no answer in time: {message}") from error
            raise OSError(f"{self.root}{key}: {message}") from error

    def read(self, key: str) -> bytes:
        with self._translated(key):
            return bytes(self.store.get(key).bytes())

    def write(self, key: str, data: bytes) -> None:
        with self._translated(key):
            self.store.put(key, data)

    def create(self, key: str, data: bytes) -> bool:
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        with self._translated(key):
            try:
                self.store.put(key, data, mode="create")
            except (AlreadyExistsError, PreconditionError):
                return False
        return True

    def delete(self, key: str) -> None:
        with self._translated(key):
            self.store.delete(key)

    def _info(self, meta: Any) -> FileInfo:
        modified: datetime = meta["last_modified"]
        version = (meta.get("e_tag") or f"{meta['size']}-{modified.isoformat()}").strip('"')
        return FileInfo(self.root + meta["path"], meta["size"], version, modified)

    def info(self, key: str) -> FileInfo:
        with self._translated(key):
            return self._info(self.store.head(key))

    def walk(self, prefix: str) -> Iterator[FileInfo]:
        with self._translated(prefix):
            for chunk in self.store.list(prefix.rstrip("/") or None, chunk_size=LISTING_CHUNK):
                for meta in chunk:
                    # Consoles mark "folders" by empty objects whose key ends in a slash.
                    if not meta["path"].endswith("/"):
                        yield self._info(meta)


class FsspecStore:
    """Any other system that fsspec knows (memory, sftp, hdfs, http and so on)."""

    def __init__(self, scheme: str):
        import fsspec

        try:
            self.fs: Any = fsspec.filesystem(scheme)
        except (ValueError, ImportError) as error:
            raise OSError(f"{scheme}:// can't be opened: {error}") from error
        self.scheme = scheme

    def read(self, key: str) -> bytes:
        return self.fs.cat_file(key)

    def write(self, key: str, data: bytes) -> None:
        self.fs.makedirs(self.fs._parent(key), exist_ok=True)
        self.fs.pipe_file(key, data)

    def create(self, key: str, data: bytes) -> bool:
        if self.fs.exists(key):
            return False
        self.write(key, data)
        return True

    def delete(self, key: str) -> None:
        if self.fs.exists(key):
            self.fs.rm_file(key)

    def _info(self, meta: dict[str, Any]) -> FileInfo:
        modified = meta.get("mtime") or meta.get("LastModified") or meta.get("created")
        if isinstance(modified, int | float):
            modified = datetime.fromtimestamp(modified, UTC)
        version = str(meta.get("ETag") or f"{meta['size']}-{modified}").strip('"')
        moment = modified if isinstance(modified, datetime) else None
        return FileInfo(f"{self.scheme}://{meta['name'].lstrip('/')}", meta["size"] or 0, version, moment)

    def info(self, key: str) -> FileInfo:
        return self._info(self.fs.info(key))

    def walk(self, prefix: str) -> Iterator[FileInfo]:
        for _, meta in sorted(self.fs.find(prefix, detail=True).items()):
            yield self._info(meta)


@cache
def _local_store() -> LocalStore:
    return LocalStore()


@cache
def _object_store(scheme: str, bucket: str) -> ObjectStore:
    return ObjectStore(scheme, bucket)


@cache
def _fsspec_store(scheme: str) -> FsspecStore:
    return FsspecStore(scheme)


def open_store(location: str) -> tuple[Store, str]:
    """The store that serves a location, and the location's key in it."""
    scheme, separator, rest = location.partition("://")
    if not separator:
        return _local_store(), normalised(location)
    if scheme == "file":
        return _local_store(), rest
    if scheme in OBSTORE_SCHEMES:
        bucket, _, key = rest.partition("/")
        return _object_store(scheme, bucket), key
    return _fsspec_store(scheme), rest


def normalised(location: str | Path) -> str:
    """An absolute local path without `..`, or a URI, without a slash at the end: one name for one place."""
    text = str(location)
    if text.startswith("file://"):
        text = text.removeprefix("file://")
    if "://" not in text:
        text = os.path.abspath(Path(text).expanduser())  # noqa: PTH100 - pathlib keeps the `..` or follows links
    return text.rstrip("/") or "/"


def is_local(location: str) -> bool:
    return "://" not in location or location.startswith("file://")


def read(location: str) -> bytes:
    """The whole object."""
    store, key = open_store(location)
    return store.read(key)


def write(location: str, data: bytes) -> None:
    """Write an object, replacing what is there; parent folders are made."""
    store, key = open_store(location)
    store.write(key, data)


def create(location: str, data: bytes) -> bool:
    """Write an object unless there is one already; true if this call wrote it. Of several racing calls one wins."""
    store, key = open_store(location)
    return store.create(key, data)


def delete(location: str) -> None:
    """Delete an object; no error if there is none."""
    store, key = open_store(location)
    store.delete(key)


def exists(location: str) -> bool:
    store, key = open_store(location)
    try:
        store.info(key)
    except FileNotFoundError:
        return False
    return True


def has_files(location: str) -> bool:
    """Whether there is any file below a folder or prefix."""
    try:
        return next(walk(location), None) is not None
    except FileNotFoundError:
        return False


def walk(location: str) -> Iterator[FileInfo]:
    """All files below a folder or prefix, at any depth; hidden ones of local folders left out.

    Raises:
        FileNotFoundError: there is nothing at that location.
    """
    store, key = open_store(location)
    files = store.walk(key)
    try:
        first = next(files)
    except StopIteration:
        if is_local(location) and Path(key).is_dir():
            return
        raise FileNotFoundError(f"nothing found at {location}") from None
    yield from itertools.chain([first], files)
