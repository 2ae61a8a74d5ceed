"""Counts how often each shard was begun, so that an image that kills its worker is noticed."""

from __future__ import annotations

from collections import Counter
from typing import Any

import ray

SUSPECT_AFTER = 2
"Attempts that ended without a result. One may be due to a lost node; after two, an image of the shard is suspected."


class _Counter:
    def __init__(self) -> None:
        self.begun: Counter[int] = Counter()

    def begin(self, shard: int) -> int:
        self.begun[shard] += 1
        return self.begun[shard]


class Attempts:
    """A count that all workers share. It lives as long as the job: a run that starts again counts from zero, and so
    does one whose count was lost with its node, which costs two more attempts."""

    def __init__(self) -> None:
        make = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)
        self.counter: Any = make(_Counter).remote()

    def begin(self, shard: int) -> bool:
        """Count an attempt at a shard; true if its images must be decoded with care."""
        begun: int = ray.get(self.counter.begin.remote(shard))
        return begun > SUSPECT_AFTER
