"""Augmentation: other views of the same part, with their foreground."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from diffad_ray.training.augmentation import Augmentation, augmented

NOTHING: dict[str, Any] = {"rotation": 0.0, "shift": 0.0, "zoom": 0.0, "brightness": 0.0}
OFF = Augmentation(**NOTHING)


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def images(count: int = 16, height: int = 32, width: int = 32, channels: int = 4) -> Tensor:
    return torch.rand((count, channels, height, width), generator=seeded(9))


def test_nothing_is_done_unasked() -> None:
    assert torch.equal(augmented(images(), OFF, seeded()), images())


def test_the_generator_decides() -> None:
    every = Augmentation(mirror="both", rotation=20, shift=0.1, zoom=0.1, brightness=0.2)
    x = images(height=64, width=96)
    first, again, other = (augmented(x, every, seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(x, images(height=64, width=96)), "the input is not changed"


@pytest.mark.parametrize(("mirror", "dims"), [("horizontal", [3]), ("vertical", [2])])
def test_mirrors(mirror: str, dims: list[int]) -> None:
    x = images(64)
    result = augmented(x, Augmentation(**NOTHING | {"mirror": mirror}), seeded())
    mirrored = torch.tensor([torch.equal(a, b) for a, b in zip(result, x.flip(dims), strict=True)])
    same = torch.tensor([torch.equal(a, b) for a, b in zip(result, x, strict=True)])
    assert (mirrored ^ same).all()
    assert 16 < mirrored.sum() < 48


def test_quarter_turns_come_alike_often() -> None:
    x = images(200)
    result = augmented(x, Augmentation(**NOTHING | {"quarter_turns": True}), seeded())
    turned = [torch.rot90(x, turns, (2, 3)) for turns in range(4)]
    found = torch.tensor([[torch.equal(a, b) for b in options] for a, *options in zip(result, *turned, strict=True)])
    assert (found.sum(dim=1) == 1).all()
    assert (found.sum(dim=0) > 30).all()


def test_rotations_turn_without_distortion() -> None:
    # A ring stays where it is in a square and in a rectangle, whatever the angle; a spot on it moves along it.
    for height, width in ((64, 64), (64, 96)):
        y, x = torch.meshgrid(
            torch.arange(height) - height / 2 + 0.5, torch.arange(width) - width / 2 + 0.5, indexing="ij"
        )
        ring = ((x.square() + y.square()).sqrt() - 10).abs() < 3
        turned = augmented(ring.float().expand(8, 3, -1, -1), Augmentation(**NOTHING | {"rotation": 180.0}), seeded())
        assert (turned - ring.float()).abs().mean() < 0.03
        half = (ring & (x > 0)).float().expand(64, 3, -1, -1)
        change = (
            (augmented(half, Augmentation(**NOTHING | {"rotation": 180.0}), seeded()) - half).abs().mean(dim=(1, 2, 3))
        )
        assert 6 < (change == 0).sum() < 28, "a quarter of the images stay as sharp as they are"
        assert change[change > 0].mean() > 0.03


def centred_square(height: int, width: int) -> Tensor:
    square = torch.zeros((64, 4, height, width))
    square[:, :, height // 4 : -height // 4, width // 4 : -width // 4] = 1.0
    return square


def test_parts_move_as_far_as_they_may_along_each_side() -> None:
    x = centred_square(64, 96)
    moved = augmented(x, Augmentation(**NOTHING | {"shift": 0.1}), seeded())
    assert torch.allclose(moved.sum(dim=(2, 3)), x.sum(dim=(2, 3)), rtol=0.02), "nothing of the part is lost"
    y, x_at = torch.meshgrid(torch.arange(64.0), torch.arange(96.0), indexing="ij")
    for position, side, centre in ((y, 64, 31.5), (x_at, 96, 47.5)):
        way = ((moved[:, 0] * position).sum(dim=(1, 2)) / moved[:, 0].sum(dim=(1, 2)) - centre) / side
        assert -0.101 < way.min() < -0.05 < 0.05 < way.max() < 0.101


def test_parts_come_nearer_and_go_farther() -> None:
    x = centred_square(64, 96)
    zoomed = augmented(x, Augmentation(**NOTHING | {"zoom": 0.2}), seeded())
    size = (zoomed.sum(dim=(2, 3)) / x.sum(dim=(2, 3)))[:, 0].sqrt()
    assert 0.79 < size.min() < 0.85 < 1.15 < size.max() < 1.21


def test_brightness_spares_the_foreground() -> None:
    x = 0.2 + 0.5 * images(64)
    result = augmented(x, Augmentation(**NOTHING | {"brightness": 0.1}), seeded())
    assert torch.equal(result[:, 3:], x[:, 3:])
    factor = (result / x)[:, :3].flatten(1)
    assert (factor.amax(dim=1) - factor.amin(dim=1)).max() < 1e-5
    assert 0.9 <= factor.min() < 0.95 < 1.05 < factor.max() <= 1.1


def test_smaller_scales_are_means_of_areas() -> None:
    x = images(height=96, width=96)
    half = augmented(x, OFF, seeded(), scale=0.65)
    assert torch.equal(half, torch.nn.functional.interpolate(x, 64, mode="area"))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"mirror": "up"}, "mirror"),
        ({"rotation": -1}, "rotation"),
        ({"shift": 0.6}, "shift"),
        ({"zoom": -0.1}, "zoom"),
        ({"brightness": 1}, "brightness"),
    ],
)
def test_impossible_settings_are_refused(wrong: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Augmentation(**wrong)
