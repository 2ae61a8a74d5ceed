"""Training without Ray: resumed runs, diverging runs, schedules and batches, learning from tiles."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import write_image
from tiny_detector import random_images, tiny_detector, tiny_training
from torch import Tensor

from diffad_ray import evaluate, train
from diffad_ray.demo.surfaces import defective, normal
from diffad_ray.detectors.base import Mode, Trainable
from diffad_ray.errors import UserError
from diffad_ray.inference.acceleration import Trial
from diffad_ray.inference.engine import Engine
from diffad_ray.inference.views import pieces
from diffad_ray.networks.ema import Ema
from diffad_ray.networks.learning_rate import cosine_fall, rise_and_fall
from diffad_ray.synthesis.pseudo_anomalies import AnomalySettings
from diffad_ray.training import learner
from diffad_ray.training.batches import Batches, Images, World
from diffad_ray.training.checkpoints import TrainingFolder
from diffad_ray.training.learner import State
from diffad_ray.training.loop import Report, train_loop
from diffad_ray.training.normals import load_pieces, read_images
from diffad_ray.training.settings import TrainingSettings

STEPS = 6


@pytest.fixture(autouse=True)
def _one_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    """No trial: timings would choose a mode, and modes round differently."""
    monkeypatch.setattr(learner, "fastest_mode", lambda *_: Trial(Mode(False, "float32"), {}))


def run(
    normals: np.ndarray, resume: State | None = None, detector: Trainable | None = None, **changes: Any
) -> tuple[Trainable, list[Report], list[State]]:
    """Train; give the detector, the reports and a copy of each step's checkpoint."""
    reports: list[Report] = []
    states: list[State] = []
    values = {"steps": STEPS, "batch_size": 4, "precision": "float32", "report_every": 2, "checkpoint_seconds": 0.0}
    trained = train_loop(
        detector or tiny_detector(),
        Images(normals),
        TrainingSettings(**{**values, **changes}),
        resume=resume,
        on_report=reports.append,
        on_checkpoint=lambda state: states.append(copied(state)),
    )
    return trained, reports, states


def copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {key: copied(item) for key, item in value.items()}
    return [copied(item) for item in value] if isinstance(value, list) else value


@pytest.fixture(scope="module")
def normals() -> np.ndarray:
    return random_images(10)


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(normals: np.ndarray, tmp_path: Path) -> None:
    whole, reports, states = run(normals)
    assert [state["step"] for state in states] == [1, 2, 3, 4, 5, 6]
    folder = TrainingFolder(str(tmp_path))
    for report in reports:
        folder.add(report)
    folder.save(states[2])
    resume = TrainingFolder(str(tmp_path)).load()
    assert resume is not None
    # Another start: all that counts comes from the checkpoint.
    resumed, later, _ = run(normals, resume, tiny_detector(seed=8))
    for (name, expected), found in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(expected, found), name
    assert [report.step for report in later] == [4, 6]
    assert later[-1].losses == reports[-1].losses
    assert not whole.training
    assert any((a != b).any() for a, b in zip(whole.parameters(), tiny_detector().parameters(), strict=True))


def test_a_finished_run_is_not_trained_further(normals: np.ndarray) -> None:
    whole, _, states = run(normals, steps=2)
    again, reports, more = run(normals, states[-1], steps=2)
    assert (reports, more) == ([], [])
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))


def test_losses_after_the_checkpoint_are_forgotten(tmp_path: Path) -> None:
    folder = TrainingFolder(str(tmp_path))
    assert folder.load() is None
    for step in (2, 4, 6):
        folder.add(Report(step, {"loss": 1.0 / step}, 1e-3, 10.0, "float32 contiguous"))
    folder.save({"step": 4})
    again = TrainingFolder(str(tmp_path))
    assert again.load() == {"step": 4}
    assert [line["step"] for line in again.losses] == [2, 4]


def test_finishing_leaves_a_plot_and_no_checkpoint(normals: np.ndarray, tmp_path: Path) -> None:
    folder = TrainingFolder(str(tmp_path))
    folder.add(Report(2, {"loss": 1.0, "noise": 0.5}, 1e-3, 10.0, "float32 contiguous"))
    folder.save({"step": 2})
    folder.finish()
    assert sorted(file.name for file in (tmp_path / "training").iterdir()) == ["losses.jsonl", "losses.png"]


