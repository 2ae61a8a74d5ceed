"""From the bytes of an image to its answer, by the functions that score archives."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from diffad_ray.images import IN_FULL, Decoding, ImageError, check_side, network_input
from diffad_ray.images.quality import Quality
from diffad_ray.inference.verdict import Verdict, verdict
from diffad_ray.inference.views import ImageDetection, decoding_of
from diffad_ray.scoring.isolated import IsolatedDecoder
from diffad_ray.scoring.load import decode
from diffad_ray.serving.detectors import LoadedDetector
from diffad_ray.serving.refusals import Refused
from diffad_ray.serving.thresholds import InForce
from diffad_ray.table.decisions import Decision, decision_on

PROBE = cv2.imencode(".png", np.zeros((16, 16), np.uint8))[1].tobytes()
"The first image of a process that decodes."


class Prepared(NamedTuple):
    """A decoded image.

    Attributes:
        mode: depth and channels as found in the file.
        view: [H,W,3] what the engine takes: the network's square, or the whole image for a detector that sees tiles.
        pixels: [H,W,3] the whole image, where pictures of it are wanted.
    """

    width: int
    height: int
    mode: str
    quality: Quality
    view: np.ndarray
    pixels: np.ndarray | None


@dataclass(frozen=True)
class Answer:
    """What is said of an image.

    Attributes:
        name, fingerprint: of the detector that answered.
        verdict: score, tail probability, threshold in force, regions and mask.
        decision: on the image, in the words of the tables.
        detection: the anomaly map, and the reconstruction where it was wanted.
    """

    name: str
    fingerprint: str
    image: Prepared
    detection: ImageDetection
    verdict: Verdict
    decision: Decision


class Decoders:
    """Threads, each with a process of its own that decodes: an image that kills its decoder costs its own answer.

    Args:
        seconds: for one image.
    """

    def __init__(self, count: int, max_pixels: int, seconds: float):
        self.max_pixels = max_pixels
        self._free = [IsolatedDecoder(max_pixels, timeout=seconds) for _ in range(count)]
        self._all = list(self._free)
        self._lock = threading.Lock()
        self.threads = ThreadPoolExecutor(count, "decode")

    def prepare(self, data: bytes, detector: LoadedDetector, keep_pixels: bool) -> Prepared:
        """Decode an image as the detector takes it; to be called in `threads`.

        Raises:
            Refused: with the status and the reason that scoring writes.
        """
        settings = detector.bundle.detector.settings
        with self._lock:
            decoder = self._free.pop()
        try:
            image = decode(data, self.max_pixels, decoding_of(settings), decoder)
            picture = image.pixels
            if keep_pixels and settings.reduced_jpeg and image.pixels is not None:
                # What is drawn for people is drawn at the size of the image.
                picture = decode(data, self.max_pixels, Decoding(settings.white), decoder).pixels
        finally:
            with self._lock:
                self._free.append(decoder)
        if image.pixels is None or image.mode is None or image.quality is None:
            raise Refused.of_image(image.status, image.error or "")  # type: ignore[arg-type]
        assert image.width is not None
        assert image.height is not None
        try:
            check_side(image.pixels)
            view = image.pixels if settings.view == "tiles" else network_input(image.pixels, settings.image_size)
        except ImageError as error:
            raise Refused.of_image(error.status, str(error)) from error
        return Prepared(image.width, image.height, image.mode, image.quality, view, picture if keep_pixels else None)

    def warm(self) -> None:
        """Start all processes, by a decoding in each."""
        for decoder in self._all:
            decode(PROBE, self.max_pixels, IN_FULL, decoder)

    def close(self) -> None:
        self.threads.shutdown(wait=True, cancel_futures=True)
        for decoder in self._all:
            decoder.close()


def judged(detector: LoadedDetector, image: Prepared, detection: ImageDetection, in_force: InForce) -> Answer:
    """Return the answer for an image, by the same verdict that scoring writes and the decision that tables show."""
    bundle = detector.bundle
    size = image.width, image.height
    found = verdict(detection.score, detection.anomaly_map, size, bundle.calibration, in_force.reject)
    decision = decision_on(detection.score, in_force.reject, in_force.review)
    return Answer(detector.name, bundle.fingerprint, image, detection, found, decision)
