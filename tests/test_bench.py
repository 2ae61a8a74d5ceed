"""The benchmark of a machine and a detector: operations and bytes that can be counted by hand, and a readable table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from diffad_ray.bench import peaks
from diffad_ray.bench.peaks import Peaks
from diffad_ray.bench.stages import WHOLE, stages_of
from diffad_ray.bundles.bundle import Bundle
from diffad_ray.cli.application import app
from diffad_ray.detectors.diffusion_ad import DiffusionAD
from diffad_ray.inference import acceleration

RATES = {"float32": 1e12, "bfloat16": 2e12}
PEAKS = Peaks(matrix_product=RATES, convolution={"float32": 5e11, "bfloat16": 5e11}, copy=1e9, decode={})


@pytest.fixture(autouse=True)
def few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceleration, "MOST_ROUNDS", 1)


def test_operations_and_bytes_are_those_of_the_networks(bundle: Bundle) -> None:
    detector = bundle.detector
    assert isinstance(detector, DiffusionAD)
    counted = []

    def count(layer: nn.Module, _: object, output: torch.Tensor) -> None:
        assert isinstance(layer, nn.Conv2d)
        counted.append(2 * output[0].numel() * layer.in_channels * layer.kernel_size[0] * layer.kernel_size[1])

    hooks = [m.register_forward_hook(count) for m in detector.segmenter.modules() if isinstance(m, nn.Conv2d)]
    side = detector.settings.image_size
    pair = torch.zeros((1, 6, side, side))
    detector.segmenter(pair)
    for hook in hooks:
        hook.remove()

    found = {stage.name: stage for stage in stages_of(detector, torch.device("cpu"), PEAKS)}
    parts = ["denoiser", "segmenter", "filters", "Gaussians", "nearest examples", "judge"]
    assert list(found) == ["resize", *parts, WHOLE]
    segmenter = found["segmenter"]
    assert segmenter.operations == sum(counted)
    weights = 4 * sum(parameter.numel() for parameter in detector.segmenter.parameters())
    assert segmenter.bytes == weights / detector.settings.cpu_batch + 4 * (6 + 1) * side**2
    assert segmenter.floor == max(segmenter.operations / 1e12, segmenter.bytes / 1e9)
    assert found[WHOLE].operations == pytest.approx(sum(found[name].operations for name in parts))
    assert all(stage.seconds > 0 for stage in found.values())


def test_the_command_tells_peaks_and_stages(detector: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peaks, "SIDE", {"cpu": 64})
    monkeypatch.setattr(peaks, "CONVOLUTION", {"cpu": (1, 8, 8)})
    monkeypatch.setattr(peaks, "COPIED", {"cpu": 1 << 16})
    said = CliRunner().invoke(app, ["bench", str(detector)])
    assert said.exit_code == 0, said.output
    for word in ("TFLOP/s", "GB/s", "decode JPEG", "nearest examples", WHOLE):
        assert word in said.output
    told = CliRunner().invoke(app, ["bench", "--json"])
    found = json.loads(told.stdout)
    assert found["stages"] == []
    assert all(rate > 0 for rate in (*found["peaks"]["convolution"].values(), *found["peaks"]["decode"].values()))