def test_a_folder_is_claimed_by_one_training(tmp_path: Path) -> None:
    folder = TrainingFolder(str(tmp_path))
    folder.claim({"training": {"steps": 5}, "kind": "diffusion-ad", "mean": (0.5, 0.5)})
    TrainingFolder(str(tmp_path)).claim({"kind": "diffusion-ad", "training": {"steps": 5}, "mean": [0.5, 0.5]})
    # Settings that there were not yet, in a version that began the training, keep nobody from finishing it.
    newer = {"kind": "diffusion-ad", "training": {"steps": 5, "shift": 0.02}, "mean": [0.5, 0.5], "textures": None}
    TrainingFolder(str(tmp_path)).claim(newer)
    with pytest.raises(UserError, match=r"other settings \(training.steps was 5, is 6\).*--fresh"):
        folder.claim({"training": {"steps": 6}, "kind": "diffusion-ad", "mean": (0.5, 0.5)})
    folder.clear()
    folder.claim({"training": {"steps": 6}})


def test_a_diverging_run_says_what_to_do(normals: np.ndarray) -> None:
    with pytest.raises(UserError, match=r"not finite at step 2: .*lower training.learning_rate \(now inf\)"):
        run(normals, learning_rate=math.inf)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_batches_of_one_kind_are_harmless(normals: np.ndarray, share: float) -> None:
    anomalies = AnomalySettings(share=share, perlin=1, strokes=0, spots=0)
    trained, reports, _ = run(normals, detector=tiny_detector(anomalies=anomalies), steps=2, report_every=1)
    assert all(torch.isfinite(p).all() for p in trained.parameters())
    assert [report.losses["noise"] == 0 for report in reports] == [share == 1.0] * 2
    assert all(math.isfinite(loss) for report in reports for loss in report.losses.values())


def test_a_batch_that_cannot_be_shared_is_refused(normals: np.ndarray) -> None:
    with pytest.raises(UserError, match="batch_size 4 can't be shared among 3 workers"):
        train_loop(tiny_detector(), Images(normals), TrainingSettings(batch_size=4), World(0, 3))


@pytest.mark.parametrize(("steps", "warmup"), [(1000, 0.05), (1000, 0.0), (10, 0.3), (1, 0.0), (1, 0.9)])
def test_the_learning_rate_rises_once_and_falls_once(steps: int, warmup: float) -> None:
    factors = np.array([rise_and_fall(step, steps, warmup, 0.01) for step in range(steps)])
    top = int(factors.argmax())
    assert factors[top] == 1
    assert (factors > 0).all()
    assert (np.diff(factors[: top + 1]) > 0).all()
    assert (np.diff(factors[top:]) <= 0).all()
    assert abs(top - warmup * steps) <= 1
    if steps == 1000:
        assert factors[-1] < 0.011
        np.testing.assert_allclose(factors[25], 26 / 50 if warmup else 1, atol=0.002)


@pytest.mark.parametrize("floor", [0.0, 0.01])
def test_a_half_cosine_falls_to_its_floor(floor: float) -> None:
    found = [cosine_fall(progress, floor) for progress in (0.0, 0.25, 0.5, 0.75, 1.0, 3.0)]
    shares = [1.0, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2, 0.0, 0.0]
    assert found == pytest.approx([floor + (1 - floor) * share for share in shares], abs=1e-12)


def test_every_pass_shows_each_image_once_in_another_order(normals: np.ndarray) -> None:
    marked = np.broadcast_to(np.arange(10, dtype=np.uint8)[:, None, None, None], (10, 2, 2, 3)).copy()
    batches, cpu = Batches(marked, 4, seed=3), torch.device("cpu")
    seen = [(batches.at(step, cpu)[:, 0, 0, 0] * 255).round().int().tolist() for step in range(10)]
    order = [image for batch in seen for image in batch]
    passes = [order[start : start + 10] for start in range(0, 40, 10)]
    assert all(sorted(one) == list(range(10)) for one in passes)
    assert len({tuple(one) for one in passes}) == 4
    later = Batches(marked, 4, seed=3)
    assert (later.at(7, cpu)[:, 0, 0, 0] * 255).round().int().tolist() == seen[7], "a function of the step"
    few = Batches(marked[:1], 4, seed=0).at(0, cpu)
    assert few.shape == (4, 3, 2, 2), "more than there are images"


