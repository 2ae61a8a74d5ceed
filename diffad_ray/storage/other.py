"""The store of other fsspec systems: memory, sftp, hdfs, http and others."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, TypeVar

from diffad_ray.storage.failures import Unavailable, from_fsspec
from diffad_ray.storage.listings import FileInfo, depth_first
from diffad_ray.storage.omissions import Scope
from diffad_ray.storage.retry import Requests

T = TypeVar("T")
MODIFIED_KEYS = ("mtime", "LastModified", "last_modified", "modified", "created")


class FsspecStore:
    """An fsspec file system at one authority (`host` or `user@host:port`, if the scheme has one).

    Reads do not compare versions. A file is written under a temporary name and moved; on systems that implement moves
    by copies, a killed process may still leave a partial file. `create` checks and then writes, so that two racing
    calls may both succeed; a table on such a system allows only one writer.
    """

    def __init__(self, scheme: str, authority: str, options: dict[str, Any], requests: Requests):
        from fsspec.core import url_to_fs

        self.root = f"{scheme}://{authority}/"
        self.requests = requests
        with self._translated(""):
            self.fs, base = url_to_fs(self.root, **options)
        self.base: str = base.rstrip("/")
        "Prefix of keys in the paths of this file system."

    @contextmanager
    def _translated(self, key: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # noqa: BLE001 - each system raises what its client does
            raise from_fsspec(error, self.root + key) from None

    def _run(self, key: str, request: Callable[[str], T]) -> T:
        def translated() -> T:
            with self._translated(key):
                return request(f"{self.base}/{key}" if key else self.base)

        return self.requests.run(translated)

    def read(self, key: str, version: str | None) -> bytes:
        return self._run(key, self.fs.cat_file)

    def write(self, key: str, data: bytes) -> None:
        def put(path: str) -> None:
            folder = self.fs._parent(path)
            self.fs.makedirs(folder, exist_ok=True)
            # A process that is killed during the upload must not leave a partial file under the final name.
            staged = f"{folder}/.{secrets.token_hex(8)}.part"
            self.fs.pipe_file(staged, data)
            self.fs.mv(staged, path)

        self._run(key, put)

    def create(self, key: str, data: bytes) -> bool:
        if self._run(key, self.fs.exists):
            return False
        self.write(key, data)
        return True

    def delete(self, key: str) -> None:
        self._run(key, lambda path: self.fs.rm_file(path) if self.fs.exists(path) else None)

    def info(self, key: str) -> FileInfo:
        return self._info(self._run(key, self.fs.info))

    def files(self, key: str, threads: int, scope: Scope) -> Iterator[list[FileInfo]]:
        self.fs.invalidate_cache()
        if not self._run(key, self.fs.isdir):
            yield [self.info(key)]
            return
        found = False
        for file in depth_first(key, lambda folder: self._contents(key, folder, scope)):
            found = True
            yield [file]
        if not found and not self._list(key):
            raise FileNotFoundError(f"{self.root}{key} is empty")

    def _list(self, folder: str) -> list[dict[str, Any]]:
        """Return the contents of a folder, without the folder itself, which some systems list."""
        listed = self._run(folder, lambda path: self.fs.ls(path, detail=True))
        return [meta for meta in listed if self._key(meta["name"]) != folder]

    def _contents(self, top: str, folder: str, scope: Scope) -> Iterator[tuple[str, Any]]:
        """Yield names and infos of the files in a folder at or below `top`, and `name/` and key of each subfolder."""
        try:
            listed = self._list(folder)
        except (Unavailable, TimeoutError):
            raise
        except OSError as error:
            if folder == top or scope.omissions is None:
                raise
            scope.omit("unlisted", self.root + folder, str(error))
            return
        for meta in listed:
            key = self._key(meta["name"])
            name = key.rpartition("/")[2]
            if name.startswith("."):
                scope.omit("hidden", self.root + key)
            elif meta["type"] != "directory":
                yield name, self._info(meta)
            elif self.root + key != scope.apart and scope.is_entered(key[len(top) + bool(top) :]):
                yield f"{name}/", key

    def _key(self, path: str) -> str:
        return path.removeprefix(self.base).strip("/")

    def _info(self, meta: dict[str, Any]) -> FileInfo:
        modified = next((meta[key] for key in MODIFIED_KEYS if meta.get(key)), None)
        if isinstance(modified, int | float):
            modified = datetime.fromtimestamp(modified, UTC)
        version = str(meta.get("ETag") or f"{meta['size']}-{modified}").strip('"')
        moment = modified if isinstance(modified, datetime) else None
        if moment and moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return FileInfo(self.root + self._key(meta["name"]), meta["size"] or 0, version, moment)
