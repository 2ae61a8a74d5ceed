"""The parts of a listing: its schema and files, depth-first order, and concurrent steps."""

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
    """A file or object in a listing."""

    uri: str
    bytes: int
    version: str
    "the ETag if the store has one, else size and modification time; changed content gets another version"
    modified: datetime | None


class Store(Protocol):
    """A storage system; keys are the parts after `scheme://bucket/`, or whole local paths."""

    def read(self, key: str, version: str | None) -> bytes: ...
    def write(self, key: str, data: bytes) -> None: ...
    def create(self, key: str, data: bytes) -> bool: ...
    def delete(self, key: str) -> None: ...
    def info(self, key: str) -> FileInfo: ...

    def files(self, key: str, threads: int, scope: Scope) -> Iterator[list[FileInfo]]:
        """Yield all files below a folder or prefix that are in scope and not hidden, or the file `key` itself.

        With one thread the files are sorted by URI.
        """
        ...


def tables(batches: Iterable[list[FileInfo]]) -> Iterator[pa.Table]:
    """Convert batches of files to tables of at least `TABLE_ROWS` rows; the last may be smaller."""
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
    """Yield the files of a tree in an object store's order of keys: `a.png`, `a/b.png`, `ab.png`.

    Args:
        root: top folder.
        children: returns pairs for a folder: name of a file and the value to yield, or name of a folder with a slash at
            the end and the argument of `children` for it.
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
"A listing in steps: each step yields some files, and further listings that may run concurrently."


def interleaved(first: Steps, threads: int) -> Iterator[list[FileInfo]]:
    """Run a listing and its further listings, with up to `threads` concurrent steps.

    A slow consumer slows the listing down. The latest listings run first, which keeps the queue short.
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
