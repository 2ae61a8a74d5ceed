"""The map in which regions are found follows the edges of the image, and the score knows nothing of it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from good_parts import SIDE, as_pixels, parts
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_detector import tiny_detector
from torch import Tensor

from diffad_ray.detectors.familiarity_alone import FamiliarityAlone, FamiliarityAloneSettings
from diffad_ray.detectors.judged import JudgedDetector
from diffad_ray.familiarity.features import GRID
from diffad_ray.familiarity.model import smooth
from diffad_ray.familiarity.sharpening import along_edges
from diffad_ray.tensors import NormalSquares


def square_of(side: int, inside: float) -> tuple[Tensor, Tensor]:
    """A grey image [1,3,S,S] with a bright square, and where that is, [1,S,S]."""
    where = torch.zeros((1, side, side), dtype=torch.bool)
    first, last = int(side * 0.35), int(side * 0.35) + int(side * inside)
    where[:, first:last, first:last] = True
    return torch.where(where, 0.8, 0.3)[:, None].expand(-1, 3, -1, -1), where


@settings(deadline=None, max_examples=20)
@given(st.floats(-20, 20), st.integers(16, 200), st.integers(0, 3))
def test_equal_cells_give_equal_pixels(value: float, side: int, seed: int) -> None:
    images = torch.rand((2, 3, side, side), generator=torch.Generator().manual_seed(seed))
    found = along_edges(torch.full((2, GRID, GRID), value), images)
    torch.testing.assert_close(found, torch.full((2, side, side), value), atol=1e-3, rtol=1e-3)


def test_without_edges_it_only_smooths() -> None:
    odds = torch.randn((3, GRID, GRID), generator=torch.Generator().manual_seed(0)) * 5
    found = along_edges(odds, torch.full((3, 3, 96, 96), 0.4))
    assert found.isfinite().all()
    assert (found.amax((1, 2)) <= odds.amax((1, 2))).all()
    assert (found.amin((1, 2)) >= odds.amin((1, 2))).all()


def test_no_image_depends_on_the_others() -> None:
    generator = torch.Generator().manual_seed(1)
    images, odds = (torch.rand(shape, generator=generator) for shape in ((4, 3, 64, 64), (4, GRID, GRID)))
    torch.testing.assert_close(along_edges(odds, images)[2:3], along_edges(odds[2:3], images[2:3]))


@pytest.mark.parametrize("side", [64, 128, 256])
def test_a_region_shrinks_to_its_defect(side: int) -> None:
    images, where = square_of(side, 0.2)
    # Of cells that touch the defect: what the judge says at best.
    odds = F.adaptive_max_pool2d(where.float(), GRID) * 12 - 6
    smoothed = F.interpolate(smooth(odds[:, None]), (side, side), mode="bilinear")[:, 0]

    def overlap(shown: Tensor) -> float:
        mask = shown >= 0
        return ((mask & where).sum() / (mask | where).sum()).item()

    assert overlap(along_edges(odds, images)) > max(0.9, overlap(smoothed))


@pytest.fixture(scope="module", params=["familiarity", "diffusion-ad"])
def fitted(request: pytest.FixtureRequest) -> JudgedDetector:
    detector = (
        FamiliarityAlone(FamiliarityAloneSettings(image_size=SIDE))
        if request.param == "familiarity"
        else tiny_detector(image_size=SIDE)
    )
    images = as_pixels(parts(12, 0))
    detector.fit(
        NormalSquares(images, torch.arange(len(images)).numpy(), None, 10, 0, torch.device("cpu")), lambda doing: None
    )
    return detector.eval()


@torch.inference_mode()
def test_scores_are_of_the_map_that_is_not_sharpened(fitted: JudgedDetector) -> None:
    images = parts(4, 1)
    found = fitted.look(images, fitted.evidence(images))
    detected = fitted.detect(images)
    assert torch.equal(detected.score, fitted.image_score(found.anomaly_map))
    # No map lies below its score: in an image that is flagged, there are pixels that reach the threshold.
    raised = (detected.anomaly_map - found.shown[:, 0]).flatten(1)
    assert (raised.amax(dim=1) - raised.amin(dim=1)).max() < 1e-5
    assert (raised >= 0).all()
    assert (detected.anomaly_map.flatten(1).amax(dim=1) >= detected.score - 1e-5).all()
    assert torch.equal(raised.amax(dim=1) > 1e-5, detected.score > found.shown.flatten(1).amax(dim=1) + 1e-5)
    assert found.shown.shape == found.anomaly_map.shape
    assert not torch.equal(found.shown, found.anomaly_map)
    places = fitted.familiarity.log_odds(images, fitted.settings.familiarity)
    assert torch.equal(places, fitted.familiarity.scored_and_shown(images, fitted.settings.familiarity)[0])
