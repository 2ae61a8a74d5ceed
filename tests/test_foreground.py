"""Foregrounds: objects are found on their background, textures are foreground everywhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import write_image
from torch import Tensor

from diffad_ray.detectors.diffusion_ad import DiffusionADSettings
from diffad_ray.synthesis.foreground import foregrounds
from diffad_ray.training.normals import load_normals

SIDE = 128


def disc(radius: float, background: float, x: float = 0.5, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A textured disc on a plain, slightly noisy background [3,S,S], and where it is [S,S]."""
    generator = torch.Generator().manual_seed(seed)
    axis = (torch.arange(SIDE) + 0.5) / SIDE
    inside = (axis[None] - x) ** 2 + (axis[:, None] - 0.5) ** 2 < radius**2
    noise = torch.rand((3, SIDE, SIDE), generator=generator)
    return torch.where(inside, 0.3 + 0.4 * noise, background + 0.02 * (noise - 0.5)), inside


@pytest.mark.parametrize("background", [0.03, 0.9])
@pytest.mark.parametrize("radius", [0.15, 0.4])
def test_an_object_is_found(radius: float, background: float) -> None:
    image, inside = disc(radius, background)
    found, is_object = foregrounds(image[None])
    assert is_object.tolist() == [True]
    at_grid = torch.nn.functional.interpolate(inside[None, None].float(), (64, 64), mode="area")[0, 0]
    assert found[0][at_grid == 1].all(), "all of it"
    seam = torch.nn.functional.max_pool2d(at_grid[None], 7, stride=1, padding=3)[0]
    assert not found[0][seam == 0].any(), "and hardly more"


def test_holes_belong_to_the_object() -> None:
    image, _ = disc(0.4, 0.03)
    hole, inside = disc(0.15, 0.03)
    image = torch.where(inside, torch.full_like(hole, 0.03), image)
    found, _ = foregrounds(image[None])
    assert found[0, 32, 32]


def test_textures_and_plain_images_are_no_objects() -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand((1, 3, SIDE, SIDE), generator=generator)
    ramp = torch.linspace(0, 1, SIDE).expand(1, 3, SIDE, SIDE)
    plain = torch.full((1, 3, SIDE, SIDE), 0.5)
    cut_off, _ = disc(0.9, 0.03)
    assert not foregrounds(torch.cat([noise, ramp, plain, cut_off[None]]))[1].any()


@pytest.mark.parametrize("view", ["whole", "tiles"])
def test_squares_carry_the_foreground_of_their_image(tmp_path: Path, view: str) -> None:
    for k in range(5):
        image, _ = disc(0.2, 0.9, x=0.3 + 0.1 * k, seed=k)
        write_image(tmp_path / f"{k}.png", (image.permute(1, 2, 0).numpy() * 65535).astype(np.uint16))
    settings = DiffusionADSettings(preset="tiny", image_size=64, view=view)
    files = sorted(map(str, tmp_path.iterdir()))
    squares, sources, problems = load_normals(files, settings, 100, 0)
    assert not problems
    assert sources.tolist() == (list(range(5)) if view == "whole" else [k // 9 for k in range(45)])
    assert squares.shape == (5 if view == "whole" else 5 * 9, 64, 64, 4)
    dark = squares[..., :3].mean(axis=3) < 0.7 * 65535
    assert squares[..., 3][dark].mean() > 0.95 * 65535
    assert 0.1 < (squares[..., 3] > 32767).mean() < 0.5


def test_a_texture_has_no_fourth_channel(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for k in range(4):
        write_image(tmp_path / f"{k}.png", rng.integers(0, 255, (70, 70, 3), dtype=np.uint8))
    image, _ = disc(0.3, 0.03)
    write_image(tmp_path / "lonely_object.png", (image.permute(1, 2, 0).numpy() * 255).astype(np.uint8))
    settings = DiffusionADSettings(preset="tiny", image_size=64)
    squares, _, _ = load_normals(sorted(map(str, tmp_path.iterdir())), settings, 100, 0)
    assert squares.shape == (5, 64, 64, 3)
