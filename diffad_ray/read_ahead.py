"""Files read by threads, ahead of whoever works on them, and no further ahead than memory allows."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import cache
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def read_ahead(read: Callable[[T], R], items: Iterable[T], readers: int) -> Iterator[R]:
    """`map(read, items)` by threads; at most `readers` results are being read or waiting at any time.

    Nothing is read any more once the iterator has ended or was closed.
    """
    pool, waiting = _readers(readers), deque[Future[R]]()
    try:
        for item in items:
            if len(waiting) == readers:
                yield waiting.popleft().result()
            waiting.append(pool.submit(read, item))
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
        wait(waiting)


@cache
def _readers(count: int) -> ThreadPoolExecutor:
    """So many threads, kept for good: to start them takes as long as reading a few hundred small files."""
    return ThreadPoolExecutor(count)
