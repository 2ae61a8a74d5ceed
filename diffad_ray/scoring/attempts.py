"""Counts the attempts at each shard, which reveals an image that kills its worker."""

from __future__ import annotations

from collections import Counter
from typing import Any

import ray

SUSPECT_AFTER = 2
"Failed attempts at a shard after which one of its images is suspected. A single one may be due to a lost node."


class _Counter:
    def __init__(self) -> None:
        self.begun: Counter[int] = Counter()

    def begin(self, shard: int) -> int:
        self.begun[shard] += 1
        return self.begun[shard]


class Attempts:
    """A count that all workers share.

    It lasts as long as the job. A run that starts again counts from zero. So does a run whose counter was lost with its
    node, which costs two more attempts.
    """

    def __init__(self) -> None:
        make = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)
        self.counter: Any = make(_Counter).remote()

    def begin(self, shard: int) -> bool:
        """Count an attempt at a shard, and return whether its images must be decoded in a separate process."""
        begun: int = ray.get(self.counter.begin.remote(shard))
        return begun > SUSPECT_AFTER


class NoAttempts(Attempts):
    """Counts nothing, for shards that are scored in this process: an image that kills it is not tried again."""

    def __init__(self) -> None:
        """Start no counter, which would be an actor of Ray."""

    def begin(self, shard: int) -> bool:
        return False
