"""Runtimes: the libraries that compute a detector's networks, behind one interface.

Which of them scores belongs to the detector's settings, because each rounds in its own way. GPUs always take torch.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Protocol

import torch
from torch import Tensor

from diffad_ray.detectors.base import Detection, DetectorSettings, Scorer
from diffad_ray.detectors.judged import JudgedDetector
from diffad_ray.errors import UserError
from diffad_ray.familiarity.onnx_network import require_onnxruntime
from diffad_ray.inference.processor import has_bfloat16

MOST_CALLS = 16
"Calls of the networks that are put into one graph; more would take minutes to convert."


class Runtime(Protocol):
    """Computes the detections of batches of one size."""

    def run(self, images: Tensor) -> Detection:
        """Detect in images [N,3,S,S] in [0, 1], float32, on the runtime's device; N is always the same."""

    def __str__(self) -> str:
        """Return how the networks run, as the records of scoring state it."""


class TorchRuntime:
    """The detector's own modules, in its mode."""

    def __init__(self, detector: Scorer):
        self.detector = detector

    def run(self, images: Tensor) -> Detection:
        return self.detector.detect(self.detector.mode.laid_out(images))

    def __str__(self) -> str:
        return str(self.detector.mode)


def has_openvino() -> bool:
    return find_spec("openvino") is not None


def fits_openvino(settings: DetectorSettings) -> bool:
    """Whether the networks of a detector can be one graph: it has some, and they are called few times an image."""
    return 0 < settings.network_calls <= MOST_CALLS


def require_openvino(settings: DetectorSettings, device: torch.device) -> None:
    """Refuse OpenVINO where it can't be settled for a detector.

    Raises:
        UserError: it is not installed, does not fit the detector's networks, or the device is no CPU.
    """
    if device.type != "cpu":
        raise UserError(
            "the runtime openvino was asked for, which is for CPUs, and this machine has a GPU: take auto here, and "
            "`diffad-ray tune` the detector on a machine without GPUs"
        )
    if not fits_openvino(settings):
        raise UserError(
            f"the runtime openvino takes networks that are called 1 to {MOST_CALLS} times an image: take auto"
        )
    if not has_openvino():
        raise UserError("the runtime openvino was asked for and is not installed: `pip install 'diffad-ray[cpu]'`")


def require_runnable(settings: DetectorSettings, device: torch.device) -> None:
    """Refuse a detector that a device can't run as its settings say.

    Raises:
        UserError: a package or the units for its precision are missing.
    """
    if settings.needs_onnxruntime:
        require_onnxruntime()
    if settings.precision == "bfloat16" and not has_bfloat16(device):
        raise UserError(
            "the detector scores in bfloat16, and this processor has no units for it (avx512_bf16, amx_bf16), so that "
            "an image would take many times as long. Take another machine, or make a detector that scores in float32 "
            "by `diffad-ray tune DETECTOR --precision float32`"
        )
    if settings.runtime == "openvino" and device.type == "cpu" and not has_openvino():
        raise UserError(
            "the detector scores by OpenVINO, which is not installed here: install it by "
            "`pip install 'diffad-ray[cpu]'`, or make a detector that scores by torch by "
            "`diffad-ray tune DETECTOR --runtime torch`"
        )


def runtime_of(detector: Scorer, device: torch.device, batch: int) -> Runtime:
    """Prepare the runtime that a detector's settings name; its detections are the detector's own up to rounding.

    Args:
        detector: on `device`.
        batch: images at a time.

    Raises:
        UserError: the device can't run it.
    """
    settings = detector.settings
    require_runnable(settings, device)
    if settings.runtime == "openvino" and device.type == "cpu" and fits_openvino(settings):
        # Only here, because torch alone is enough for all other detectors.
        from diffad_ray.inference.openvino_runtime import OpenVINORuntime

        assert isinstance(detector, JudgedDetector)
        return OpenVINORuntime(detector, batch)
    return TorchRuntime(detector.run_in(settings.mode))
