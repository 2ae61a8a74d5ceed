"""Settles how a detector scores: precision, memory format, runtime and batch, by short trials on this machine.

All of it belongs to the detector and its fingerprint, because it changes how scores are rounded.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, get_args

import numpy as np
import torch

from diffad_ray.detectors.base import DTYPES, DetectorSettings, Precision, RuntimeName, Trainable
from diffad_ray.errors import UserError
from diffad_ray.inference.acceleration import least_seconds, preferred
from diffad_ray.inference.engine import Engine
from diffad_ray.inference.processor import has_bfloat16
from diffad_ray.inference.runtimes import fits_openvino, has_openvino, require_openvino

TRIAL_BATCH, BATCHES = 4, (1, 4, 16)
"Squares at a time in the first trial on a CPU, and the numbers of squares of the second one."
WORTHWHILE_GAIN = 1.2
"""Times by which a way must be faster to be chosen instead of one that rounds less coarsely or, since an image that is
served alone costs a whole batch, takes fewer squares at a time."""
COMPARED_SQUARES = 16
LEAST_AGREEMENT = 0.9995
"Correlation of the pixels of anomaly maps of normal squares with those that torch computes in float32."
LEAST_SCORE_AGREEMENT = 0.9999
"""The same of the scores of the squares. If rounding is that small beside the spread of normal scores, the ranks of
images agree as well."""
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class WantedScoring:
    """What is asked for; `auto` and None leave the choice to the trials.

    Attributes:
        precision, runtime: see `DetectorSettings`.
        batch: squares at a time on CPUs.
    """

    precision: Literal["auto"] | Precision = "auto"
    runtime: Literal["auto"] | RuntimeName = "auto"
    batch: int | None = None

    def __post_init__(self) -> None:
        for name, known in (("precision", DTYPES), ("runtime", get_args(RuntimeName))):
            if getattr(self, name) not in ("auto", *known):
                raise UserError(f"{name} {getattr(self, name)!r} is none of auto, {', '.join(known)}")
        if self.batch is not None and self.batch < 1:
            raise UserError(f"a batch of {self.batch} squares can't be: take 1 or more")


def settle(detector: Trainable, wanted: WantedScoring, normals: np.ndarray, device: torch.device) -> None:
    """Set how a detector computes and will score.

    The first trial compares precisions, runtimes and memory formats, the second one, on CPUs, numbers of squares at a
    time. What the processor can't run fast or what is not installed is not tried.

    Args:
        detector: trained but for `fit`, which must measure in the mode that is settled here. It is moved to `device`.
        wanted: bfloat16 without units for it becomes float32.
        normals: [N,S,S,C] squares of normal images, C >= 3, on which maps must agree with those of torch in float32.

    Raises:
        UserError: the runtime that is asked for is not installed, or does not fit the detector.
    """
    detector.to(device).eval()
    chosen = replace(detector.settings, precision="float32", channels_last=False, runtime="torch")
    if wanted.batch is not None:
        chosen = replace(chosen, cpu_batch=wanted.batch)
    if chosen.part_names:
        with _one_thread():
            trials = _Trials(detector, np.ascontiguousarray(normals[:COMPARED_SQUARES, ..., :3]), device)
            chosen = trials.fastest(list(_ways(chosen, wanted, device)), wanted.batch or TRIAL_BATCH)
            if wanted.batch is None and device.type == "cpu":
                chosen = replace(chosen, cpu_batch=trials.batch(chosen))
    detector.settings = chosen
    detector.run_in(chosen.mode)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Give torch one thread, as an actor of scoring has on a CPU."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _ways(exact: DetectorSettings, wanted: WantedScoring, device: torch.device) -> Iterator[DetectorSettings]:
    """Yield the settings to try, in the order of preference."""
    precisions: list[Precision] = ["float32"]
    if has_bfloat16(device) and wanted.precision != "float32":
        precisions = ["bfloat16"] if wanted.precision == "bfloat16" else ["float32", "bfloat16"]
    runtimes: list[RuntimeName] = ["torch"]
    if wanted.runtime == "openvino":
        require_openvino(exact, device)
        runtimes = ["openvino"]
    elif device.type == "cpu" and wanted.runtime == "auto" and has_openvino() and fits_openvino(exact):
        runtimes.append("openvino")
    for precision in precisions:
        for runtime in runtimes:
            for channels_last in (False, True) if runtime == "torch" else (False,):
                yield replace(exact, precision=precision, runtime=runtime, channels_last=channels_last)


class _Trials:
    """Compares ways of scoring, on normal squares [N,S,S,3]."""

    def __init__(self, detector: Trainable, squares: np.ndarray, device: torch.device):
        self.squares, self.device = squares, device
        # A copy for each memory format: to convert the weights between two calls would take part of their time.
        self.copies = {channels_last: copy.deepcopy(detector) for channels_last in (False, True)}

    def fastest(self, ways: list[DetectorSettings], batch: int) -> DetectorSettings:
        """Return the first way, in order of preference, that is about as fast as the fastest one that agrees."""
        if self.device.type != "cpu":
            batch = ways[0].gpu_batch
        engines = {place: self._engine(way, batch) for place, way in enumerate(ways)}
        left = self._seconds(engines)
        exact = self._found(self._engine(replace(ways[0], precision="float32", runtime="torch"), batch))
        while len(left) > 1:
            place = preferred(left, WORTHWHILE_GAIN)
            scores, maps = map(agreement, exact, self._found(engines[place]))
            if scores >= LEAST_SCORE_AGREEMENT and maps >= LEAST_AGREEMENT:
                return ways[place]
            log.info(
                "%s by %s is not taken: correlation %.5f of scores and %.5f of maps with those of torch in float32",
                *(ways[place].precision, ways[place].runtime, scores, maps),
            )
            del left[place]
        return ways[next(iter(left))]

    def batch(self, way: DetectorSettings) -> int:
        """Return the least number of squares at a time that is about as fast an image as the fastest."""
        seconds = self._seconds({batch: self._engine(way, batch) for batch in BATCHES})
        return preferred({batch: seconds[batch] / batch for batch in BATCHES}, WORTHWHILE_GAIN)

    def _engine(self, way: DetectorSettings, batch: int) -> Engine:
        # Shallow: the weights are shared, the settings and the mode are its own.
        variant = copy.copy(self.copies[way.channels_last])
        variant.settings = way
        return Engine(variant, self.device, batch)

    def _seconds(self, engines: dict[int, Engine]) -> dict[int, float]:
        """Return the seconds that a full batch takes each engine."""
        shape = self.squares.shape[1:]

        def run(engine: Engine) -> None:
            list(engine.detect(np.resize(self.squares, (engine.batch_size, *shape))))

        return least_seconds({key: partial(run, engine) for key, engine in engines.items()}, self.device)

    def _found(self, engine: Engine) -> tuple[np.ndarray, np.ndarray]:
        """Return the scores and the anomaly maps of the squares."""
        found = list(engine.detect(self.squares))
        return np.concatenate([one.score for one in found]), np.concatenate([one.anomaly_map for one in found])


def agreement(exact: np.ndarray, found: np.ndarray) -> float:
    """Return the correlation of two arrays of the same shape; 1 where they are equal."""
    if np.array_equal(exact, found):
        return 1.0
    return float(np.corrcoef(exact.ravel(), found.ravel())[0, 1])
