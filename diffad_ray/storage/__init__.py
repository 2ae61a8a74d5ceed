"""The one door to files and objects: local paths, S3, GCS and Azure (obstore), and whatever fsspec knows beside them.

A location is a local path or a URI (`s3://bucket/key`); its characters stand for themselves, none is decoded. Bytes of
local names that are no UTF-8 are written as U+EF80 to U+EFFF.
Reads and writes are whole objects. On local disks and object stores every write is atomic: readers see the old object,
the new one, or none.
Whatever the system, failures are FileNotFoundError, PermissionError, TimeoutError or another OSError, on one line and
without secrets. Requests that fail in passing are tried again, and fewer are made at once where a store asks for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa

from diffad_ray.storage.failures import Archived, Changed, Impossible, SlowDown, Unavailable, from_fsspec
from diffad_ray.storage.listings import LISTING, FileInfo, Store, tables
from diffad_ray.storage.local import LocalStore
from diffad_ray.storage.locations import is_local, normalised
from diffad_ray.storage.objects import OBSTORE_SCHEMES, ObjectStore
from diffad_ray.storage.omissions import HIDDEN, Omissions, Scope
from diffad_ray.storage.other import FsspecStore
from diffad_ray.storage.retry import Requests
from diffad_ray.storage.s3 import s3fs_arguments
from diffad_ray.storage.settings import S3_SCHEMES, S3Settings, StorageSettings

__all__ = [
    "HIDDEN",
    "LISTING",
    "Archived",
    "Changed",
    "FileInfo",
    "Impossible",
    "Omissions",
    "S3Settings",
    "SlowDown",
    "StorageSettings",
    "Store",
    "Unavailable",
    "configure",
    "create",
    "delete",
    "exists",
    "filesystem",
    "has_files",
    "is_local",
    "listing",
    "normalised",
    "open_store",
    "read",
    "settings",
    "walk",
    "write",
]


class _Door:
    """The stores that a process has opened with its settings."""

    def __init__(self, settings: StorageSettings):
        self.settings = settings
        self.requests = Requests(settings)
        self.stores: dict[tuple[str, str], Store] = {("", ""): LocalStore()}

    def store(self, scheme: str, authority: str) -> Store:
        store = self.stores.get((scheme, authority))
        if store is None:
            store = self.stores[scheme, authority] = self._open(scheme, authority)
        return store

    def _open(self, scheme: str, authority: str) -> Store:
        if scheme in OBSTORE_SCHEMES:
            return ObjectStore(scheme, authority, self.settings, self.requests)
        return FsspecStore(scheme, authority, self.settings.options.get(scheme, {}), self.requests)


_door = _Door(StorageSettings())


def configure(settings: StorageSettings) -> None:
    """Set how this process reaches stores; equal settings change nothing. Each process needs its own call."""
    global _door
    if settings != _door.settings:
        _door = _Door(settings)


def settings() -> StorageSettings:
    """What `configure` has set in this process, to be handed to others."""
    return _door.settings


def open_store(location: str) -> tuple[Store, str]:
    """The store that serves a location, and the location's key in it.

    Raises:
        OSError: the scheme is unknown or its client is not installed.
        UserError: the URI carries a password or key.
    """
    scheme, separator, rest = normalised(location).partition("://")
    if not separator:
        return _door.store("", ""), scheme
    authority, _, key = rest.partition("/")
    return _door.store(scheme, authority), key


def read(location: str, version: str | None = None) -> bytes:
    """The whole object.

    Raises:
        Changed: it is not the given version of a listing any more; not found out for systems that only fsspec knows.
    """
    store, key = open_store(location)
    return store.read(key, version)


def write(location: str, data: bytes) -> None:
    """Write an object, replacing what is there; parent folders are made."""
    store, key = open_store(location)
    store.write(key, data)


def create(location: str, data: bytes) -> bool:
    """Write an object unless there is one already; true if this call wrote it. Of several racing calls one wins.

    Where the answer of an object store was lost and the next attempt finds an object, it is taken as written by this
    call if it holds the same bytes. Racing calls with the same bytes may then both win.
    """
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
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def has_files(location: str) -> bool:
    """Whether there is any file at or below a location."""
    try:
        return next(walk(location), None) is not None
    except FileNotFoundError:
        return False


def walk(location: str, omissions: Omissions | None = None) -> Iterator[FileInfo]:
    """All files below a folder or prefix, at any depth, sorted by URI; or the file that is there.

    Hidden names, those below the location that start with a dot, are left out. Links to folders are followed, but each
    real folder is listed once, by its real path where that is below the location; a link to a folder that holds the
    location is not followed. A link to nothing is listed with the version "dangling".

    Args:
        omissions: takes what is left out, folders that can't be listed among it; without it, these are errors.

    Raises:
        FileNotFoundError: there is nothing at that location; an empty local folder is something.
    """
    store, key = open_store(location)
    for files in store.files(key, 1, Scope(omissions=omissions)):
        yield from files


def listing(
    location: str,
    threads: int = 16,
    *,
    enters: Callable[[str], bool] | None = None,
    omissions: Omissions | None = None,
    apart: str | None = None,
) -> Iterator[pa.Table]:
    """The files that `walk` gives, in no order, as tables of some 20,000 rows with the schema `LISTING`.

    Folders and prefixes are listed beside each other; a slow reader holds the listing back.

    Args:
        enters: whether any file of a folder, at whatever depth, may be wanted, by the folder's path below the location;
            what lies in other folders is not listed.
        omissions: as of `walk`.
        apart: a location whose files are left out, even where a link leads to it.

    Raises:
        FileNotFoundError: there is nothing at that location; an empty local folder is something.
    """
    store, key = open_store(location)
    yield from tables(store.files(key, threads, Scope(enters, omissions, apart)))


def filesystem(location: str) -> Any:
    """The fsspec file system of a location, set as this door is, for DuckDB's `register_filesystem`.

    Raises:
        OSError: the scheme is unknown or its client is not installed.
    """
    import fsspec

    scheme = normalised(location).partition("://")[0] if not is_local(location) else "file"
    options = s3fs_arguments(_door.settings) if scheme in S3_SCHEMES else _door.settings.options.get(scheme, {})
    try:
        found = fsspec.filesystem(scheme, **options)
    except (ImportError, ValueError, TypeError) as error:
        raise from_fsspec(error, f"{scheme}://") from None
    found.invalidate_cache()  # instances are shared, and would not see what was written since
    return found
