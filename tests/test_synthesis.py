"""Pseudo-anomalies: what they change, what they leave, and that they repeat."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from diffad_ray.synthesis.appearance import CHANGES, Change, changed, grey, moved, procedural_textures, shuffled_strips
from diffad_ray.synthesis.pseudo_anomalies import AnomalySettings, Samples, pseudo_anomalies
from diffad_ray.synthesis.shapes import patch_shapes, perlin_noise, perlin_shapes, soft, spot_shapes, stroke_shapes

ALL = AnomalySettings(share=1.0)
PAPER = AnomalySettings(
    strokes=0, spots=0, patches=0, textures=1, strips=1, moved=0, shades=0, recoloured=0, edge=(0, 0), contrast=0
)


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def images(count: int, seed: int = 0, height: int = 32, width: int = 32) -> Tensor:
    return torch.rand((count, 3, height, width), generator=seeded(seed))


def in_range(x: Tensor) -> bool:
    return bool(torch.isfinite(x).all() and x.min() >= 0 and x.max() <= 1)


def test_the_papers_anomalies_stay_in_their_masks_and_the_rest_stays_untouched() -> None:
    normals = images(64)
    before = normals.clone()
    made = pseudo_anomalies(normals, None, seeded(), PAPER)
    assert torch.equal(normals, before), "the input is not changed"
    assert in_range(made.images)
    assert set(made.masks.unique().tolist()) == {0.0, 1.0}
    inside = made.masks.bool().expand_as(normals)
    assert torch.equal(made.images[~inside], normals[~inside])
    assert ((made.images - normals).abs() > 1e-3)[inside].float().mean() > 0.9
    assert torch.equal(made.is_normal, made.masks.flatten(1).sum(dim=1) == 0)
    assert torch.equal(made.images[made.is_normal], normals[made.is_normal])
    assert 30 <= int((~made.is_normal).sum()) <= 32


def test_soft_edges_reach_no_further_than_they_are_wide() -> None:
    normals = images(64, height=64, width=64)
    made = pseudo_anomalies(normals, None, seeded(), AnomalySettings(share=1.0, perlin=0, patches=0, edge=(4, 4)))
    # Along an ellipse the edge is wider, by up to the ratio of its radii.
    near = torch.nn.functional.max_pool2d(made.masks, 13, stride=1, padding=6)
    changed_at = (made.images - normals).abs().amax(dim=1, keepdim=True) > 0
    assert (changed_at & (near == 0)).float().mean() < 0.01
    outside = changed_at & (made.masks == 0)
    assert outside.float().mean() > 0.01, "edges are soft"
    inner = (made.images - normals).abs().amax(dim=1, keepdim=True)
    assert inner[made.masks == 1].mean() > 1.5 * inner[outside].mean()


@pytest.mark.parametrize("contrast", [0.3, 1.0])
def test_every_anomaly_can_be_seen(contrast: float) -> None:
    dull = 0.5 + 0.04 * (images(96) - 0.5)
    normals = torch.cat([dull, images(32)])
    made = pseudo_anomalies(normals, None, seeded(), AnomalySettings(share=1.0, contrast=contrast))
    change = ((made.images - normals).abs().amax(dim=1, keepdim=True) * made.masks).sum(dim=(1, 2, 3))
    mean = (change / made.masks.sum(dim=(1, 2, 3)).clamp(min=1))[~made.is_normal]
    spread = grey(normals).flatten(1).std(dim=1)[~made.is_normal].clamp(min=0.02)
    assert len(mean) > 100
    assert (mean > 0.5 * (contrast * spread).clamp(min=3 / 255) - 1e-6).all()
    assert torch.equal(made.images[made.is_normal], normals[made.is_normal])


def test_anomalies_lie_on_the_product() -> None:
    normals = images(64)
    foregrounds = torch.zeros((64, 1, 32, 32), dtype=torch.bool)
    foregrounds[:, :, 20:28, 4:12] = True
    made = pseudo_anomalies(normals, None, seeded(), ALL, foregrounds)
    outside = ~foregrounds.expand_as(normals)
    assert torch.equal(made.images[outside], normals[outside])
    assert (~made.is_normal).float().mean() > 0.8, "small as it is, it gets them"


def test_the_generator_decides_everything() -> None:
    first, again, other = (pseudo_anomalies(images(8), None, seeded(seed), ALL) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first.masks, other.masks)


def test_share_is_met_exactly_at_its_ends_and_on_average_between() -> None:
    assert pseudo_anomalies(images(8), None, seeded(), AnomalySettings(share=0.0)).is_normal.all()
    assert pseudo_anomalies(images(64), None, seeded(), ALL).is_normal.sum() <= 4
    generator = seeded()
    spots = AnomalySettings(share=0.3, strokes=0, spots=0, patches=0)
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
    only = dataclasses.replace(PAPER, share=1.0, strips=0, opacity=(1, 1))
    made = pseudo_anomalies(images(16), flat, seeded(), only)
    for image, mask in zip(made.images, made.masks.bool(), strict=True):
        shown = image[:, mask[0]]
        # None of the ten changes makes a flat texture uneven.
        assert (shown.amax(dim=1) - shown.amin(dim=1)).max() < 1e-4


def test_shades_are_the_image_itself_lighter_or_darker() -> None:
    only = AnomalySettings(share=1, textures=0, strips=0, moved=0, edge=(0, 0))
    plain = torch.full((64, 3, 32, 32), 0.5) + 0.1 * (images(64)[:, :1] - 0.5)
    made = pseudo_anomalies(plain, None, seeded(), only)
    change = (made.images - plain)[made.masks.bool().expand_as(plain)]
    assert change.min() < -0.05
    assert change.max() > 0.05
    one_way = [len((made.images - plain)[k].sign().unique()) <= 2 for k in range(64)]
    assert all(one_way), "one anomaly is either lighter or darker"


def test_moved_shows_the_next_image_whole() -> None:
    x = images(4, height=16, width=24)
    result = moved(x, seeded())
    assert torch.equal(result.flatten(2).sort().values, x.roll(-1, dims=0).flatten(2).sort().values)
    assert not torch.equal(result, x.roll(-1, dims=0))


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


def everywhere(count: int, height: int = 64, width: int = 64) -> Tensor:
    return torch.ones((count, height, width), dtype=torch.bool)


def patches(foreground: Tensor, generator: Generator) -> Tensor:
    return patch_shapes(foreground, generator)[0]


@pytest.mark.parametrize(
    ("draw", "smallest", "largest"),
    [(perlin_shapes, 0.02, 0.3), (stroke_shapes, 0.005, 0.1), (spot_shapes, 0.005, 0.1), (patches, 0.05, 0.4)],
)
def test_shapes_are_neither_empty_nor_everything(draw: Callable[..., Tensor], smallest: float, largest: float) -> None:
    masks = draw(everywhere(100), seeded()) > 0
    # A spot may be smaller than a pixel.
    assert masks.flatten(1).any(dim=1).sum() >= (97 if draw is spot_shapes else 100)
    assert smallest < masks.float().mean() < largest
    wide = draw(everywhere(100, 32, 96), seeded()) > 0
    assert wide.shape == (100, 32, 96)
    assert wide.any(dim=0).float().mean() > 0.5, "they reach all parts of an image"


@pytest.mark.parametrize("draw", [spot_shapes, patches, stroke_shapes])
def test_depths_are_distances_to_the_border(draw: Callable[..., Tensor]) -> None:
    depths = draw(everywhere(50), seeded())
    # Nowhere steeper than a pixel a pixel; ellipses, whose distance is scaled by the shorter radius, are flatter.
    for dim in (1, 2):
        assert depths.diff(dim=dim).abs().max() <= 1 + 1e-3


def test_softness() -> None:
    depths = torch.tensor([[[-5.0, -1.0, 0.0, 1.0, 5.0]]])
    assert soft(depths, torch.tensor([4.0])).squeeze().tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert soft(depths, torch.tensor([0.0])).squeeze().tolist() == [0, 0, 0, 1, 1]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"share": 1.5}, "share"),
        ({"perlin": -1}, "perlin"),
        ({"textures": 0, "strips": 0, "moved": 0, "shades": 0}, "textures"),
        ({"edge": (3, 1)}, "edge"),
        ({"contrast": -1}, "contrast"),
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
