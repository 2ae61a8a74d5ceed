"""The Gaussians of familiarity: what the whole image explains of each cell, and how far the rest is from usual."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from diffad_ray.familiarity.features import Described
from diffad_ray.familiarity.gaussians import (
    FARTHEST,
    LEAST_EXPOSURES,
    SHRINKAGE,
    PatchGaussian,
    exposed_otherwise,
    inverse_root,
    patch_gaussian,
    unexplained,
)

COUNT, CHANNELS, SIDE, NUMBERS = 60, 3, 3, 12


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def images(seed: int = 0) -> Described:
    """Cells that differ from each other in mean and spread, and follow the miniature in part."""
    miniature = drawn(COUNT, NUMBERS, seed=seed)
    effect = drawn(NUMBERS, CHANNELS * SIDE**2, seed=99)
    own = drawn(COUNT, CHANNELS, SIDE, SIDE, seed=seed + 1) * torch.arange(1.0, 1 + SIDE**2).view(SIDE, SIDE)
    responses = 7 + own + (miniature @ effect).view_as(own)
    return Described(responses, miniature, drawn(COUNT, 2, seed=seed + 2))


@pytest.fixture
def gaussian() -> PatchGaussian:
    return patch_gaussian(images(), 4 * NUMBERS)


def code_of(gaussian: PatchGaussian, seen: Described) -> Tensor:
    return (seen.miniature - gaussian.miniature_mean) @ gaussian.basis


def left_of(gaussian: PatchGaussian, seen: Described) -> Tensor:
    """The residuals [N,C,G,G] of images in spreads, one cell after the other."""
    code = code_of(gaussian, seen).clamp(-FARTHEST, FARTHEST)
    explained = torch.einsum("nk,kcyx->ncyx", code, gaussian.effect.float())
    return (seen.responses - gaussian.mean - explained) / gaussian.spread.view(-1, 1, 1)


def test_an_inverse_root_is_symmetric_and_undoes_a_covariance() -> None:
    covariances = drawn(4, 5, 5, seed=0)
    covariances = covariances @ covariances.mT + torch.eye(5)
    roots = inverse_root(covariances)
    torch.testing.assert_close(roots, roots.mT, atol=1e-5, rtol=0)
    torch.testing.assert_close(roots @ covariances @ roots, torch.eye(5).expand(4, -1, -1), atol=1e-4, rtol=0)


def test_components_are_uncorrelated_and_as_many_as_images_can_tell(gaussian: PatchGaussian) -> None:
    code = code_of(gaussian, images())
    torch.testing.assert_close(code.mean(dim=0), torch.zeros(NUMBERS), atol=1e-5, rtol=0)
    torch.testing.assert_close(code.T @ code / COUNT, torch.eye(NUMBERS), atol=1e-4, rtol=0)
    assert patch_gaussian(images(), 23).basis.shape == (NUMBERS, 5), "one for four images"
    seen = images()
    flat = seen.miniature * torch.tensor([10.0, 1.0, 3e-3, 1e-5] + [0.0] * (NUMBERS - 4))
    assert patch_gaussian(seen._replace(miniature=flat), COUNT).basis.shape == (NUMBERS, 3), "the rest is rounding"
    alike = patch_gaussian(seen._replace(miniature=torch.ones_like(flat)), COUNT)
    assert alike.basis.shape == (NUMBERS, 0)
    torch.testing.assert_close(left_of(alike, seen), (seen.responses - alike.mean) / alike.spread.view(-1, 1, 1))


def test_half_of_what_the_miniature_explains_is_expected(gaussian: PatchGaussian) -> None:
    seen = images()
    torch.testing.assert_close(gaussian.mean, seen.responses.mean(dim=0))
    code = code_of(gaussian, seen)
    regression = torch.einsum("nk,ncyx->kcyx", code, seen.responses - gaussian.mean) / COUNT
    assert gaussian.effect.dtype == torch.float16
    torch.testing.assert_close(gaussian.effect.float(), regression / 2, atol=0.01, rtol=0.01)
    spreads = left_of(gaussian, seen).square().mean(dim=(0, 2, 3)).sqrt()
    torch.testing.assert_close(spreads, torch.ones(CHANNELS), atol=1e-2, rtol=0)


def test_each_cell_is_whitened_by_its_own_covariance(gaussian: PatchGaussian) -> None:
    seen = images()
    left, found = left_of(gaussian, seen), unexplained(gaussian, seen)
    for y in range(SIDE):
        for x in range(SIDE):
            whitening, cell = gaussian.whitening[y * SIDE + x], left[:, :, y, x]
            covariance = cell.T @ cell / COUNT + SHRINKAGE * torch.eye(CHANNELS)
            torch.testing.assert_close(whitening @ covariance @ whitening.T, torch.eye(CHANNELS), atol=0.02, rtol=0)
            torch.testing.assert_close(found[:, :, y, x], cell @ whitening.T, atol=1e-3, rtol=1e-3)


def test_an_image_unlike_all_others_explains_no_more_than_the_farthest_one(gaussian: PatchGaussian) -> None:
    seen, direction = images(5), gaussian.basis[:, 0] / gaussian.basis[:, 0].norm().square()
    for sign in (1, -1):
        far, farther = (
            unexplained(gaussian, seen._replace(miniature=(gaussian.miniature_mean + k * direction).expand(COUNT, -1)))
            for k in (sign * 30, sign * 60)
        )
        code = code_of(gaussian, seen._replace(miniature=(gaussian.miniature_mean + sign * 30 * direction)[None]))
        assert code[0, 0] == pytest.approx(sign * 30, rel=1e-3)
        assert code[0, 1:].abs().max() < FARTHEST, "of the others it has the same"
        assert (far - farther).norm() < 0.5 * far.norm()


def test_channels_and_exposures_that_hardly_vary_have_a_least_spread() -> None:
    seen = images()
    constant = seen.responses.clone()
    constant[:, 1] = 3.0
    same = patch_gaussian(seen._replace(responses=constant, exposure=torch.full((COUNT, 2), -1.0)), COUNT)
    assert same.spread[1] == pytest.approx(0.01)
    assert (same.spread[[0, 2]] > 1).all()
    assert same.exposure_mean.tolist() == [-1, -1]
    assert same.exposure_spread.tolist() == pytest.approx([LEAST_EXPOSURES] * 2)
    varied = patch_gaussian(seen, COUNT)
    torch.testing.assert_close(varied.exposure_mean, seen.exposure.mean(dim=0))
    torch.testing.assert_close(varied.exposure_spread, seen.exposure.std(dim=0))


def test_an_exposure_is_strange_by_what_it_lies_beyond_the_farthest(gaussian: PatchGaussian) -> None:
    offsets = torch.tensor([[0.0, 0.0], [4.9, -4.9], [7.0, 0.0], [-7.0, 0.0], [8.0, -6.0]])
    exposure = gaussian.exposure_mean + offsets * gaussian.exposure_spread
    found = exposed_otherwise(gaussian, images()._replace(exposure=exposure))
    torch.testing.assert_close(found, torch.tensor([1.0, 1.0, 3.0, 3.0, 5.0]))
