"""Training through Ray Train on a real cluster, and without Ray."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tiny_detector import SCORING_BATCH, tiny_training

from diffad_ray import UserError, load_detector, train
from diffad_ray.detectors.diffusion_ad import DiffusionAD
from diffad_ray.reports.training_text import print_training
from diffad_ray.training.normals import find_normals
from diffad_ray.training.sources import Sources


@pytest.mark.long
@pytest.mark.usefixtures("cluster")
def test_two_workers_train_and_a_killed_training_goes_on(normals: Path, tmp_path: Path) -> None:
    location = tmp_path / "detector"
    command = [sys.executable, "-m", "diffad_ray.cli", "train", str(normals), "--detector", str(location)]
    command += ["--preset", "tiny", "--image-size", "32", "--batch-size", "4", "--steps", "4000", "--workers", "2"]
    often = ["training.checkpoint_seconds=0", "training.precision=float32"]
    often += ["training.scoring_runtime=torch", f"training.scoring_batch={SCORING_BATCH}"]
    for setting in often:
        command += ["--set", setting]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    run = subprocess.Popen(command, env=environment, start_new_session=True, stderr=subprocess.DEVNULL)
    checkpoint = location / "training" / "checkpoint.pt"
    try:
        deadline = time.monotonic() + 180
        while not checkpoint.exists():
            assert run.poll() is None, "the training ended before it could be killed"
            assert time.monotonic() < deadline, "the training wrote no checkpoint"
            time.sleep(0.05)
    finally:
        os.killpg(run.pid, signal.SIGKILL)
    # The same command with the steps that the checkpoint is about to reach would be another training; so the settings
    # on file are made the short ones', which is what a resumed training compares with.
    settings_file = location / "training" / "settings.json"
    settings = json.loads(settings_file.read_text())
    losses = (location / "training" / "losses.jsonl").read_text().splitlines()
    reached = json.loads(losses[-1])["step"] if losses else 1
    settings["training_settings"]["steps"] = reached + 20
    settings_file.write_text(json.dumps(settings))
    bundle = train(normals, location, settings=tiny_training(*often, steps=reached + 20), workers=2)
    assert bundle.facts["resumed"]
    assert bundle.facts["workers"] == 2
    assert isinstance(bundle.detector, DiffusionAD)
    # Of a worker's own nine images nothing would be learnt.
    assert bundle.detector.familiarity.is_fitted
    steps = [json.loads(line)["step"] for line in (location / "training" / "losses.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps))
    assert steps[-1] == reached + 20
    assert (location / "training" / "losses.png").stat().st_size > 1000
    assert not checkpoint.exists()


def test_a_finished_training_started_again_is_loaded(normals: Path, detector: Path, tmp_path: Path) -> None:
    location = tmp_path / "detector"
    shutil.copytree(detector, location)
    stamp = (location / "model.safetensors").stat().st_mtime_ns
    again = train(normals, location, settings=tiny_training(steps=4), workers=0)
    assert again.fingerprint == load_detector(str(detector)).fingerprint
    assert (location / "model.safetensors").stat().st_mtime_ns == stamp
    with pytest.raises(UserError, match="other settings"):
        train(normals, location, settings=tiny_training(steps=3), workers=0)
    fresh = train(normals, location, settings=tiny_training(steps=3), workers=0, fresh=True)
    assert fresh.facts["settings"]["steps"] == 3


def test_the_bundle_tells_how_it_came_about(normals: Path, detector: Path) -> None:
    found = load_detector(str(detector))
    facts, calibration = found.facts, found.calibration
    assert facts["data"]["normals"] == str(normals)
    assert len(calibration.cross_fitted) == facts["images"]
    held_back = calibration.images - len(calibration.cross_fitted)
    assert facts["images"] + held_back == 24
    assert facts["losses"]["step"] == 4


@pytest.mark.long
def test_images_apart_set_the_threshold_and_are_not_learnt_from(normals: Path, tmp_path: Path) -> None:
    good = tmp_path / "good"
    shutil.copytree(normals, good)
    lot = good / "lot-2"
    lot.mkdir()
    for file in sorted(good.glob("*.png"))[:10]:
        file.rename(lot / file.name)
    # Not standardised, so the settings measure nothing on the images and differ by the images' fingerprint alone.
    tiny: dict[str, Any] = {"settings": tiny_training("detector.scaling=unit"), "workers": 0}
    bundle = train(Sources(str(good), calibrate_on=str(lot)), tmp_path / "detector", **tiny)
    assert bundle.facts["images"] == 14
    assert bundle.calibration.images == 10
    assert bundle.facts["data"]["calibrate_on"] == str(lot)
    with pytest.raises(UserError, match=r"other settings.*fingerprint"):
        train(good, tmp_path / "detector", **tiny)
    said = Console(record=True, width=1000)
    print_training(bundle, str(tmp_path / "detector"), said)
    assert f"judged by 10 images of {lot}" in said.export_text()

    found = find_normals(str(good), 0.1, 1000, 0, str(lot))
    assert sorted(found.held_back) == sorted(str(file) for file in lot.iterdir())
    assert sorted(found.learnt) == sorted(str(file) for file in good.glob("*.png"))
    assert found.fingerprint != find_normals(str(good), 0.1, 1000, 0).fingerprint

    broken = tmp_path / "broken"
    shutil.copytree(lot, broken)
    for file in sorted(broken.iterdir())[1:]:
        file.write_bytes(b"no image")
    with pytest.raises(UserError, match=r"of 10 images to set the threshold by 1 can be read: .*png"):
        train(Sources(str(good), calibrate_on=str(broken)), tmp_path / "other", **tiny)
    (broken / "another.png").write_bytes(next(lot.iterdir()).read_bytes())
    partly = train(Sources(str(good), calibrate_on=str(broken)), tmp_path / "partly", **tiny)
    assert partly.calibration.images == 2
    assert len(partly.facts["unreadable"]) == 9

    for file in sorted(lot.iterdir())[1:]:
        file.unlink()
    with pytest.raises(UserError, match="holds 1 images; a threshold needs 2"):
        train(Sources(str(good), calibrate_on=str(lot)), tmp_path / "other", **tiny)
    with pytest.raises(UserError, match="beside those to calibrate on"):
        train(Sources(str(good), calibrate_on=str(good)), tmp_path / "other", **tiny)
    with pytest.raises(UserError, match="no folder"):
        train(Sources(str(good), calibrate_on=str(tmp_path / "nowhere")), tmp_path / "other", **tiny)
    assert not (tmp_path / "other").exists()
