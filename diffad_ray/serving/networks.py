"""The one thread of a replica in which networks run: it forms batches of the images that wait, and only of these."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np

from diffad_ray.inference.engine import Engine
from diffad_ray.inference.views import ImageDetection, grid_of

log = logging.getLogger(__name__)
LINGER_SHARE = 0.05
"""Of the time of a batch: how long the next one waits for the clients of the last one to come back, if others wait
already and don't fill it. Without it, the clients of a closed loop would fall into two groups, each of which waits for
the other's batch. An image that comes alone never waits."""
STUCK_SECONDS = 600.0
"A batch that takes so long will never end."


@dataclass(eq=False)
class _Job:
    engine: Engine
    pixels: np.ndarray
    with_reconstruction: bool
    squares: int
    found: Future[Detected] = field(default_factory=Future)
    came: float = field(default_factory=time.perf_counter)


@dataclass(frozen=True)
class Detected:
    """A detection, the seconds that its image waited for its batch, and those that the batch took."""

    detection: ImageDetection
    waited: float
    took: float


class Networks:
    """Runs engines, one batch at a time.

    Args:
        learn: is told, in the thread, how many seconds an image of each batch took.
    """

    def __init__(self, learn: Callable[[float], None] = lambda seconds: None):
        self.learn = learn
        self.batches: deque[int] = deque(maxlen=1000)
        self._waiting: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._ended = False
        self._began: float | None = None
        self._thread = threading.Thread(target=self._run, name="networks", daemon=True)
        self._thread.start()

    async def detect(self, engine: Engine, pixels: np.ndarray, with_reconstruction: bool = False) -> Detected:
        """Detect in an image [H,W,3]; if the caller is cancelled, an image that still waits is dropped."""
        settings = engine.detector.settings
        grid = grid_of(pixels.shape[0], pixels.shape[1], settings)
        job = _Job(engine, pixels, with_reconstruction, len(grid.rows) * len(grid.columns))
        with self._changed:
            if self._ended:
                raise RuntimeError("the networks have ended")
            self._waiting.append(job)
            self._changed.notify()
        try:
            return await asyncio.wrap_future(job.found)
        except asyncio.CancelledError:
            with self._changed:
                if job in self._waiting:
                    self._waiting.remove(job)
            raise

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def problem(self) -> str | None:
        """Return why no image will be detected any more; None while all is well."""
        if not self._thread.is_alive():
            return "the thread of the networks has ended"
        if self._began is not None and time.perf_counter() - self._began > STUCK_SECONDS:
            return f"a batch has been running for more than {STUCK_SECONDS:.0f} s"
        return None

    def close(self) -> None:
        """End the thread after the batch that runs now."""
        with self._changed:
            self._ended = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        expected, linger = 0, 0.0
        while jobs := self._next_batch(expected, linger):
            self._began = start = time.perf_counter()
            try:
                self._detect(jobs, start)
            except Exception as error:
                log.exception("a batch of %d images failed", len(jobs))
                for job in jobs:
                    if not job.found.done():
                        job.found.set_exception(error)
            self._began = None
            took = time.perf_counter() - start
            self.batches.append(len(jobs))
            self.learn(took / len(jobs))
            waiting, full = len(self._waiting), jobs[0].engine.batch_size
            expected, linger = (min(waiting + len(jobs), full), LINGER_SHARE * took) if waiting else (0, 0.0)
            del jobs

    def _detect(self, jobs: list[_Job], start: float) -> None:
        engine = jobs[0].engine
        images = (job.pixels for job in jobs)
        with_reconstruction = any(job.with_reconstruction for job in jobs)
        for job, detection in zip(jobs, engine.detect_images(images, with_reconstruction), strict=True):
            job.found.set_result(Detected(detection, start - job.came, time.perf_counter() - start))

    def _next_batch(self, expected: int, linger: float) -> list[_Job]:
        """Return the next images of one engine; empty once the end has come."""
        with self._changed:
            deadline = time.perf_counter() + linger
            while not self._ended and len(self._waiting) < expected:
                if (left := deadline - time.perf_counter()) <= 0:
                    break
                self._changed.wait(left)
            while True:
                while not self._waiting and not self._ended:
                    self._changed.wait()
                if self._ended:
                    for job in self._waiting:
                        job.found.cancel()
                    return []
                if jobs := self._taken():
                    return jobs

    def _taken(self) -> list[_Job]:
        """Take the first image that waits, and those of the same engine that fit into its batch."""
        jobs: list[_Job] = []
        squares = 0
        for job in list(self._waiting):
            if jobs and (job.engine is not jobs[0].engine or squares + job.squares > job.engine.batch_size):
                continue
            self._waiting.remove(job)
            if job.found.set_running_or_notify_cancel():
                jobs.append(job)
                squares += job.squares
        return jobs
