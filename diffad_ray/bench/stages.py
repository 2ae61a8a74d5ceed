"""The stages of a detection: what each computes and moves, and how long it takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from diffad_ray.bench.peaks import Peaks
from diffad_ray.detectors.base import Precision
from diffad_ray.detectors.judged import JudgedDetector
from diffad_ray.familiarity.exemplars import unlike_known
from diffad_ray.familiarity.gaussians import unexplained
from diffad_ray.familiarity.normality import residuals
from diffad_ray.inference.acceleration import least_seconds
from diffad_ray.inference.engine import Engine
from diffad_ray.tensors import as_unit_tensor

NETWORKS = ("generator", "denoiser", "segmenter")
"Names of the modules whose calls are stages, where a kind has them."
RESIZE, WHOLE = "resize", "whole detection"
RESIZED_SIDE = 256
"Of the image that is resized to what the networks see."


@dataclass(frozen=True)
class Stage:
    """One stage, an image.

    Attributes:
        operations: multiplications and additions of its matrix products and convolutions; others are not counted.
        bytes: of its input, its output, and its share of the weights, all moved once.
        seconds: that it takes.
        floor: seconds that no way of computing it in this precision can undercut, by the peaks of the device.
    """

    name: str
    precision: Precision
    operations: float
    bytes: float
    seconds: float
    floor: float

    @property
    def share(self) -> float:
        """Share of the floor: 1 would be as fast as the device allows."""
        return self.floor / self.seconds


@dataclass(frozen=True)
class _Work:
    """Something to measure: a batch at a time."""

    run: Callable[[], Any]
    precision: Precision
    weights: int = 0


@torch.inference_mode()
def stages_of(detector: JudgedDetector, device: torch.device, peaks: Peaks) -> list[Stage]:
    """Measure the stages of a detector, which run with the threads that torch has; the last one is all of them.

    The networks run in torch, also where the detector scores by OpenVINO; the whole detection runs as scoring does.
    """
    engine = Engine(detector, device)
    side, batch = detector.settings.image_size, engine.batch_size
    pixels = np.random.default_rng(0).integers(0, 256, (batch, side, side, 3), dtype=np.uint8)
    images = detector.mode.laid_out(as_unit_tensor(pixels).to(device))
    works = _resizing(side, batch) | _networks(detector, images) | _familiarity(detector, images)
    seconds = least_seconds(
        {name: work.run for name, work in works.items()} | {WHOLE: lambda: list(engine.detect(pixels))}, device
    )
    found = [_stage(name, work, seconds[name], batch, peaks) for name, work in works.items()]
    # An image is resized before it is detected in.
    parts = [stage for stage in found if stage.name != RESIZE]
    operations, moved, floor = (
        sum(getattr(stage, part) for stage in parts) for part in ("operations", "bytes", "floor")
    )
    return [*found, Stage(WHOLE, detector.settings.precision, operations, moved, seconds[WHOLE] / batch, floor)]


def _resizing(side: int, batch: int) -> dict[str, _Work]:
    # Only here, because a machine is measured without OpenCV too.
    from diffad_ray.images import network_input

    image = np.random.default_rng(0).integers(0, 256, (RESIZED_SIDE, RESIZED_SIDE, 3), dtype=np.uint8)

    def run() -> list[Tensor]:
        return [torch.from_numpy(network_input(image, side)) for _ in range(batch)]

    return {RESIZE: _Work(run, "float32", batch * image.nbytes)}


def _stage(name: str, work: _Work, seconds: float, batch: int, peaks: Peaks) -> Stage:
    with FlopCounterMode(display=False) as counter:
        result = work.run()
    operations = counter.get_total_flops() / batch
    moved = (work.weights + _bytes(result)) / batch
    floor = max(operations / peaks.operations(work.precision), moved / peaks.copy)
    return Stage(name, work.precision, operations, moved, seconds / batch, floor)


def _networks(detector: JudgedDetector, images: Tensor) -> dict[str, _Work]:
    """Return the calls of each network in a detection, to be made again."""
    works: dict[str, _Work] = {}
    for name in NETWORKS:
        network = getattr(detector, name, None)
        if not isinstance(network, nn.Module):
            continue
        calls: list[tuple[Tensor, ...]] = []
        hook = network.register_forward_pre_hook(lambda _, given, calls=calls: calls.append(given))
        detector.evidence(images)
        hook.remove()
        weights = sum(tensor.numel() * tensor.element_size() for tensor in network.parameters()) * len(calls)
        run = partial(_again, detector, network, calls)
        works[name] = _Work(run, detector.mode.precision, weights + sum(_bytes(given) for given in calls))
    return works


def _again(detector: JudgedDetector, network: nn.Module, calls: list[tuple[Tensor, ...]]) -> list[Tensor]:
    with detector.autocast(calls[0][0].device):
        return [network(*given) for given in calls]


def _familiarity(detector: JudgedDetector, images: Tensor) -> dict[str, _Work]:
    familiarity = detector.familiarity
    if not (getattr(detector.settings, "familiarity", 0) and familiarity.is_fitted):
        return {}
    normal = familiarity.normality
    seen = familiarity.describe(images)
    left = unexplained(normal.gaussian, seen)
    found = residuals(normal, seen)
    return {
        "filters": _Work(lambda: familiarity.describe(images), "float32", _bytes(images)),
        "Gaussians": _Work(
            lambda: unexplained(normal.gaussian, seen), "float32", _bytes(seen) + _bytes(normal.gaussian)
        ),
        "nearest examples": _Work(
            lambda: unlike_known(normal.places, seen, left),
            "float32",
            _bytes(seen) + _bytes(left) + _bytes(normal.places),
        ),
        "judge": _Work(lambda: familiarity.strangeness(familiarity.opinions(found)), "float32", _bytes(found)),
    }


def _bytes(tensors: Any) -> int:
    """Return the bytes of a tensor, or of all tensors in a tuple or list."""
    if isinstance(tensors, Tensor):
        return tensors.numel() * tensors.element_size()
    return sum(_bytes(part) for part in tensors) if isinstance(tensors, list | tuple) else 0
