"""Reads files in threads ahead of the consumer, with a bounded number of waiting results."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import cache
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def read_ahead(read: Callable[[T], R], items: Iterable[T], readers: int) -> Iterator[R]:
    """Yield `map(read, items)` from threads; at most `readers` results are in progress or waiting at any time.

    All reading has stopped when the iterator ends or is closed. `read` must not itself call `read_ahead` with the same
    `readers`, because both calls share one pool and would deadlock.

    Example:
        >>> list(read_ahead(len, ["a", "bb", "ccc"], readers=2))
        [1, 2, 3]
    """
    pool, waiting = _readers(readers), deque[Future[R]]()
    try:
        for item in items:
            waiting.append(pool.submit(read, item))
            if len(waiting) > readers:
                yield _next(waiting)
        while waiting:
            yield _next(waiting)
    finally:
        for future in waiting:
            future.cancel()
        wait(waiting)


def _next(waiting: deque[Future[R]]) -> R:
    """Wait for the first result, then remove and return it; if interrupted, its future stays in `waiting`."""
    waiting[0].result()
    return waiting.popleft().result()


@cache
def _readers(count: int) -> ThreadPoolExecutor:
    """Return a permanent pool of `count` threads; starting one takes as long as reading a few hundred small files."""
    return ThreadPoolExecutor(count)


if hasattr(os, "register_at_fork"):
    # A forked child process has none of the threads, so it needs new pools.
    os.register_at_fork(after_in_child=_readers.cache_clear)
