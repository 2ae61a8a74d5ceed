"""The detectors of a replica: loaded when asked for, within a budget of bytes, replaced when their bundles change."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import OrderedDict, defaultdict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from diffad_ray import storage
from diffad_ray.bundles.bundle import DESCRIPTION, Bundle, load_bundle
from diffad_ray.errors import UserError
from diffad_ray.inference.engine import Engine
from diffad_ray.serving.networks import Networks
from diffad_ray.serving.refusals import Refused
from diffad_ray.serving.settings import ServedDetector

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class LoadedDetector:
    """A detector that is ready to answer; requests that began with it end with it.

    Attributes:
        state: hash of the bundle's description, which changes with the bundle.
        bytes: of its weights.
    """

    name: str
    bundle: Bundle
    engine: Engine
    state: str
    bytes: int


class Detectors:
    """Detectors by name, used in one event loop; bundles are read in a thread.

    Args:
        places: where each detector is.
        networks: run each new detector once before it answers a request.
        most_bytes: weights that are held; the detector that answers now is always held.
    """

    def __init__(self, places: Mapping[str, ServedDetector], networks: Networks, device: torch.device, most_bytes: int):
        self.places, self.networks, self.device, self.most_bytes = dict(places), networks, device, most_bytes
        self.held: OrderedDict[str, LoadedDetector] = OrderedDict()
        self.problems: dict[str, str] = {}
        self.swaps = 0
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._reader = ThreadPoolExecutor(1, "bundles")

    async def get(self, name: str) -> LoadedDetector:
        """Return the detector of a name.

        Raises:
            Refused: 404 for an unknown name, 503 for a bundle that can't be loaded.
        """
        if name not in self.places:
            raise Refused(404, f"no detector is called {name!r} here; GET /detectors lists them")
        if name not in self.held:
            async with self._locks[name]:
                if name not in self.held:
                    try:
                        self._hold(await self._loaded(name))
                    except UserError as error:
                        self.problems[name] = str(error)
                        log.warning("the detector %s can't be loaded: %s", name, error)
                        raise Refused(503, f"the detector {name} can't be loaded now", retry_after=30) from error
        self.held.move_to_end(name)
        return self.held[name]

    async def refresh(self) -> None:
        """Look for new bundles of the detectors that are held. A new one is loaded beside the old one, which answers
        until the new one has; a bundle that is being written or is damaged is left for the next look."""
        loop = asyncio.get_running_loop()
        for name, old in list(self.held.items()):
            try:
                state = await loop.run_in_executor(self._reader, _state, self.places[name].location)
                if state != old.state and name in self.held:
                    self._hold(await self._loaded(name))
                    self.swaps += 1
                    log.info(
                        "detector %s: %s after %s", name, self.held[name].bundle.fingerprint, old.bundle.fingerprint
                    )
            except (UserError, OSError) as error:
                self.problems[name] = str(error)
                log.warning("detector %s stays with %s: %s", name, old.bundle.fingerprint, error)

    def close(self) -> None:
        self._reader.shutdown(wait=False, cancel_futures=True)

    async def _loaded(self, name: str) -> LoadedDetector:
        """Load a detector, and let it detect in an image.

        Raises:
            UserError: there is no bundle, it is damaged, or it has another fingerprint than wanted.
        """
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self._reader, self._read, name)
        side = found.bundle.detector.settings.image_size
        try:
            detected = await self.networks.detect(found.engine, np.zeros((side, side, 3), np.uint8))
        except Exception as error:
            raise UserError(f"the detector {name} can't detect: {type(error).__name__}: {error}") from error
        if not np.isfinite(detected.detection.score):
            raise UserError(f"the detector {name} gives a black image the score {detected.detection.score}")
        return found

    def _read(self, name: str) -> LoadedDetector:
        place = self.places[name]
        try:
            # The state first: a bundle that changes in between is then loaded again at the next look. Without one, to
            # load the bundle says what is missing.
            state = _state(place.location) if storage.exists(f"{place.location}/{DESCRIPTION}") else ""
            bundle = load_bundle(place.location)
        except OSError as error:
            raise UserError(f"the detector at {place.location} can't be read: {error}") from error
        if place.fingerprint not in (None, bundle.fingerprint):
            raise UserError(f"the detector {name} is pinned to {place.fingerprint}, and is {bundle.fingerprint} now")
        tensors = bundle.detector.state_dict().values()
        size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        return LoadedDetector(name, bundle, Engine(bundle.detector, self.device), state, size)

    def _hold(self, found: LoadedDetector) -> None:
        """Hold a detector, and let go of those that were not asked for longest, as the budget says."""
        self.problems.pop(found.name, None)
        self.held[found.name] = found
        self.held.move_to_end(found.name)
        while len(self.held) > 1 and sum(detector.bytes for detector in self.held.values()) > self.most_bytes:
            name, _ = self.held.popitem(last=False)
            log.info("detector %s is let go: the budget is %d bytes", name, self.most_bytes)


def _state(location: str) -> str:
    return hashlib.sha256(storage.read(f"{storage.normalised(location)}/{DESCRIPTION}")).hexdigest()
