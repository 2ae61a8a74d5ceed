"""Buckets of S3, GCS and Azure through obstore, and S3 keys that obstore refuses through botocore."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

from diffad_ray.storage.any_key import AnyKeyClient, is_refused
from diffad_ray.storage.failures import Changed, RefusedKey, Unavailable, from_botocore, from_obstore, refused_key
from diffad_ray.storage.listings import FileInfo, Steps, interleaved
from diffad_ray.storage.omissions import Scope
from diffad_ray.storage.retry import Requests
from diffad_ray.storage.s3 import obstore_arguments
from diffad_ray.storage.settings import S3_SCHEMES, StorageSettings
from diffad_ray.storage.wanted import WantedKeys

OBSTORE_SCHEMES = (*S3_SCHEMES, "gs", "az", "abfs", "abfss")
PAGE_KEYS = 1000
"Keys per page of a listing from S3 and GCS."
MOST_PREFIXES = 10_000
"With more prefixes at one level, each has few objects, and a single listing of all needs fewer requests."
LONGEST_REQUEST = timedelta(hours=1)
"Timeout of a whole request, for stores that keep sending very slowly."


class ObjectStore:
    """The store of a bucket; settings that are not given come from the environment."""

    def __init__(self, scheme: str, bucket: str, settings: StorageSettings, requests: Requests):
        from obstore.store import from_url

        self.root = f"{scheme}://{bucket}/"
        self.requests = requests
        # S3's directory buckets list keys unordered, and Azure's hierarchical namespaces guarantee no order. There a
        # listing can't resume after a key, so obstore itself must retry its requests.
        self.ordered = scheme not in ("az", "abfs", "abfss") and not bucket.endswith("--x-s3")
        arguments, client = obstore_arguments(settings.s3) if scheme in S3_SCHEMES else ({}, {})
        patience = timedelta(seconds=settings.timeout)
        client |= {"connect_timeout": patience, "read_timeout": patience, "timeout": LONGEST_REQUEST}
        # obstore's retries are off, so that `Requests` and its throttle see every failure.
        retries = {"max_retries": 0 if self.ordered else settings.attempts - 1}
        arguments |= {"client_options": client, "retry_config": retries}
        with self._translated(""):
            self.store: Any = from_url(self.root, **arguments)
        self.any_key: Any = AnyKeyClient(bucket, settings) if scheme in S3_SCHEMES and self.ordered else None

    @contextmanager
    def _translated(self, key: str) -> Iterator[None]:
        from botocore.exceptions import BotoCoreError, ClientError
        from obstore.exceptions import BaseError

        try:
            yield
        except RefusedKey:
            raise
        except (BotoCoreError, ClientError) as error:
            raise from_botocore(error, self.root + key) from None
        # obstore's errors are not chained, because their texts repeat the request with its tokens.
        except (BaseError, OSError, ValueError) as error:
            raise from_obstore(error, self.root + key) from None

    def _client(self, key: str) -> Any:
        """Return the client that accepts a key; raises RefusedKey if there is none."""
        if not is_refused(key):
            return self.store
        if self.any_key is None:
            raise refused_key(self.root, key)
        return self.any_key

    def read(self, key: str, version: str | None) -> bytes:
        def get() -> bytes:
            with self._translated(key):
                answer = self._client(key).get(key)
            if version is not None and version != _version(answer.meta):
                raise Changed(f"{self.root}{key} was replaced since it was listed")
            with self._translated(key):
                return bytes(answer.bytes())

        return self.requests.run(get)

    def write(self, key: str, data: bytes) -> None:
        def put() -> None:
            with self._translated(key):
                self._client(key).put(key, data)

        self.requests.run(put)

    def create(self, key: str, data: bytes) -> bool:
        """Write an object if there is none, see `storage.create`.

        If an object with the same bytes exists after a lost response, this call counts as its writer.
        """
        lost = False

        def put() -> bool:
            nonlocal lost
            try:
                with self._translated(key):
                    self._client(key).put(key, data, mode="create")
            except FileExistsError:
                return False
            except (Unavailable, TimeoutError):
                lost = True
                raise
            return True

        return self.requests.run(put) or (lost and self.read(key, None) == data)

    def delete(self, key: str) -> None:
        def delete() -> None:
            try:
                with self._translated(key):
                    self._client(key).delete(key)
            except FileNotFoundError:
                pass  # S3 ignores missing objects, GCS and Azure report them

        self.requests.run(delete)

    def info(self, key: str) -> FileInfo:
        def head() -> FileInfo:
            with self._translated(key):
                return self._info(self._client(key).head(key))

        return self.requests.run(head)

    def files(self, key: str, threads: int, scope: Scope) -> Iterator[list[FileInfo]]:
        prefix = f"{key}/" if key else ""
        found = False
        wanted = WantedKeys(self.root, prefix, scope)
        pages = self._pages(prefix) if threads == 1 else interleaved(self._split(prefix, 1, threads, wanted), threads)
        for page in pages:
            found = found or bool(page)
            yield wanted.files(page)
        if not found and not prefix:
            raise FileNotFoundError(f"{self.root} is empty")
        if not found and not wanted.left_folders:
            yield [self.info(key)]

    def _split(self, prefix: str, width: int, threads: int, wanted: WantedKeys) -> Steps:
        """List a prefix, split into the prefixes one level below while there are fewer prefixes than threads.

        Args:
            prefix: prefix to list; empty, or with a slash at the end.
            width: estimated number of prefixes at this level, assuming equal splits.
            threads: number of prefixes that can be listed at once.
            wanted: decides which prefixes are listed.
        """
        pages = self._pages(prefix)
        first = next(pages, [])
        if width < threads and self._goes_deeper(prefix, first):
            folders, files = self._level(prefix)
            if len(folders) <= MOST_PREFIXES:
                folders = [folder for folder in folders if wanted.enters(folder)]
                yield files, [self._split(folder, width * len(folders), threads, wanted) for folder in folders]
                return
        yield first, []
        yield from ((page, []) for page in pages)

    def _goes_deeper(self, prefix: str, page: list[FileInfo]) -> bool:
        """Return whether more pages follow the first page of a prefix, and the page has keys of deeper levels."""
        # Pages count as full from half their size, because folder markers are left out. A prefix with a flat first page
        # is assumed flat, because a request for its folders would return all of its files at once.
        start = len(self.root) + len(prefix)
        return len(page) > PAGE_KEYS // 2 and any("/" in file.uri[start:] for file in page)

    def _level(self, prefix: str) -> tuple[list[str], list[FileInfo]]:
        """Return the prefixes and objects directly below a prefix."""

        def level(client: Any) -> tuple[list[str], list[FileInfo]]:
            with self._translated(prefix):
                listed = client.list_with_delimiter(prefix)
            return [f"{folder}/" for folder in listed["common_prefixes"]], self._files(prefix, listed["objects"])

        client = self._lister(prefix)
        try:
            return self.requests.run(lambda: level(client))
        except RefusedKey:
            if self.any_key is None:
                raise
        return self.requests.run(lambda: level(self.any_key))

    def _pages(self, prefix: str) -> Iterator[list[FileInfo]]:
        """Yield all objects below a prefix in pages from obstore; pages with keys that it refuses are from botocore."""
        last, more = "", True
        client = self._lister(prefix)
        while more:
            if client is self.store and not is_refused(last):
                try:
                    for page in self._quick_pages(prefix, last):
                        files, last = page
                        yield files
                    return
                except RefusedKey:
                    if self.any_key is None:
                        raise
            files, last, more = self._any_page(prefix, last)
            yield files

    def _quick_pages(self, prefix: str, last: str) -> Iterator[tuple[list[FileInfo], str]]:
        """Yield pages of objects after a key with the last key so far, where a failed listing resumes."""
        stream: Any = None

        def page() -> Sequence[Any] | None:
            nonlocal stream
            try:
                with self._translated(prefix):
                    stream = stream or self.store.list(prefix or None, offset=last or None, chunk_size=PAGE_KEYS)
                    return next(stream, None)
            except (Unavailable, TimeoutError) as error:
                if last and not self.ordered:
                    raise OSError(str(error)) from None
                stream = None
                raise

        while metas := self.requests.run(page):
            # obstore returns the marker `a/` as `a`, which sorts before `a.png` but is listed after it. Resuming after
            # `a` would repeat `a.png`; resuming after `a.png` repeats only the marker.
            last = max(last, *(meta["path"] for meta in metas))
            yield self._files(prefix, metas), last

    def _any_page(self, prefix: str, last: str) -> tuple[list[FileInfo], str, bool]:
        """Return from botocore the next objects after a key, the last key so far, and whether there are more."""

        def page() -> tuple[list[FileInfo], str, bool]:
            with self._translated(prefix):
                metas, key, more = self.any_key.page(prefix, last)
            return [self._info(meta) for meta in metas], key, more

        return self.requests.run(page)

    def _lister(self, prefix: str) -> Any:
        """Return the client that lists a prefix."""
        # obstore silently drops the leading slash of keys.
        if not prefix and self.any_key is not None and self._any_page("/", "")[1]:
            return self.any_key
        return self._client(f"{prefix}_")

    def _files(self, prefix: str, metas: Sequence[Any]) -> list[FileInfo]:
        """Return the objects of a page without folder markers, the empty objects that consoles create.

        obstore drops the slash at the end of a marker's key. A marker is recognised by following keys below it, or by a
        second object of the same name.
        """
        named: dict[str, Any] = {}
        for meta in metas:
            named.setdefault(meta["path"], meta)
        following = [*list(named)[1:], ""]
        return [
            self._info(meta)
            for (path, meta), after in zip(named.items(), following, strict=False)
            if f"{path}/" != prefix and (meta["size"] or not after.startswith(f"{path}/"))
        ]

    def _info(self, meta: Any) -> FileInfo:
        return FileInfo(self.root + meta["path"], meta["size"], _version(meta), meta["last_modified"])


def _version(meta: Any) -> str:
    modified: datetime = meta["last_modified"]
    # Listings may have fractions of a second, responses to reads have none.
    return (meta["e_tag"] or f"{meta['size']}-{modified.replace(microsecond=0).isoformat()}").strip('"')