def test_averaged_weights_follow_slowly_and_early_ones_forget() -> None:
    model = tiny_detector()
    ema = Ema(model, decay=0.9, starts={})
    before = model.segmenter.conv_out.bias.detach().clone()
    with torch.no_grad():
        model.segmenter.conv_out.bias += 1
    ema.update(model, step=0)
    torch.testing.assert_close(ema.model.segmenter.conv_out.bias, before + 0.9)
    ema.update(model, step=10_000)
    torch.testing.assert_close(ema.model.segmenter.conv_out.bias, before + 0.91)
    assert not any(p.requires_grad for p in ema.model.parameters())


def test_squares_are_drawn_from_all_images_alike(tmp_path: Path) -> None:
    for k in range(6):
        write_image(tmp_path / f"{k}.png", np.full((20 + 10 * k, 30, 3), k, np.uint8))
    (tmp_path / "broken.png").write_bytes(b"nothing")
    locations = [str(tmp_path / name) for name in ("broken.png", *(f"{k}.png" for k in range(6)))]

    def rows(pixels: np.ndarray) -> list[np.ndarray]:
        return list(pixels[:, :3][:, None])

    everything, problems = load_pieces(locations, rows, 10**6, seed=0)
    assert everything[:, 0, 0, 0].tolist() == [k for k in range(6) for _ in range(20 + 10 * k)]
    assert list(problems) == locations[:1]
    drawn, _ = load_pieces(locations, rows, 100, seed=0)
    assert drawn.shape == (100, 1, 3, 3)
    np.testing.assert_array_equal(drawn, load_pieces(locations, rows, 100, seed=0)[0])
    assert (drawn != load_pieces(locations, rows, 100, seed=1)[0]).any()
    counts = sum(np.bincount(load_pieces(locations, rows, 100, seed)[0][:, 0, 0, 0], minlength=6) for seed in range(20))
    np.testing.assert_allclose(counts / counts.sum(), np.arange(20, 80, 10) / 270, atol=0.04)
    skipped: dict[str, str] = {}
    assert [image.shape[0] for image in read_images(locations, skipped)] == [20, 30, 40, 50, 60, 70]
    assert skipped == problems
    with pytest.raises(UserError, match=r"none of 1 images can be used: .*broken"):
        load_pieces(locations[:1], rows, 100, seed=0)


def test_a_detector_learns_from_tiles_and_judges_images(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for k in range(12):
        write_image(tmp_path / "normals" / f"{k}.png", normal("weave", rng, 100).image[:75])
    for k in range(2):
        sample = defective("weave", "hole", rng, 100)
        write_image(tmp_path / "set" / "test" / "good" / f"{k}.png", normal("weave", rng, 100).image[:75])
        write_image(tmp_path / "set" / "test" / "hole" / f"{k}.png", sample.image[:75])
        mask = np.repeat(sample.mask[:75, :, None], 3, axis=2).astype(np.uint8) * 255
        write_image(tmp_path / "set" / "ground_truth" / "hole" / f"{k}_mask.png", mask)
    overrides = ["detector.view=tiles", "detector.tile_scale=0.8", "training.held_back=0.25"]
    bundle = train(tmp_path / "normals", tmp_path / "detector", settings=tiny_training(*overrides, steps=4), workers=0)

    settings, calibration = bundle.detector.settings, bundle.calibration
    assert (settings.view, settings.tile_scale) == ("tiles", 0.8)
    assert calibration.images == 3
    images = list(read_images([str(path) for path in sorted((tmp_path / "normals").iterdir())], {}))
    assert len(pieces(images[0], settings)) == 3 * 3
    scores = [found.score for found in Engine(bundle.detector).detect_images(images, with_reconstruction=False)]
    np.testing.assert_allclose([min(abs(np.array(scores) - score)) for score in calibration.scores], 0, atol=1e-4)

    evaluation = evaluate(tmp_path / "detector", tmp_path / "set")
    assert (evaluation.view, evaluation.unreadable) == ("tiles", {})
    overall = evaluation.figures["overall"]
    assert overall.pixel_auroc is not None
    assert 0 < overall.pixel_auroc < 1
    assert overall.image_auroc is not None
