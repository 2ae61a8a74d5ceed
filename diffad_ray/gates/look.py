"""The first look: what a gate computes of an image, fast, instead of a detector."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np
import torch
from torch import Tensor, nn

from diffad_ray.detectors.base import DetectorSettings, Scorer
from diffad_ray.detectors.judged import JudgedDetector
from diffad_ray.familiarity.gaussians import exposed_otherwise, unexplained
from diffad_ray.familiarity.judge import squared_distance
from diffad_ray.familiarity.model import Familiarity, smooth
from diffad_ray.gates.student import SIDE, Student
from diffad_ray.tensors import as_unit_tensor

BATCH = 8
"Squares at a time. A score must not depend on their number, so a gate has one for all machines."


class Look(nn.Module):
    """Scores squares by a student, by the distances from the Gaussians of familiarity, or by both.

    With both, each is standardised by the normal images on which the gate was made, and the larger one counts: a gate
    is sure if both are.

    Args:
        student: None leaves it out.
        familiarity: that of the detector, whose Gaussians are used; None leaves them out.
        usual, spread: [2] median, and 0.9 quantile less median, of the student's and the Gaussians' scores of normal
            images.
    """

    usual: Tensor
    spread: Tensor

    def __init__(self, student: Student | None, familiarity: Familiarity | None, usual: Tensor, spread: Tensor):
        super().__init__()
        assert student is not None or familiarity is not None, "a look needs something to look by"
        self.student, self.familiarity = student, familiarity
        if student is not None:
            student.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.register_buffer("usual", usual.float())
        self.register_buffer("spread", spread.float())
        self.eval()

    @torch.inference_mode()
    def forward(self, images: Tensor) -> Tensor:
        """Return the scores [N] of images [N,3,S,S] in [0,1]; higher is more anomalous."""
        found = []
        if self.student is not None:
            score = self.student(images.contiguous(memory_format=torch.channels_last)).score
            found.append((score - self.usual[0]) / self.spread[0])
        if self.familiarity is not None:
            found.append((farthest(self.familiarity, images) - self.usual[1]) / self.spread[1])
        return torch.stack(found).amax(dim=0)


def gaussians_of(detector: Scorer) -> Familiarity | None:
    """Return the familiarity by whose Gaussians a gate can look: they are fitted, and to Gabor features alone.

    A network would cost what a gate is to save, and its features at the gate's size are not those at the detector's.
    """
    familiarity = detector.familiarity if isinstance(detector, JudgedDetector) else None
    return familiarity if familiarity and familiarity.is_fitted and familiarity.backbone is None else None


def farthest(familiarity: Familiarity, images: Tensor) -> Tensor:
    """Return the largest log distance [N] of a place from its Gaussian, for images [N,3,S,S] in [0,1]."""
    seen, gaussian = familiarity.describe(images), familiarity.normality.gaussian
    left = unexplained(gaussian, seen) * exposed_otherwise(gaussian, seen)[:, None, None, None]
    return smooth(squared_distance(left[:, None])).log().flatten(1).amax(dim=1)


class Gatekeeper:
    """A look on a device, ready for images of any sizes.

    Args:
        look: moved to `device`.
        settings: of the detector, which say how an image is viewed.
    """

    def __init__(self, look: Look, settings: DetectorSettings, device: torch.device | str = "cpu"):
        self.device, self.settings = torch.device(device), settings
        self.side = min(settings.image_size, SIDE)
        self.look = look.to(self.device).eval()

    def squares(self, squares: Iterable[np.ndarray]) -> Iterator[float]:
        """Yield the scores of squares [S,S,3], uint8 or uint16, in their order."""
        from diffad_ray.images import network_input, same_depth

        upcoming = iter(squares)
        while batch := [network_input(square, self.side) for square in islice(upcoming, BATCH)]:
            count = len(batch)
            # Kernels round differently for other numbers of images.
            batch += [np.zeros_like(batch[0])] * (BATCH - count)
            yield from self.look(as_unit_tensor(same_depth(batch)).to(self.device))[:count].tolist()

    def looked_at(self, images: Iterable[np.ndarray]) -> Iterator[tuple[np.ndarray, float]]:
        """Yield images [H,W,3] of any sizes with their scores, in their order: the largest score of an image's tiles.

        Raises:
            ImageError: an image is too small.
        """
        from diffad_ray.inference.views import pieces

        waiting: deque[tuple[np.ndarray, int]] = deque()

        def cut() -> Iterator[np.ndarray]:
            for image in images:
                found = pieces(image, self.settings)
                waiting.append((image, len(found)))
                yield from found

        scores: list[float] = []
        for score in self.squares(cut()):
            scores.append(score)
            if len(scores) == waiting[0][1]:
                yield waiting.popleft()[0], max(scores)
                scores = []
