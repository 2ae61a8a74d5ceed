"""Retries of temporarily failed requests to stores, and adaptive limits of concurrency."""

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
"Seconds. Pauses are uniform in [0, s], and s doubles from the first to the second; so workers do not retry in step."
HALVING_PAUSE = 1.0
"Seconds between two halvings; requests in flight at the first one are no reason for another."


class Counts:
    """Counts repeated requests and requests to slow down, of all threads of this process, until they are taken."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._retries = self._slow_downs = 0

    def add(self, error: OSError) -> None:
        """Count a request that failed and is repeated."""
        with self._lock:
            self._retries += 1
            self._slow_downs += isinstance(error, SlowDown)

    def take(self) -> tuple[int, int]:
        """Return the repeated requests, and those of them that a store asked to slow down, since the last call."""
        with self._lock:
            taken = self._retries, self._slow_downs
            self._retries = self._slow_downs = 0
        return taken


class Throttle:
    """Limits concurrent requests: halves the limit when the store asks to slow down, then raises it in steps of one.

    By additive increase and multiplicative decrease, as in TCP, the processes of a cluster share the store's capacity.
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
    """Runs the requests of a process with retries and a throttle."""

    def __init__(self, settings: StorageSettings):
        self.attempts = settings.attempts
        self.throttle = Throttle(settings.requests)
        self.counts = Counts()
        self._random = random.Random()

    def run(self, request: Callable[[], T]) -> T:
        """Run a request and return its result, or raise the error of the last attempt.

        A request must not run another one inside, since both would occupy the throttle.
        """
        for attempt in range(self.attempts - 1):
            try:
                with self.throttle:
                    return request()
            except (Unavailable, TimeoutError) as error:
                self.counts.add(error)
                time.sleep(self._random.uniform(0, min(LONGEST_PAUSE, FIRST_PAUSE * 2**attempt)))
        with self.throttle:
            return request()
