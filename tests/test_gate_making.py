"""How a gate is made: the student, the samples that prove it, and the files that result."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from diffad_ray.bundles.bundle import load_bundle
from diffad_ray.cli import app
from diffad_ray.detectors.diffusion_ad import DiffusionADSettings
from diffad_ray.errors import UserError
from diffad_ray.gates import proof
from diffad_ray.gates.bundle import load_gate
from diffad_ray.gates.learning import taught
from diffad_ray.gates.look import BATCH, Gatekeeper, Look
from diffad_ray.gates.make import GateSettings, make_gate
from diffad_ray.gates.samples import Scored
from diffad_ray.gates.student import GRID, Student
from diffad_ray.inference.engine import Engine
from diffad_ray.training.normals import read_images
from diffad_ray.training.tune import training_images

SIDE = 32


def test_a_fused_student_estimates_the_same() -> None:
    torch.manual_seed(0)
    student = Student(SIDE)
    images = torch.rand(16, 3, SIDE, SIDE)
    student.train()(images)
    student.eval()
    with torch.no_grad():
        before, after = student(images), student.fused()(images)
    for one, other in zip(before, after, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
    assert before.places.shape == (16, GRID, GRID)


def test_a_student_learns_what_a_detector_says() -> None:
    """Of squares with a bright spot of some strength, which is their score."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(60, 80, (320, SIDE, SIDE, 3), dtype=np.uint8)
    strength = rng.uniform(0, 1, 320).astype(np.float32)
    places = np.full((320, GRID, GRID), -6, np.float32)
    for k, (y, x) in enumerate(rng.integers(0, GRID, (320, 2))):
        pixels[k, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4] += np.uint8(150 * strength[k])
        places[k, y, x] += 8 * strength[k]
    score = places.max(axis=(1, 2))
    train, test = slice(0, 256), slice(256, 320)
    samples = Scored(pixels[train], score[train], places[train], strength[train] > 0.5)
    student = taught(samples, threshold=0.0, epochs=12, seed=0, tell=lambda line: None)
    keeper = Gatekeeper(
        Look(student, None, torch.zeros(2), torch.ones(2)), DiffusionADSettings(preset="tiny", image_size=SIDE)
    )
    found = np.array(list(keeper.squares(pixels[test])))
    assert np.corrcoef(found, score[test])[0, 1] > 0.9
    # A score does not depend on the images beside it.
    assert list(keeper.squares(pixels[test][: BATCH // 2])) == found[: BATCH // 2].tolist()


@pytest.fixture(scope="module")
def copied(detector: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    location = tmp_path_factory.mktemp("detectors") / "part"
    shutil.copytree(detector, location)
    return location


@pytest.fixture
def few_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """A promise needs the hundreds of samples that are made otherwise; these tests need none that is worth much."""
    monkeypatch.setattr(proof, "ROUND", 64)
    monkeypatch.setattr(proof, "FEWEST_FLAGGED", 32)


@pytest.mark.usefixtures("few_samples")
def test_a_gate_becomes_a_part_of_the_bundle(copied: Path, archive: Path) -> None:
    before = load_bundle(str(copied))
    files = {path: path.read_bytes() for path in copied.iterdir() if path.is_file()}
    engine = Engine(before.detector)
    unseen = read_images(training_images(before, "--normals").held_back, {})
    scores = [found.score for found in engine.detect_images(unseen)]
    threshold = float(np.quantile(scores, 0.7))
    defects = archive / "camera0"
    given = ["--missed", "0.5", "--threshold", str(threshold), "--samples", "64", "--defects", str(defects)]
    done = CliRunner().invoke(app, ["gate", str(copied), *given, "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert {path: path.read_bytes() for path in copied.iterdir() if path.is_file()} == files
    bundle = load_bundle(str(copied))
    gate = load_gate(str(copied), bundle)
    assert gate.fingerprint == told["fingerprint"]
    assert bundle.fingerprint == before.fingerprint
    found = gate.opening(threshold)
    assert (found.limit, found.flagged) == (told["limit"], told["flagged"])
    assert found.proof.value <= 0.5
    assert told["facts"]["flagged"]["defect"][1] == len(list(defects.glob("*.png")))
    assert told["passes"]["value"] >= max(told["facts"]["passes"].values()) - 0.5


@pytest.mark.usefixtures("few_samples")
def test_what_makes_no_gate_is_refused(copied: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="missed 2 must lie"):
        GateSettings(missed=2)
    with pytest.raises(UserError, match="no detector at"):
        make_gate(str(tmp_path / "nothing"))
    never = GateSettings(missed=0.5, threshold=1e6, samples=64, epochs=1)
    with pytest.raises(UserError, match="the detector flags 0 of"):
        make_gate(str(copied), never)
