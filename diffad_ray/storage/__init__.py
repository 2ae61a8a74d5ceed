"""Access to all files and objects: local paths, S3, GCS and Azure (obstore), and other systems of fsspec.

A location is a local path or a URI (`s3://bucket/key`); its characters are literal, no escapes are decoded. Bytes of
local names that are not UTF-8 are written as U+EF80 to U+EFFF.
Reads and writes are of whole objects. On local disks and object stores writes are atomic: readers see the old object,
the new one, or none.
On all systems, failures are FileNotFoundError, PermissionError, TimeoutError or another OSError, with a message of one
line without secrets. Requests that fail temporarily are retried, and concurrency is reduced if a store asks for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa

from diffad_ray.storage.failures import Archived, Changed, Impossible, SlowDown, Unavailable, from_fsspec, may_pass
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
    "delete_all",
    "exists",
    "filesystem",
    "has_files",
    "is_local",
    "listing",
    "may_pass",
    "normalised",
    "open_store",
    "read",
    "settings",
    "take_counts",
    "walk",
    "write",
]

DELETIONS = 16
"Number of objects that are deleted at the same time, because each one waits for the answer of a store."


class _Door:
    """The storage settings of a process, and the stores opened with them."""

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
    """Set the storage settings of this process; each process needs its own call. Equal settings change nothing."""
    global _door
    if settings != _door.settings:
        _door = _Door(settings)


def settings() -> StorageSettings:
    """Return the settings of this process, to be passed to others."""
    return _door.settings


def take_counts() -> tuple[int, int]:
    """Return how many requests this process has repeated since the last call, and how many of them because a store
    asked to slow down."""
    return _door.requests.counts.take()


def open_store(location: str) -> tuple[Store, str]:
    """Return the store of a location, and the location's key in this store.

    Raises:
        OSError: the scheme is unknown or its client is not installed.
        UserError: the URI contains a password or key.
    """
    scheme, separator, rest = normalised(location).partition("://")
    if not separator:
        return _door.store("", ""), scheme
    authority, _, key = rest.partition("/")
    return _door.store(scheme, authority), key


def read(location: str, version: str | None = None) -> bytes:
    """Read a whole object.

    Raises:
        Changed: the object differs from the given version of a listing; not checked on systems of fsspec.
    """
    store, key = open_store(location)
    return store.read(key, version)


def write(location: str, data: bytes) -> None:
    """Write or replace an object; parent folders are created."""
    store, key = open_store(location)
    store.write(key, data)


def create(location: str, data: bytes) -> bool:
    """Write an object if there is none; return whether this call wrote it. Only one of several racing calls does.

    If the response of an object store was lost and the retry finds an object with the same bytes, this call counts as
    its writer. Racing calls with the same bytes may then both return true.
    """
    store, key = open_store(location)
    return store.create(key, data)


def delete(location: str) -> None:
    """Delete an object; a missing one is no error."""
    store, key = open_store(location)
    store.delete(key)


def delete_all(locations: Iterable[str]) -> None:
    """Delete many objects, `DELETIONS` at a time."""
    with ThreadPoolExecutor(DELETIONS) as pool:
        list(pool.map(delete, locations))


def exists(location: str) -> bool:
    store, key = open_store(location)
    try:
        store.info(key)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def has_files(location: str) -> bool:
    """Return whether there is any file at or below a location."""
    try:
        return next(walk(location), None) is not None
    except FileNotFoundError:
        return False


def walk(location: str, omissions: Omissions | None = None) -> Iterator[FileInfo]:
    """Yield all files below a folder or prefix, at any depth, sorted by URI; or the single file at the location.

    Hidden names, which start with a dot, are omitted below the location. Links to folders are followed, but each real
    folder is listed once, by its real path if that is below the location. A link to a folder that contains the location
    is not followed. A broken link is listed with the version "dangling".

    Args:
        location: folder, prefix or file.
        omissions: collects omitted names and folders that can't be listed; without it, the latter are errors.

    Raises:
        FileNotFoundError: there is nothing at the location; an empty local folder is not an error.
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
    """Yield the files of `walk`, unordered, as tables of about 20,000 rows with the schema `LISTING`.

    Folders and prefixes are listed concurrently; a slow consumer slows the listing down.

    Args:
        location: folder, prefix or file.
        threads: number of concurrent listing requests.
        enters: receives a folder's path below the location, and returns whether any file in it, at any depth, may be
            wanted; other folders are not listed.
        omissions: as in `walk`.
        apart: a location whose files are omitted, even if a link leads to it.

    Raises:
        FileNotFoundError: there is nothing at the location; an empty local folder is not an error.
    """
    store, key = open_store(location)
    yield from tables(store.files(key, threads, Scope(enters, omissions, apart)))


def filesystem(location: str) -> Any:
    """Return the fsspec file system of a location with this process's settings, for DuckDB's `register_filesystem`.

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
    found.invalidate_cache()  # fsspec shares instances, whose caches miss later writes
    return found
