"""What tests of object stores share: names that should be no trouble, the faulty proxy's settings, threads."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from faulty_proxy import FaultyProxy

from diffad_ray import storage
from diffad_ray.settings import build
from diffad_ray.storage import StorageSettings

NAMES = ["a.png", "deep/er/b.png", "with space.png", "per%20cent.png", "hash#1.png", "ümlaut.png", "que?ry.png"]


def through(proxy: FaultyProxy, **settings: object) -> None:
    """Send all requests for S3 through the proxy."""
    values = {"s3": {"endpoint_url": proxy.url}, "attempts": 10, **settings}
    storage.configure(build(StorageSettings, values, "storage"))


def in_threads(function: Callable[[int], object], count: int) -> list[object]:
    """Results of many calls at the same time, in order."""
    with ThreadPoolExecutor(16) as pool:
        return list(pool.map(function, range(count)))
