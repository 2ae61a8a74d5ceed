"""A replica: takes images, and answers with what its detectors say of them. It knows neither HTTP nor Ray."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from functools import partial
from typing import TypeVar

import torch
from prometheus_client.core import Metric

from diffad_ray.cluster import cores
from diffad_ray.errors import UserError
from diffad_ray.inference.engine import default_device
from diffad_ray.serving.admission import Admission
from diffad_ray.serving.detectors import Detectors, LoadedDetector
from diffad_ray.serving.judging import Answer, Decoders, Prepared, judged
from diffad_ray.serving.networks import Networks
from diffad_ray.serving.observation import Metrics, Record
from diffad_ray.serving.places import checked_prefixes
from diffad_ray.serving.refusals import Refused
from diffad_ray.serving.settings import ServingSettings
from diffad_ray.serving.thresholds import Thresholds
from diffad_ray.serving.tokens import Scope, authorised, read_tokens

log = logging.getLogger(__name__)
LARGE_IMAGES = 4
"Whole images that are in memory at the same time, for tiles or for pictures of them."
T = TypeVar("T")
of_process: list[Service] = []
"""The service of a Ray Serve replica, for the function that builds its application. It is here and not beside that
function, because Ray pickles a deployment's module by value, and each copy would have its own."""


class Service:
    """The detectors of a replica behind a bounded queue; used in one event loop.

    Args:
        settings: must name a detector.

    Raises:
        UserError: the settings can't be served so.
    """

    def __init__(self, settings: ServingSettings):
        if not settings.detectors:
            raise UserError("no detector is given: name one, as in `diffad-ray serve detectors/part`")
        self.settings = settings
        self.clients = read_tokens(settings.tokens_file)
        if not self.clients and not settings.loopback_only:
            raise UserError(
                "a port that others can reach needs tokens: set DIFFAD_RAY_TOKENS or serving.tokens_file, or bind to "
                "127.0.0.1 and set serving.loopback_only"
            )
        self.prefixes = checked_prefixes(settings.prefixes)
        device = default_device()
        if device.type == "cpu":
            torch.set_num_threads(threads_of(settings))
        self.admission = Admission(settings.places, settings.waiting_bytes)
        self.metrics = Metrics()
        self.networks = Networks(self._learn)
        self.decoders = Decoders(settings.decoders, settings.max_pixels, settings.decode_seconds)
        self.detectors = Detectors(settings.detectors, self.networks, device, settings.detector_bytes)
        self.thresholds = Thresholds(settings)
        self.gather: Callable[[], Awaitable[dict[str, list[Metric]]]] = self._own_metrics
        self._large = asyncio.Semaphore(LARGE_IMAGES)
        self._tasks: list[asyncio.Task[None]] = []
        self.not_ready = "no detector has answered yet"

    async def start(self) -> None:
        """Read the thresholds, load the first detector, or all, and let each detect in an image; then look for new
        bundles and thresholds from time to time. What can't be read leaves the replica alive and not ready."""
        await asyncio.to_thread(self.decoders.warm)
        await self.thresholds.read()
        for name in self.settings.detectors if self.settings.preload else list(self.settings.detectors)[:1]:
            await self._try(name)
        self._tasks.append(asyncio.create_task(self._refresh()))

    async def _try(self, name: str) -> None:
        try:
            await self.detectors.get(name)
            self.not_ready = ""
        except Refused:
            self.not_ready = self.detectors.problems[name]

    async def _refresh(self) -> None:
        while True:
            await asyncio.sleep(self.settings.refresh_seconds)
            if self.not_ready:
                for name in self.settings.detectors:
                    await self._try(name)
                    if not self.not_ready:
                        break
            await self.detectors.refresh()
            await self.thresholds.read()

    def authorised(self, authorization: str | None, scope: Scope) -> str:
        """Return the name of the client that sends a header `Authorization`; see `tokens.authorised`."""
        return authorised(self.clients, authorization, scope)

    async def score(
        self, name: str, data: bytes, record: Record, with_pixels: bool = False, with_reconstruction: bool = False
    ) -> tuple[Answer, LoadedDetector]:
        """Return the answer of a detector for the bytes of an image file, within the time of a request.

        Args:
            record: notes the stages.
            with_pixels: keep the image for pictures of it.

        Raises:
            Refused: there is no such detector, or no answer for this image.
        """
        try:
            async with asyncio.timeout(self.settings.request_seconds):
                detector = await self.detectors.get(name)
                record.fingerprint = detector.bundle.fingerprint
                whole = with_pixels or detector.bundle.detector.settings.view == "tiles"
                async with self._large if whole else nullcontext():
                    with record.stage("decode"):
                        image = await self._decoded(self.decoders.prepare, data, detector, with_pixels)
                    answer = await self._answered(detector, image, record, with_reconstruction)
        except TimeoutError:
            seconds = self.settings.request_seconds
            raise Refused(504, f"there was no answer within {seconds:g} s", retry_after=1) from None
        record.decision = answer.decision
        return answer, detector

    async def _answered(
        self, detector: LoadedDetector, image: Prepared, record: Record, with_reconstruction: bool
    ) -> Answer:
        found = await self.networks.detect(detector.engine, image.view, with_reconstruction)
        record.seconds["wait"], record.seconds["detect"] = found.waited, found.took
        with record.stage("judge"):
            in_force = self.thresholds.of(detector.bundle)
            return await asyncio.to_thread(judged, detector, image, found.detection, in_force)

    async def _decoded(self, function: Callable[..., T], *arguments: object) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.decoders.threads, partial(function, *arguments))

    def _learn(self, seconds: float) -> None:
        self.admission.learn(seconds)
        self.metrics.batches.observe(self.networks.batches[-1])

    def readiness(self) -> str:
        """Return why this replica should get no requests now; empty if it should."""
        if self.admission.is_closed:
            return "the server shuts down"
        return self.networks.problem() or self.thresholds.not_ready() or self.not_ready

    async def _own_metrics(self) -> dict[str, list[Metric]]:
        return {"0": self.families()}

    def families(self) -> list[Metric]:
        """Return the metrics of this replica, as of now."""
        self.metrics.places.set(self.admission.taken)
        self.metrics.held.set(sum(detector.bytes for detector in self.detectors.held.values()))
        self.metrics.swaps.set(self.detectors.swaps)
        self.metrics.thresholds_age.set(self.thresholds.age)
        return self.metrics.families()

    async def drain(self, seconds: float) -> bool:
        """Take no more requests, and wait for the answers of those that are here; whether all got theirs."""
        self.admission.is_closed = True
        deadline = asyncio.get_running_loop().time() + seconds
        while self.admission.taken and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.02)
        return not self.admission.taken

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.detectors.close()
        await asyncio.to_thread(self.networks.close)
        await asyncio.to_thread(self.decoders.close)


MOST_REPLICAS = 8


def replicas_of(settings: ServingSettings, gpus: int, processors: int) -> int:
    """Return how many processes hold detectors: one a GPU, or one a core up to 8."""
    return settings.replicas or gpus or max(1, min(processors, MOST_REPLICAS))


def threads_of(settings: ServingSettings) -> int:
    """Threads of a replica's networks on a CPU: its share of the cores."""
    return settings.threads or max(1, cores() // replicas_of(settings, 0, cores()))
