"""What a training chooses itself: side, view and scale from its images, preset and steps from the minutes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_detector import tiny_training

from diffad_ray import UserError, train
from diffad_ray.detectors.kinds import KINDS, find_detector
from diffad_ray.images import IN_FULL
from diffad_ray.settings import merged
from diffad_ray.training import budget as budgets
from diffad_ray.training.batches import ALONE
from diffad_ray.training.budget import FEWEST, MOST, budget
from diffad_ray.training.choices import choices
from diffad_ray.training.sight import KEPT, SIDES, detail_lost, noise, sight


def striped(side: int, width: int) -> np.ndarray:
    """An image [side,side,3] of stripes that are so wide, in pixels."""
    row = (np.arange(side) // width % 2 * 200 + 20).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(row[None, :, None], (side, side, 3)))


@given(smallest=st.floats(0.5, 500), longest=st.integers(64, 6000), largest=st.sampled_from(SIDES))
def test_the_smallest_defect_keeps_three_pixels_where_the_images_have_them(
    smallest: float, longest: int, largest: int
) -> None:
    found = sight([np.zeros((64, longest, 3), np.uint8)], smallest, largest, {}).settings
    if found["view"] == "whole":
        scale = min(1.0, found["image_size"] / longest)
    else:
        scale = found["tile_scale"]
        # Tiles only where no side would do.
        assert largest < longest * min(1.0, KEPT / smallest)
    assert smallest * scale >= min(KEPT, smallest) - 1e-6
    assert found["image_size"] <= largest


def test_images_are_seen_as_large_as_their_detail_needs() -> None:
    flat, coarse, fine = np.full((512, 512, 3), 90, np.uint8), striped(512, 64), striped(512, 3)
    assert sight([flat], None, 256, {}).settings == {"view": "whole", "image_size": 128}
    assert sight([coarse], None, 256, {}).settings["image_size"] == 128
    found = sight([fine], None, 256, {})
    assert found.settings["image_size"] == 256
    assert "--smallest-defect" in found.reason
    # What was asked for is not chosen otherwise.
    assert sight([fine], None, 256, {"image_size": 64}).settings["image_size"] == 64
    assert sight([fine], None, 256, {"view": "tiles", "tile_scale": 0.5}).settings["tile_scale"] == 0.5
    assert sight([fine], 2.0, 256, {"view": "whole"}).settings == {"view": "whole", "image_size": 256}


def test_noise_is_no_detail() -> None:
    rng = np.random.default_rng(0)
    noisy = np.clip(128 + 20 * rng.standard_normal((256, 256, 3)), 0, 255).astype(np.uint8)
    assert noise(noisy.astype(np.float32).mean(axis=2)) == pytest.approx(20 / 3**0.5, rel=0.15)
    smooth = striped(256, 64)
    with_noise = np.clip(smooth + 6 * rng.standard_normal(smooth.shape), 0, 255).astype(np.uint8)
    assert detail_lost(with_noise, 128) == pytest.approx(detail_lost(smooth, 128), abs=0.01)
    assert detail_lost(striped(256, 2), 64) > 0.9


@pytest.mark.parametrize(("pace", "presets", "steps"), [(0.3, 2, MOST), (2.0, 1, 1300), (1000.0, 1, FEWEST)])
def test_the_largest_preset_that_can_learn_enough_fills_the_minutes(pace: float, presets: int, steps: int) -> None:
    # A machine on which a step takes `pace` seconds, and ten times as long with each larger preset.
    asked: list[str] = []

    def machine(task: Any) -> float:
        asked.append(task.args[1].preset)
        return pace * 10 ** (len(asked) - 1)

    minutes = 60.0
    found = budget("diffusion-ad", {"training": {"minutes": minutes}}, 1, np.zeros((2, 128, 128, 3), np.uint8), machine)
    assert asked == ["tiny", "small", "base"][:presets]
    assert found.settings == {"training": {"steps": steps}, "detector": {"preset": "tiny"}}
    assert ("too few" in found.reason) == (pace == 1000.0)


def test_a_preset_and_steps_that_are_given_stay() -> None:
    tables = {"detector": {"preset": "small"}, "training": {"minutes": 60.0, "steps": 7}}
    found = budget("anoddpm", tables, 2, np.zeros((2, 128, 128, 3), np.uint8), lambda _: 1.0)
    assert found.settings == {"training": {"steps": 7}, "detector": {"preset": "small"}}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_can_choose(kind: str, normals: Path) -> None:
    tables = merged(tiny_training(), {"training": {"minutes": 0.01}})
    del tables["training"]["steps"], tables["detector"]["preset"]
    files = [str(file) for file in sorted(normals.iterdir())]
    found, reasons = choices(kind, tables, files, IN_FULL, 0, lambda task: task(ALONE))
    assert found["detector"]["image_size"] == 32
    has_networks = bool(find_detector(kind).settings_class.part_names)
    assert len(reasons) == (2 if has_networks else 1)
    if has_networks:
        assert found["training"]["steps"] == FEWEST


def test_a_training_goes_on_with_what_it_chose(
    normals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(budgets, "FEWEST", 2)
    monkeypatch.setattr(budgets, "seconds_a_step", lambda *_: 1.0)
    settings = merged(tiny_training(), {"training": {"minutes": 1e-6, "smallest_defect": 8.0}})
    del settings["training"]["steps"]
    location = tmp_path / "detector"
    bundle = train(normals, location, settings=settings, workers=0, show_progress=True)
    said = capsys.readouterr().err
    assert "images are seen whole at 32 px: a defect of 8 px in images of 64 px keeps 4.0 px" in said
    assert "networks of preset tiny learn for 2 steps" in said
    assert bundle.facts["settings"]["steps"] == 2
    # On another day trials would choose other steps; the training has chosen already.
    monkeypatch.setattr(budgets, "FEWEST", 3)
    assert train(normals, location, settings=settings, workers=0).fingerprint == bundle.fingerprint
    other = merged(settings, {"training": {"minutes": 2e-6}})
    with pytest.raises(UserError, match=r"other settings.*minutes was 1e-06, is 2e-06.*steps was 2, is 3"):
        train(normals, location, settings=other, workers=0)


@pytest.mark.parametrize("name", ["minutes", "smallest_defect"])
def test_a_budget_must_be_more_than_nothing(normals: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=f"{name} must be above 0"):
        train(normals, tmp_path / "detector", settings={"training": {name: 0.0}}, workers=0)
