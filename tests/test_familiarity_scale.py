"""How familiarity judges a cell, by hand: from residuals to log odds, and which statistics of a bundle are refused."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from diffad_ray.familiarity.exemplars import MOST_PLACES, KnownPlaces
from diffad_ray.familiarity.features import GRID, channels
from diffad_ray.familiarity.gaussians import PatchGaussian
from diffad_ray.familiarity.judge import RARE
from diffad_ray.familiarity.model import Familiarity, background, smooth
from diffad_ray.familiarity.normality import RESIDUALS, Normality

SIDE = 16
COUNT = channels(SIDE)


class Says(nn.Module):
    """A judge whose log odds are the first channel of what it gets."""

    def forward(self, residuals: Tensor) -> Tensor:
        return self.judged(residuals.flatten(1, 2))

    def judged(self, seen: Tensor) -> Tensor:
        return seen[:, 0]


def judged_by_hand() -> Familiarity:
    familiarity = Familiarity(SIDE)
    familiarity.judge = Says()
    return familiarity


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def statistics() -> dict[str, Tensor]:
    """Statistics that can be, of two components and five exemplars."""
    letters = {"K": 2, "M": 5}
    halves = ("effect", "shown", "left")
    shapes = {
        name: [letters[length] if isinstance(length, str) else length for length in shape]
        for name, shape in Familiarity(SIDE).shapes.items()
    }
    return {
        name: torch.ones(shape, dtype=torch.float16 if name in halves else torch.float32)
        for name, shape in shapes.items()
    }


def test_statistics_have_the_shapes_of_those_in_bundles() -> None:
    assert Familiarity(SIDE).shapes == {
        "miniature_mean": [768],
        "basis": [768, "K"],
        "mean": [COUNT, 32, 32],
        "effect": ["K", COUNT, 32, 32],
        "spread": [COUNT],
        "whitening": [1024, COUNT, COUNT],
        "exposure_mean": [2],
        "exposure_spread": [2],
        "common_mean": [COUNT],
        "common_whitening": [COUNT, COUNT],
        "shown": ["M", COUNT],
        "left": ["M", COUNT],
        "usual_distance": [2],
        "distance_spread": [2],
        "usual_strangeness": [1],
        "usual_evidence": [1],
        "slope": [1],
    }
    state = Familiarity(SIDE).state_dict()
    assert (state["discount"].tolist(), state["background_limit"].tolist()) == ([0.0], [1e6])
    assert not any(parameter.requires_grad for parameter in Familiarity(SIDE).parameters())


def test_cells_are_averaged_with_their_neighbours_and_borders_repeat() -> None:
    places = torch.zeros((1, 2, GRID, GRID))
    places[0, 0, 10, 20] = places[0, 1, 0, 0] = 9
    found = smooth(places)
    assert found.shape == places.shape
    assert found[0, 0, 9:12, 19:22].unique().tolist() == [1]
    assert found[0, 0].sum() == 9
    assert found[0, 1, :3, :3].tolist() == [[4, 2, 0], [2, 1, 0], [0, 0, 0]]


def test_the_background_is_what_a_tenth_of_the_cells_is_below() -> None:
    cells = torch.randperm(GRID**2, generator=torch.Generator().manual_seed(0)).float().view(1, 1, GRID, GRID)
    assert background(torch.cat([cells, cells + 5])).tolist() == [101, 106]


def test_opinions_are_log_odds_less_twice_the_excess_of_the_background_and_log_distances() -> None:
    familiarity, residuals = judged_by_hand(), drawn(2, RESIDUALS, COUNT, GRID, GRID)
    residuals[1, 0, 0] += 5
    judged = smooth(residuals[:, :1, 0])
    backgrounds = background(judged)
    familiarity.background_limit = (backgrounds[0] + 0.5)[None]
    found = familiarity.opinions(residuals)
    excess = torch.stack([torch.tensor(0.0), 2 * (backgrounds[1] - familiarity.background_limit[0])])
    assert excess[1] > 5
    torch.testing.assert_close(found[:, 0], judged[:, 0] - excess.view(2, 1, 1))
    distances = smooth(residuals[:, 1:].square().mean(dim=2).clamp(min=1e-3)).log()
    torch.testing.assert_close(found[:, 1:], distances)


def test_a_background_is_unusual_two_spreads_above_the_median_of_normal_ones() -> None:
    familiarity = judged_by_hand()
    levels = torch.arange(41.0)[torch.randperm(41, generator=torch.Generator().manual_seed(0))]
    # Those who learn have the judge's input, `compressed` residuals.
    seen = levels.view(-1, 1, 1, 1).expand(-1, RESIDUALS * (COUNT + 1), GRID, GRID)
    familiarity.learn_background(seen.half())
    assert familiarity.background_limit.tolist() == [20 + 2 * 16]
    familiarity.learn_background(seen[:1].expand(30, -1, -1, -1))
    assert familiarity.background_limit.tolist() == pytest.approx([float(levels[0]) + 2 * 0.2])


def normal() -> Normality:
    given = statistics()
    gaussian, places = (kind(*(given[name] for name in kind._fields)) for kind in (PatchGaussian, KnownPlaces))
    return Normality(gaussian, places)


def opinions_of(*peaks: tuple[float, float, float]) -> Tensor:
    """Opinions [N,R,G,G] that are low but in one cell of each image."""
    found = torch.full((len(peaks), RESIDUALS, GRID, GRID), -9.0)
    found[:, :, 3, 4] = torch.tensor(peaks)
    return found


def test_the_scale_is_that_of_the_most_unusual_cells_of_normal_images() -> None:
    familiarity = Familiarity(SIDE)
    assert not familiarity.is_fitted
    levels = torch.arange(11.0)
    opinions = opinions_of(*((float(k), float(k), 2.0 * float(k)) for k in levels))
    familiarity.learn(normal(), opinions, levels.double() - 8)
    assert familiarity.is_fitted
    assert familiarity.usual_distance.tolist() == [5, 10]
    assert familiarity.distance_spread.tolist() == [4, 8]
    # Of both distances an image of level k has (k - 5) / 4; the first counts for a spread less.
    strangeness = levels + (levels - 5) / 4 + math.log(1 + math.exp(-1))
    torch.testing.assert_close(familiarity.strangeness(opinions)[:, 3, 4], strangeness)
    assert familiarity.usual_strangeness.tolist() == pytest.approx([float(strangeness[5])])
    assert familiarity.slope.tolist() == pytest.approx([1 / (4 * 1.25)])
    assert familiarity.usual_evidence.tolist() == [-3]
    assert familiarity.usual_evidence.dtype == torch.float32
    odds = familiarity.as_log_odds(opinions, 2.0)[:, 3, 4]
    torch.testing.assert_close(odds, -3 + 2 * (levels - 5) / 4)
    for part in normal():
        for name, value in part._asdict().items():
            assert torch.equal(getattr(familiarity, name), value)
    assert all(torch.equal(a, b) for part, other in zip(familiarity.normality, normal(), strict=True)
               for a, b in zip(part, other, strict=True))  # fmt: skip


def test_images_that_are_all_alike_have_a_least_spread() -> None:
    familiarity = Familiarity(SIDE)
    familiarity.learn(normal(), opinions_of(*([(1.0, 2.0, 3.0)] * 12)), torch.zeros(12))
    assert familiarity.distance_spread.tolist() == pytest.approx([0.2, 0.2])
    assert familiarity.slope.tolist() == [1 / 0.5]


def test_a_module_that_has_learnt_is_kept_and_one_without_statistics_is_as_new() -> None:
    familiarity = Familiarity(SIDE)
    familiarity.learn(normal(), opinions_of((0, 1, 2), (1, 2, 3)), torch.zeros(2))
    familiarity.discount += 0.5
    again = Familiarity(SIDE)
    again.load_state_dict(familiarity.state_dict())
    assert again.is_fitted
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in familiarity.state_dict().items())
    within = nn.ModuleDict({"familiarity": familiarity})
    within.load_state_dict({})
    assert not familiarity.is_fitted
    assert familiarity.discount == 0


def test_statistics_that_can_be_are_no_damage() -> None:
    familiarity, given = Familiarity(SIDE), statistics()
    assert familiarity.damage(given) is None
    assert familiarity.damage({name: torch.empty(0) for name in given}) is None
    largest = {name: torch.zeros((MOST_PLACES, COUNT)).half() for name in ("shown", "left")}
    assert familiarity.damage(given | largest) is None
    for name in ("mean", "usual_distance", "usual_strangeness", "usual_evidence", "exposure_mean", "effect"):
        assert familiarity.damage(given | {name: -given[name]}) is None


@pytest.mark.parametrize(
    ("name", "damaged", "reason"),
    [
        ("mean", Tensor.double, "holds torch.float64, not torch.float32"),
        ("effect", Tensor.float, "holds torch.float32, not torch.float16"),
        ("shown", Tensor.float, "holds torch.float32, not torch.float16"),
        ("left", Tensor.float, "holds torch.float32, not torch.float16"),
        ("mean", lambda mean: mean[1:], f"has shape [{COUNT - 1}, 32, 32]"),
        ("mean", lambda mean: mean[..., None], f"has shape [{COUNT}, 32, 32, 1]"),
        ("slope", lambda slope: slope[:0], "has shape [0]"),
        ("effect", lambda effect: effect[1:], f"has shape [1, {COUNT}, 32, 32]"),
        ("left", lambda left: left[1:], f"has shape [4, {COUNT}]"),
        ("shown", lambda shown: shown[:0], f"has shape [0, {COUNT}]"),
        ("shown", lambda shown: torch.zeros((MOST_PLACES + 1, COUNT)).half(), f"has shape [4097, {COUNT}]"),
        ("mean", lambda mean: mean * torch.nan, "holds numbers that can't be"),
        ("left", lambda left: left * torch.inf, "holds numbers that can't be"),
        *((name, torch.zeros_like, "holds numbers that can't be")
          for name in ("spread", "exposure_spread", "distance_spread", "slope")),
    ],
)  # fmt: skip
def test_statistics_that_cannot_be_say_why(name: str, damaged: Callable[[Tensor], Tensor], reason: str) -> None:
    given = statistics()
    assert Familiarity(SIDE).damage(given | {name: damaged(given[name])}) == f"{name} {reason}"


def test_a_new_judge_has_the_odds_of_what_is_rare() -> None:
    found = Familiarity(SIDE).opinions(drawn(1, RESIDUALS, COUNT, GRID, GRID))
    torch.testing.assert_close(found[:, 0], torch.full((1, GRID, GRID), RARE))
