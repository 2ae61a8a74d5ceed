"""What a run exports to Prometheus through Ray: images, seconds, bytes and requests, counted where the work is done.

Each worker counts once a shard, so that counting costs nothing that can be measured. Ray adds the prefix `ray_` to the
names, `_total` to those of counters, and labels with the node and the worker. `cluster/grafana.json` shows the figures.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Iterable
from functools import cache
from typing import Literal

from ray.util.metrics import Counter, Gauge

from diffad_ray import storage

Stage = Literal["fetch", "decode", "detect", "commit"]
IMAGES, SECONDS, BYTES = "diffad_ray_images", "diffad_ray_stage_seconds", "diffad_ray_read_bytes"
RETRIES, SLOW_DOWNS, PENDING = "diffad_ray_retries", "diffad_ray_slow_downs", "diffad_ray_pending_shards"
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


def set_pending(shards: int) -> None:
    """State how many shards of the run are not done yet; the driver calls it."""
    _pending().set(shards)


@cache
def _counter(name: str) -> Counter:
    description, tags = _COUNTERS[name]
    return Counter(name, description, tags)


@cache
def _pending() -> Gauge:
    return Gauge(PENDING, "Shards of the run that are not done yet.")
