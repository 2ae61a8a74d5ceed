"""Losses for TensorBoard."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from diffad_ray.errors import UserError
from diffad_ray.training.events import Events
from diffad_ray.training.loop import Report


def test_tensorboard_reads_the_reports(tmp_path: Path) -> None:
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="pip install tensorboard"
    )
    with Events(str(tmp_path)) as events:
        for step, loss in ((10, 2.0), (20, 1.5)):
            events.add(Report(step, {"noise": loss}, 1e-3, 12.0, "float32"))
    found = accumulator.EventAccumulator(str(tmp_path)).Reload()
    assert [(event.step, event.value) for event in found.Scalars("noise")] == [(10, 2.0), (20, 1.5)]
    assert set(found.Tags()["scalars"]) == {"noise", "learning_rate", "images_per_second"}


def test_without_the_package_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match=r"diffad-ray\[tensorboard\]"):
        Events(str(tmp_path))
