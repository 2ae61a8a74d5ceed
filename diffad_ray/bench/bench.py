"""The benchmark of a machine, and of a detector on it."""

from __future__ import annotations

import platform
from dataclasses import dataclass, field

import torch

from diffad_ray.bench.peaks import Peaks, peaks_of
from diffad_ray.bench.stages import Stage, stages_of
from diffad_ray.detectors.judged import JudgedDetector
from diffad_ray.inference.engine import default_device
from diffad_ray.inference.processor import processor_name


@dataclass(frozen=True)
class Bench:
    """What a machine can do at most, and what a detector reaches on it.

    Attributes:
        device: name of the processor or GPU.
        threads: that computed; 0 on a GPU.
        detector: name and way of scoring; empty without a detector.
        stages: of a detection; empty without a detector.
    """

    device: str
    threads: int
    versions: dict[str, str]
    peaks: Peaks
    detector: str = ""
    stages: list[Stage] = field(default_factory=list)


def bench(detector: str | None = None, *, threads: int = 1) -> Bench:
    """Measure this machine, and a detector on it, on the first GPU if there is one.

    Args:
        detector: folder or URI of a bundle; None measures the machine alone.
        threads: of torch on a CPU. One is what an actor of scoring has, which takes one core.

    Raises:
        UserError: there is no such bundle, or this machine can't run it.
    """
    device = default_device()
    torch.set_num_threads(threads)
    peaks = peaks_of(device)
    name, stages = "", list[Stage]()
    if detector is not None:
        # Only here, so that a machine can be measured where torch alone is installed.
        from diffad_ray.bundles.bundle import load_bundle

        bundle = load_bundle(detector)
        assert isinstance(bundle.detector, JudgedDetector)
        stages = stages_of(bundle.detector, device, peaks)
        settings = bundle.detector.settings
        name = f"{bundle.name} {bundle.fingerprint}, {settings.precision} by {settings.runtime}"
    is_cpu = device.type == "cpu"
    return Bench(
        device=processor_name() if is_cpu else torch.cuda.get_device_name(device),
        threads=threads if is_cpu else 0,
        versions={"python": platform.python_version(), "torch": torch.__version__},
        peaks=peaks,
        detector=name,
        stages=stages,
    )
