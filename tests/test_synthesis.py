"""Pseudo-anomalies: what they change, what they leave, and that they repeat."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from diffad_ray.synthesis.appearance import CHANGES, Change, changed, procedural_textures, shuffled_strips
from diffad_ray.synthesis.pseudo_anomalies import AnomalySettings, Samples, pseudo_anomalies
from diffad_ray.synthesis.shapes import perlin_masks, perlin_noise, spot_masks, stroke_masks

ALL = AnomalySettings(share=1.0)


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def images(count: int, seed: int = 0, height: int = 32, width: int = 32) -> Tensor:
    return torch.rand((count, 3, height, width), generator=seeded(seed))


def in_range(x: Tensor) -> bool:
    return bool(torch.isfinite(x).all() and x.min() >= 0 and x.max() <= 1)


def test_anomalies_stay_in_their_masks_and_the_rest_stays_untouched() -> None:
    normals = images(64)
    before = normals.clone()
    made = pseudo_anomalies(normals, None, seeded(), AnomalySettings(share=0.5))
    assert torch.equal(normals, before), "the input is not changed"
    assert in_range(made.images)
    assert set(made.masks.unique().tolist()) == {0.0, 1.0}
    inside = made.masks.bool().expand_as(normals)
    assert torch.equal(made.images[~inside], normals[~inside])
    assert ((made.images - normals).abs() > 1e-3)[inside].float().mean() > 0.9
    assert torch.equal(made.is_normal, made.masks.flatten(1).sum(dim=1) == 0)
    assert torch.equal(made.images[made.is_normal], normals[made.is_normal])
    # Strokes and spots may miss the image, rarely.
    assert 28 <= int((~made.is_normal).sum()) <= 32


def test_the_generator_decides_everything() -> None:
    first, again, other = (pseudo_anomalies(images(8), None, seeded(seed), ALL) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first.masks, other.masks)


def test_share_is_met_exactly_at_its_ends_and_on_average_between() -> None:
    assert pseudo_anomalies(images(8), None, seeded(), AnomalySettings(share=0.0)).is_normal.all()
    assert pseudo_anomalies(images(64), None, seeded(), ALL).is_normal.sum() <= 2
    generator = seeded()
    spots = AnomalySettings(share=0.3, perlin=1, strokes=0, spots=0)
    anomalous = [int((~pseudo_anomalies(images(1), None, generator, spots).is_normal).sum()) for _ in range(200)]
    assert 0.2 < sum(anomalous) / 200 < 0.4, "also in batches of one"


def test_grey_products_get_grey_anomalies() -> None:
    grey = images(32)[:, :1].expand(-1, 3, -1, -1)
    made = pseudo_anomalies(grey, images(4, seed=5), seeded(), ALL)
    assert (made.images - grey).abs().max() > 0.1
    assert (made.images.amax(dim=1) - made.images.amin(dim=1)).max() < 1e-4


@pytest.mark.parametrize("size", [(32, 32), (16, 48)])
def test_given_textures_are_what_shows(size: tuple[int, int]) -> None:
    flat = torch.rand((5, 3, 1, 1), generator=seeded(3)).expand(5, 3, *size)
    only = AnomalySettings(share=1, textures=1, strips=0, shades=0, perlin=1, strokes=0, spots=0, opacity=(1, 1))
    made = pseudo_anomalies(images(16), flat, seeded(), only)
    for image, mask in zip(made.images, made.masks.bool(), strict=True):
        shown = image[:, mask[0]]
        # None of the ten changes makes a flat texture uneven.
        assert (shown.amax(dim=1) - shown.amin(dim=1)).max() < 1e-5


def test_shades_are_the_image_itself_a_little_lighter_or_darker() -> None:
    only = AnomalySettings(share=1, textures=0, strips=0, shades=1)
    plain = torch.full((32, 3, 32, 32), 0.5)
    made = pseudo_anomalies(plain, None, seeded(), only)
    change = (made.images - 0.5)[made.masks.bool().expand_as(plain)]
    assert change.min() < -0.02 < 0.02 < change.max()
    assert change.abs().max() <= 0.5 * 0.35 * 0.8 + 1e-6


@pytest.mark.parametrize("change", [*CHANGES, changed, shuffled_strips], ids=lambda change: change.__name__)
def test_changes_keep_range_and_shape_and_change(change: Change) -> None:
    black, white = torch.zeros((1, 3, 32, 64)), torch.ones((1, 3, 32, 64))
    flat = torch.full((1, 3, 32, 64), 0.5)
    x = torch.cat([images(6, height=32, width=64), black, white, flat])
    before = x.clone()
    result = change(x, seeded())
    assert result.shape == x.shape
    assert torch.equal(x, before), "the input is not changed"
    assert in_range(result)
    # Images of the full range would leave autocontrast nothing to do.
    dull = images(16) * 0.5 + 0.2
    assert ((change(dull, seeded()) - dull).abs().amax(dim=(1, 2, 3)) > 0.02).sum() >= 12


def test_strips_are_shuffled_but_all_there() -> None:
    x = images(3)
    result = shuffled_strips(x, seeded())
    assert torch.equal(result.flatten(2).sort().values, x.flatten(2).sort().values)
    ramp = torch.arange(32.0).expand(3, 3, 32, 32) / 32
    for columns, line in ((ramp, np.s_[:, 0, 0]), (ramp.mT, np.s_[:, 0, :, 0])):
        strips = shuffled_strips(columns, seeded())[line].view(3, 8, 4)
        assert not torch.equal(strips.flatten(1), columns[line]), "both ways"
        assert torch.equal(strips.sort(dim=1).values.flatten(1), columns[line]), "each strip stays whole"


def test_procedural_textures_fill_the_range_and_differ() -> None:
    textures = procedural_textures(12, 32, 48, seeded())
    assert textures.shape == (12, 3, 32, 48)
    assert in_range(textures)
    assert (textures.flatten(1).std(dim=1) > 0.01).sum() >= 10


def test_perlin_noise_is_centred_bounded_and_as_fine_as_asked() -> None:
    def of(cells: int) -> Tensor:
        counts = torch.full((24,), float(cells))
        return perlin_noise(64, 64, counts, counts, seeded())

    coarse, fine = of(2), of(16)
    for field in (coarse, fine):
        assert field.shape == (24, 64, 64)
        assert field.abs().max() <= 1.2
        assert abs(field.mean()) < 0.1
        assert 0.15 < field.std() < 0.5
    crossings = [(f[:, :, 1:].sign() != f[:, :, :-1].sign()).float().mean() for f in (coarse, fine)]
    assert 4 < crossings[1] / crossings[0] < 16
    assert (fine[:, :, 1:] - fine[:, :, :-1]).abs().max() < 1.0, "no seams"


@pytest.mark.parametrize(
    ("draw", "smallest", "largest"), [(perlin_masks, 0.02, 0.3), (stroke_masks, 0.005, 0.1), (spot_masks, 0.005, 0.1)]
)
def test_shapes_are_neither_empty_nor_everything(draw: Callable[..., Tensor], smallest: float, largest: float) -> None:
    masks = draw(100, 64, 64, seeded())
    assert masks.dtype == torch.bool
    # Strokes and spots may lie outside.
    assert masks.flatten(1).any(dim=1).sum() >= (100 if draw is perlin_masks else 95)
    assert smallest < masks.float().mean() < largest
    wide = draw(100, 32, 96, seeded())
    assert wide.shape == (100, 32, 96)
    assert wide.any(dim=0).float().mean() > 0.5, "they reach all parts of an image"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"share": 1.5}, "share"),
        ({"perlin": -1}, "perlin"),
        ({"textures": 0, "strips": 0, "shades": 0}, "textures"),
        ({"opacity": (0.8, 0.2)}, "opacity"),
        ({"opacity": (0.5, 1.5)}, "opacity"),
    ],
)
def test_impossible_settings_are_refused(wrong: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AnomalySettings(**wrong)


def test_a_batch_without_anomalies_has_the_shapes_of_one_with() -> None:
    without, with_them = (pseudo_anomalies(images(4), None, seeded(), AnomalySettings(share=s)) for s in (0, 1))
    for name in Samples._fields:
        assert getattr(without, name).shape == getattr(with_them, name).shape
        assert getattr(without, name).dtype == getattr(with_them, name).dtype
