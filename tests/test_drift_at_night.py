"""Drift as a step of the night: what somebody must act on is told last, and may end the night."""

from __future__ import annotations

from pathlib import Path

import pytest
from nights import Part, write_nights

from diffad_ray.cluster_settings import ClusterSettings
from diffad_ray.errors import UserError
from diffad_ray.nightly import night as nights
from diffad_ray.nightly.night import StepResult, nightly
from diffad_ray.nightly.settings import NightlySettings
from diffad_ray.nightly.state import Night
from diffad_ray.nightly.steps import STEPS
from diffad_ray.scoring.settings import ScoringSettings
from diffad_ray.scoring.task import Task
from diffad_ray.storage import StorageSettings


def dim(part: Part) -> None:
    if part.day >= 8 and part.camera == "top":
        part.brightness *= 0.8


@pytest.mark.parametrize("fails", [False, True])
def test_alerts_come_last_and_end_the_night_if_asked(
    fails: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_nights(tmp_path, change=dim, nights=10, cameras=["top", "side"])
    settings = NightlySettings(archive="/archive", table=str(tmp_path), drift_by=("camera",), fail_on_drift=fails)
    task = Task(
        archive="/archive",
        table=str(tmp_path),
        detectors=[],
        settings=ScoringSettings(),
        storage=StorageSettings(),
        cluster=ClusterSettings(),
    )
    monkeypatch.setattr(nights, "STEPS", [step for step in STEPS if step.name in ("golden", "drift")])
    told: list[StepResult] = []
    night = Night(settings, task, print)
    if fails:
        with pytest.raises(UserError, match="fail_on_drift is set: part, camera top: look at the camera"):
            nightly(night, told.append)
    else:
        nightly(night, told.append)
    assert [result.step for result in told] == ["golden", "drift", "alerts"]
    assert told[0].text == "no golden samples: `golden` is not set"
    assert told[1].text == "1 group look at the camera; 1 group fine"
    assert told[2].notes == [note for note in night.alerts if "camera top" in note]
    assert "Brightness fell by" in told[2].notes[0]
