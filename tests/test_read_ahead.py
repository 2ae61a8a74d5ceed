"""Reading ahead: in order, and not further than it may."""

from __future__ import annotations

import os
import signal
import time
from threading import Lock

import pytest

from diffad_ray.read_ahead import read_ahead


def test_results_come_in_order_and_few_wait() -> None:
    started, lock = [], Lock()

    def read(item: int) -> int:
        with lock:
            started.append(item)
        time.sleep(0.01 * (item % 3))
        return item**2

    found = []
    for result in read_ahead(read, range(20), readers=4):
        found.append(result)
        assert len(started) <= len(found) + 4
    assert found == [item**2 for item in range(20)]
    assert list(read_ahead(read, [], readers=4)) == []


def test_an_error_reaches_the_reader() -> None:
    results = read_ahead(lambda item: 1 // item, [1, 0, 1], readers=2)
    assert next(results) == 1
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_one_reader_reads_while_its_last_result_is_worked_on() -> None:
    started, lock = [], Lock()

    def read(item: int) -> int:
        with lock:
            started.append(item)
        return item

    results = read_ahead(read, range(10), readers=1)
    assert next(results) == 0
    deadline = time.monotonic() + 10
    while len(started) < 2 and time.monotonic() < deadline:
        time.sleep(0.005)
    assert started == [0, 1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")
def test_a_forked_process_has_readers_of_its_own() -> None:
    assert list(read_ahead(abs, range(5), readers=2)) == list(range(5))
    child = os.fork()
    if child == 0:
        os._exit(0 if list(read_ahead(abs, range(5), readers=2)) == list(range(5)) else 1)
    deadline = time.monotonic() + 20
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() < deadline:
        time.sleep(0.01)
    if ended == (0, 0):
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert ended == (child, 0)


def test_who_stops_early_leaves_nothing_running() -> None:
    ended, lock = [], Lock()

    def read(item: int) -> int:
        time.sleep(0.02)
        with lock:
            ended.append(item)
        return item

    results = read_ahead(read, range(100), readers=3)
    assert next(results) == 0
    results.close()
    count = len(ended)
    time.sleep(0.1)
    assert len(ended) == count <= 5
