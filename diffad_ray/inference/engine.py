"""Runs a detector over many images: in batches of one size, results as NumPy arrays."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from diffad_ray.detectors.base import Scorer
from diffad_ray.inference.runtimes import runtime_of
from diffad_ray.tensors import as_unit_tensor

if TYPE_CHECKING:
    from diffad_ray.inference.views import ImageDetection


class BatchDetection(NamedTuple):
    """`Detection` of up to a batch of images, on the host, float32."""

    score: np.ndarray
    "[N]"
    anomaly_map: np.ndarray
    "[N,H,W]"
    reconstruction: np.ndarray | None
    "[N,H,W,3] in [0, 1]; None where the detector imagines nothing"


class Engine:
    """A detector on a device, ready to score.

    Every batch that the networks see has the same size, the last one filled up with black images: kernels round
    differently for different batch sizes, and an image's score must not depend on its neighbours.

    Args:
        detector: moved to `device`.
        batch_size: squares at a time; by default as the detector's settings say, which all that score an image must
            take. Another number is for trials.

    Raises:
        UserError: the device can't run the detector as its settings say, see `require_runnable`.
    """

    def __init__(self, detector: Scorer, device: torch.device | str = "cpu", batch_size: int | None = None):
        self.device = torch.device(device)
        self.batch_size = batch_size or detector.settings.batch_on(self.device)
        self.detector = detector.to(self.device).eval()
        # As the training settled it: another runtime, precision or memory format would round a score otherwise.
        self.runtime = runtime_of(self.detector, self.device, self.batch_size)

    def detect(self, pixels: np.ndarray) -> Iterator[BatchDetection]:
        """Detect in images [N,H,W,3], uint8 or uint16, batch by batch in their order."""
        for start in range(0, len(pixels), self.batch_size):
            batch = pixels[start : start + self.batch_size]
            count = len(batch)
            if count < self.batch_size:
                batch = np.concatenate([batch, np.zeros((self.batch_size - count, *batch.shape[1:]), batch.dtype)])
            found = self.runtime.run(as_unit_tensor(batch).to(self.device))
            score, anomaly_map = (part[:count].float().cpu().numpy() for part in (found.score, found.anomaly_map))
            restored = None
            if found.reconstruction is not None:
                restored = found.reconstruction[:count].float().cpu().permute(0, 2, 3, 1).numpy()
            yield BatchDetection(score, anomaly_map, restored)

    def detect_images(self, images: Iterable[np.ndarray], with_reconstruction: bool = True) -> Iterator[ImageDetection]:
        """Detect in images [H,W,3] of any sizes and depths, uint8 or uint16, one by one in their order.

        Images are viewed as the detector's settings say. Their squares share batches, and an image is only taken when a
        batch has room for it, so no more of them are in memory than a batch holds and the detections they wait for.

        Args:
            images: whole images; they may be read while the detection goes on.
            with_reconstruction: false saves the time and memory of blending reconstructions nobody looks at.

        Raises:
            ImageError: an image is too small. Detections still on their way are lost with it, so whoever wants to go on
                asks `images.check_side` before handing an image over.
        """
        # Here and not above, so that training and scoring of ready batches need no OpenCV.
        from diffad_ray.images import same_depth
        from diffad_ray.inference.views import Assembly, grid_of, pieces

        settings = self.detector.settings
        in_flight: deque[Assembly] = deque()

        def squares() -> Iterator[np.ndarray]:
            for pixels in images:
                cut = pieces(pixels, settings)
                grid = grid_of(pixels.shape[0], pixels.shape[1], settings)
                in_flight.append(Assembly(grid, with_reconstruction))
                yield from cut

        upcoming = squares()
        while batch := list(islice(upcoming, self.batch_size)):
            (found,) = self.detect(same_depth(batch))
            restored = [None] * len(batch) if found.reconstruction is None else found.reconstruction
            for square in zip(found.score, found.anomaly_map, restored, strict=True):
                if detection := in_flight[0].add(*square):
                    in_flight.popleft()
                    yield detection


def default_device() -> torch.device:
    """The first GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
