"""What a run exports to Prometheus through Ray: images, seconds, bytes and requests, counted where the work is done.

Each worker counts once a shard, so that counting costs nothing that can be measured. Ray adds the prefix `ray_` to the
names, `_total` to those of counters, and labels with the node and the worker. `cluster/grafana.json` shows the figures.
"""

from __future__ import annotations

import threading
from collections import Counter as Tally
from collections.abc import Iterable
from functools import cache
from types import TracebackType
from typing import Literal, Self

from ray.util.metrics import Counter, Gauge

from diffad_ray import storage

Stage = Literal["fetch", "decode", "detect", "commit"]
IMAGES, SECONDS, BYTES = "diffad_ray_images", "diffad_ray_stage_seconds", "diffad_ray_read_bytes"
RETRIES, SLOW_DOWNS, PENDING = "diffad_ray_retries", "diffad_ray_slow_downs", "diffad_ray_pending_shards"
SECONDS_BETWEEN_SETS = 5.0
_COUNTERS: dict[str, tuple[str, tuple[str, ...]]] = {
    IMAGES: ("Images whose rows were written.", ("status",)),
    SECONDS: ("Seconds spent in a stage, of all threads and processes together.", ("stage",)),
    BYTES: ("Bytes of image files that were read.", ()),
    RETRIES: ("Requests to stores that were repeated.", ()),
    SLOW_DOWNS: ("Answers of stores that ask to slow down.", ()),
}


def add_images(statuses: Iterable[str]) -> None:
    """Count rows that were written, by their status."""
    for status, count in Tally(statuses).items():
        _counter(IMAGES).inc(count, {"status": status})


def add_seconds(stage: Stage, seconds: float) -> None:
    """Count wall-clock seconds of a stage. Several threads that fetch at once count each."""
    if seconds > 0:
        _counter(SECONDS).inc(seconds, {"stage": stage})


def add_bytes(count: int) -> None:
    """Count bytes of image files."""
    if count:
        _counter(BYTES).inc(count)


def add_requests() -> None:
    """Count what this process repeated, and was asked to slow down, since the last call."""
    for name, count in zip((RETRIES, SLOW_DOWNS), storage.take_counts(), strict=True):
        if count:
            _counter(name).inc(count)


class Pending:
    """States how many shards of a run are not done yet, as long as the block lasts; the driver's.

    Ray forgets a gauge that was not set for 20 seconds, and a shard may take longer, so a thread sets it again.
    """

    def __init__(self, shards: int):
        self.left = shards
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._repeat, daemon=True, name="pending shards")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def done(self) -> None:
        """One shard less is left."""
        self.left -= 1

    def _repeat(self) -> None:
        while not self._ended.is_set():
            _gauge().set(self.left)
            self._ended.wait(SECONDS_BETWEEN_SETS)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        _gauge().set(self.left)


@cache
def _counter(name: str) -> Counter:
    description, tags = _COUNTERS[name]
    return Counter(name, description, tags)


@cache
def _gauge() -> Gauge:
    return Gauge(PENDING, "Shards of the run that are not done yet.")
