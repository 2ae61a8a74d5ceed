"""Requests to a store: tried again when they fail in passing, and fewer at once when the store asks for it."""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from diffad_ray.storage.failures import SlowDown, Unavailable
from diffad_ray.storage.settings import StorageSettings

T = TypeVar("T")
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 10.0
"Seconds; each pause is a random share of a span that doubles, so that many workers do not come back all at once."
HALVING_PAUSE = 1.0
"Seconds; what was under way when a store asked to slow down is no reason to do so again."


class Throttle:
    """At most so many requests at once: half as many when the store says slow down, then one more by and by.

    As TCP shares a line (additive increase, multiplicative decrease), all processes of a cluster come to share what
    the store can serve.
    """

    def __init__(self, most: int):
        self.most = self.allowed = most
        self._running = self._successes = 0
        self._halved_at = -math.inf
        self._changed = threading.Condition()

    def __enter__(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._running < self.allowed)
            self._running += 1

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        with self._changed:
            self._running -= 1
            if isinstance(error, SlowDown):
                self._halve()
            elif error is None:
                self._grow()
            self._changed.notify(2)

    def _halve(self) -> None:
        now = time.monotonic()
        if now - self._halved_at >= HALVING_PAUSE:
            self.allowed, self._successes, self._halved_at = max(1, self.allowed // 2), 0, now

    def _grow(self) -> None:
        self._successes += 1
        if self.allowed < self.most and self._successes >= self.allowed:
            self.allowed, self._successes = self.allowed + 1, 0


class Requests:
    """Does the requests of a process."""

    def __init__(self, settings: StorageSettings):
        self.attempts = settings.attempts
        self.throttle = Throttle(settings.requests)
        self._random = random.Random()

    def run(self, request: Callable[[], T]) -> T:
        """The request's answer, or what its last attempt raises; it must not run another request inside."""
        for attempt in range(self.attempts - 1):
            try:
                with self.throttle:
                    return request()
            except (Unavailable, TimeoutError):
                time.sleep(self._random.uniform(0, min(LONGEST_PAUSE, FIRST_PAUSE * 2**attempt)))
        with self.throttle:
            return request()
