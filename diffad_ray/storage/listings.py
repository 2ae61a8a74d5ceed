"""What a listing is made of, and how many threads list at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from datetime import datetime
from typing import Any, NamedTuple, Protocol, TypeAlias

import pyarrow as pa

from diffad_ray.storage.omissions import Scope

TABLE_ROWS = 20_000
LISTING = pa.schema(
    [
        ("uri", pa.string()),
        ("bytes", pa.int64()),
        ("version", pa.string()),
        ("modified", pa.timestamp("us", "UTC")),
    ]
)


class FileInfo(NamedTuple):
    """One file or object of a listing."""

    uri: str
    bytes: int
    version: str
    "ETag where the store has one, else size and time of change: another content has another version"
    modified: datetime | None


class Store(Protocol):
    """A system of files; keys are what follows `scheme://bucket/`, or whole paths."""

    def read(self, key: str, version: str | None) -> bytes: ...
    def write(self, key: str, data: bytes) -> None: ...
    def create(self, key: str, data: bytes) -> bool: ...
    def delete(self, key: str) -> None: ...
    def info(self, key: str) -> FileInfo: ...

    def files(self, key: str, threads: int, scope: Scope) -> Iterator[list[FileInfo]]:
        """All files below a folder or prefix that are not hidden and within the scope, or the one that it names; sorted
        by URI if there is one thread."""
        ...


def tables(batches: Iterable[list[FileInfo]]) -> Iterator[pa.Table]:
    """Files as tables of some 20,000 rows."""
    rows: list[FileInfo] = []
    for batch in batches:
        rows += batch
        if len(rows) >= TABLE_ROWS:
            yield _table(rows)
            rows = []
    if rows:
        yield _table(rows)


def _table(rows: list[FileInfo]) -> pa.Table:
    columns = zip(*rows, strict=True)
    return pa.table([pa.array(c, f.type) for c, f in zip(columns, LISTING, strict=True)], schema=LISTING)


def depth_first(root: str, children: Callable[[str], Iterable[tuple[str, Any]]]) -> Iterator[Any]:
    """The files of a tree, sorted as an object store sorts keys: `a.png`, `a/b.png`, `ab.png`.

    Args:
        root: folder to begin with.
        children: gives names in a folder, those of folders with a slash at the end, each with what to yield for it; for
            a folder, the folder to give to `children`.
    """
    stack = [iter(sorted(children(root)))]
    while stack:
        child = next(stack[-1], None)
        if child is None:
            stack.pop()
        elif child[0].endswith("/"):
            stack.append(iter(sorted(children(child[1]))))
        else:
            yield child[1]


Steps: TypeAlias = "Iterator[tuple[list[FileInfo], list[Steps]]]"
"A listing in steps: each gives some files, and more listings to be done beside this one."


def interleaved(first: Steps, threads: int) -> Iterator[list[FileInfo]]:
    """Do a listing and those that it leads to, step by step, so many steps at once.

    A slow reader holds the listing back. What was found last goes first, so that little waits.
    """
    waiting = [first]
    running: dict[Future[Any], Steps] = {}
    with ThreadPoolExecutor(threads, "listing") as pool:
        while waiting or running:
            while waiting and len(running) < threads:
                steps = waiting.pop()
                running[pool.submit(next, steps, None)] = steps
            for done in wait(running, return_when=FIRST_COMPLETED).done:
                steps = running.pop(done)
                step = done.result()
                if step is not None:
                    files, more = step
                    waiting += [steps, *more]
                    yield files
