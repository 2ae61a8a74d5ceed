"""Files read by threads, ahead of whoever works on them, and no further ahead than memory allows."""

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
    """`map(read, items)` by threads; at most `readers` results are being read or waiting while one is worked on.

    Nothing is read any more once the iterator has ended or was closed. `read` must not itself read ahead with as many
    readers: it would wait for a thread that waits for it.
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
    """The first result; until it is there, its future stays where an interruption finds it."""
    waiting[0].result()
    return waiting.popleft().result()


@cache
def _readers(count: int) -> ThreadPoolExecutor:
    """So many threads, kept for good: to start them takes as long as reading a few hundred small files."""
    return ThreadPoolExecutor(count)


if hasattr(os, "register_at_fork"):
    # A forked child has none of the threads.
    os.register_at_fork(after_in_child=_readers.cache_clear)
