"""Familiarity: what is unlike the normal images, at its place and in this image, is anomalous, and nothing else is."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from good_parts import SIDE, as_pixels, familiar, parts, peaks, smooth_images
from hypothesis import given, settings
from hypothesis import strategies as st
from test_bundle import saved
from tiny_detector import random_images, tiny_detector
from torch import Tensor

from diffad_ray.bundles.bundle import load_bundle
from diffad_ray.detectors.diffusion_ad import DiffusionAD
from diffad_ray.familiarity.features import (
    GRID,
    channels,
)
from diffad_ray.familiarity.gaussians import (
    FARTHEST,
    SHRINKAGE,
    patch_gaussian,
    unexplained,
)
from diffad_ray.familiarity.judge import LEAST_DISTANCE, RARE, compressed, squared_distance
from diffad_ray.familiarity.learning import FOLDS
from diffad_ray.familiarity.model import (
    LEAST_STRANGENESS_SPREAD,
    LESS_AS_SHOWN,
    TERMS,
    Familiarity,
    background,
    either,
)
from diffad_ray.familiarity.normality import RESIDUALS, normality, residuals
from diffad_ray.tensors import as_unit_tensor


@pytest.fixture(scope="module")
def fitted() -> Familiarity:
    """Of a judge that knows nothing, so that distances alone count."""
    count = 120
    familiarity, generator = Familiarity(SIDE), torch.Generator().manual_seed(1)
    seen, part = familiarity.describe(parts(count, 0)), torch.arange(count) % FOLDS
    opinions = torch.empty((count, RESIDUALS, GRID, GRID))
    for number in range(FOLDS):
        others = normality(seen.those(part != number), int((part != number).sum()), generator)
        opinions[part == number] = familiarity.opinions(residuals(others, seen.those(part == number)))
    evidence = torch.randn(count, generator=torch.Generator().manual_seed(2)) - 3
    familiarity.learn(normality(seen, count, generator), opinions, evidence)
    return familiarity


@pytest.fixture(scope="module")
def familiar_weights() -> dict[str, Tensor]:
    """The state of a tiny detector with familiarity."""
    return familiar(tiny_detector(), smooth_images(40, 0)).state_dict()


def with_weights(weights: dict[str, Tensor], **settings: float) -> DiffusionAD:
    detector = tiny_detector(**settings)
    detector.load_state_dict(weights)
    return detector


@pytest.mark.long
def test_new_normal_images_look_as_the_segmenter_finds_them_and_defects_do_not(fitted: Familiarity) -> None:
    familiarity, new = fitted, parts(400, 3)
    usual = peaks(familiarity, new)
    assert abs(usual.median() - familiarity.usual_evidence) < 0.4
    assert 0.5 < usual.quantile(0.9) - usual.median() < 2
    torch.testing.assert_close(peaks(familiarity, new, 2.0), 2 * usual - familiarity.usual_evidence)

    scratched = new.clone()
    scratched[:, :, 30:34, 36:39] -= 0.1
    found = familiarity.log_odds(scratched, 1.0)
    assert (found.flatten(1).amax(dim=1) > usual.quantile(0.99)).float().mean() > 0.95
    places = found.flatten(1).argmax(dim=1)
    assert ((places // GRID - 16).abs() <= 3).float().mean() > 0.9
    assert ((places % GRID - 18).abs() <= 3).float().mean() > 0.9
    assert peaks(familiarity, 1 - new, 4.0).max() > 12


def test_the_light_of_the_whole_image_is_no_defect_but_that_of_its_half_is(fitted: Familiarity) -> None:
    familiarity, new = fitted, parts(100, 3)
    brighter, half = new + 0.05, new.clone()
    half[..., 32:] += 0.05
    usual = peaks(familiarity, new).median()
    assert peaks(familiarity, brighter).median() < usual + 1
    assert peaks(familiarity, half).median() > usual + 3


@pytest.mark.parametrize(
    ("gain", "offset"),
    [(0.3, 0.0), *(pytest.param(*values, marks=pytest.mark.long) for values in ((0.2, 0.4), (3.0, -0.5)))],
)
def test_an_exposure_unlike_all_others_is_strange(fitted: Familiarity, gain: float, offset: float) -> None:
    familiarity, new = fitted, parts(100, 3)
    assert peaks(familiarity, gain * new + offset).min() > peaks(familiarity, new).quantile(0.98) + 2


def test_what_is_new_in_colour_is_found(fitted: Familiarity) -> None:
    familiarity, new = fitted, parts(50, 3)
    red = new.clone()
    red[:, 0, 40:44, 40:44] += 0.1
    red[:, 1:, 40:44, 40:44] -= 0.05
    assert (peaks(familiarity, red) > peaks(familiarity, new).quantile(0.98)).all()


def test_strangeness_is_what_the_judge_says_and_how_far_the_nearest_examples_are() -> None:
    familiarity, found = Familiarity(SIDE), torch.zeros((1, RESIDUALS, channels(SIDE), GRID, GRID))
    found[:, :, :, 10, 10] = torch.tensor([2.0, 3.0, 6.0])[:, None]
    assert squared_distance(found)[0, :, 10, 10].tolist() == pytest.approx([4, 9, 36])
    opinions = familiarity.opinions(found)
    around = [math.log((square + 8 * LEAST_DISTANCE) / 9) for square in (9, 36)]
    assert opinions[0, :, 9, 11].tolist() == pytest.approx([RARE, *around], abs=1e-3)
    familiarity.usual_distance, familiarity.distance_spread = torch.tensor([-0.5, 1.0]), torch.tensor([0.4, 0.8])
    strangeness = familiarity.strangeness(opinions)
    for (y, x), (shown, left) in (((9, 11), around), ((20, 20), [math.log(LEAST_DISTANCE)] * 2)):
        terms = (shown + 0.5) / 0.4 - LESS_AS_SHOWN, (left - 1.0) / 0.8
        assert strangeness[0, y, x].item() == pytest.approx(RARE + math.log(sum(map(math.exp, terms))), abs=1e-3)
        if (y, x) == (9, 11):
            assert abs(terms[0] - terms[1]) < 1, "each distance alone would give another strangeness"


def test_a_judge_that_finds_the_whole_image_unusual_counts_from_its_background() -> None:
    familiarity, generator = Familiarity(SIDE), torch.Generator().manual_seed(0)
    familiarity.judge.out.weight.normal_(generator=generator)
    usual, new = torch.randn((2, 20, RESIDUALS, channels(SIDE), GRID, GRID), generator=generator)
    unlimited = familiarity.opinions(new)
    familiarity.learn_background(compressed(usual))
    limit = familiarity.background_limit
    assert torch.equal(familiarity.opinions(new), unlimited), "backgrounds as usual change nothing"
    familiarity.judge.out.bias += 100
    shifted = familiarity.opinions(new)
    assert torch.equal(shifted[:, 1:], unlimited[:, 1:])
    difference = shifted[:, 0] - unlimited[:, 0]
    torch.testing.assert_close(difference, difference[:, :1, :1].expand_as(difference), atol=1e-3, rtol=0)
    # What is subtracted once for the judge, and once for the distances, leaves a background as far below the limit.
    excess = (limit - background(shifted[:, :1])) / (TERMS - 1)
    torch.testing.assert_close(difference[:, 0, 0], 100 - TERMS * excess, atol=1e-2, rtol=0)


@pytest.mark.long
def test_what_lies_beside_a_scratch_is_not_strange() -> None:
    generator = torch.Generator().manual_seed(0)
    grain = (0.5 + 0.03 * torch.randn((102, 1, SIDE, SIDE), generator=generator)).expand(-1, 3, -1, -1)
    squares = as_pixels(grain[:100])
    detector = familiar(tiny_detector(image_size=SIDE), squares)
    scratched = grain[100:].clone()
    scratched[0, :, 40:42, 8:32] = 0.05
    odds = detector.familiarity.log_odds(scratched, 2.0) - detector.familiarity.usual_evidence
    across, far = odds[0, 20, 5:15], odds[0, :14]
    assert across.min() > 4
    assert far.quantile(0.9) < 0, "less than the least familiar place of a normal image usually is"


def test_images_without_any_difference_are_no_trouble() -> None:
    same = np.repeat(smooth_images(1, 0), 20, axis=0)
    detector = familiar(tiny_detector(), same)
    assert detector.familiarity.slope == 1 / LEAST_STRANGENESS_SPREAD
    damaged = same[:1].copy()
    damaged[:, 10:20, 10:20] = 0
    found = detector.familiarity.log_odds(as_unit_tensor(np.concatenate([same[:1], damaged])), 2.0)
    assert found[0].max() <= detector.familiarity.usual_evidence + 0.1
    assert found[1].max() > found[0].max() + 5


def test_what_the_image_does_not_explain_is_whitened() -> None:
    seen = Familiarity(SIDE).describe(parts(200, 0))
    gaussian = patch_gaussian(seen, 200)
    assert gaussian.basis.shape[1] == 50
    code = (seen.miniature - gaussian.miniature_mean) @ gaussian.basis
    torch.testing.assert_close(code.T @ code / len(code), torch.eye(50), atol=1e-3, rtol=0)
    code = code.clamp(-FARTHEST, FARTHEST)
    explained = torch.einsum("nk,kcyx->ncyx", code, gaussian.effect.float())
    all_of_it = torch.einsum("nk,ncyx->kcyx", code, seen.responses - gaussian.mean) / len(code)
    assert (gaussian.effect - all_of_it / 2).norm() < 0.05 * all_of_it.norm()
    left = (seen.responses - gaussian.mean - explained) / gaussian.spread[:, None, None]
    y, x = 16, 3
    whitening = gaussian.whitening[y * GRID + x]
    torch.testing.assert_close(whitening, whitening.T, atol=1e-4, rtol=0)
    whitened = left[:, :, y, x] @ whitening.T
    torch.testing.assert_close(whitened, unexplained(gaussian, seen)[:, :, y, x], atol=2e-3, rtol=0)
    floor = SHRINKAGE * whitening @ whitening.T
    identity = torch.eye(len(gaussian.spread))
    torch.testing.assert_close(whitened.T @ whitened / len(whitened) + floor, identity, atol=2e-2, rtol=0)


def test_an_untaught_detector_is_the_same_whatever_was_drawn_before() -> None:
    torch.manual_seed(1)
    one = Familiarity(SIDE).state_dict()
    torch.manual_seed(2)
    other = Familiarity(SIDE).state_dict()
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


@pytest.mark.parametrize("lost", ["judge.into.weight", "whitening"])
def test_a_part_that_is_lost_is_missed(familiar_weights: dict[str, Tensor], lost: str) -> None:
    state = {name: tensor for name, tensor in familiar_weights.items() if name != f"familiarity.{lost}"}
    with pytest.raises(RuntimeError, match=lost):
        tiny_detector().load_state_dict(state)


odds = st.lists(st.floats(-60, 60, width=32), min_size=4, max_size=4)


@settings(deadline=None)
@given(odds, odds)
def test_either_is_the_probability_that_one_of_them_is_true(values: list[float], others: list[float]) -> None:
    own, log_odds = torch.tensor(values).view(1, 1, 2, 2), torch.tensor(others).view(1, 2, 2)
    found = either(own, log_odds)
    assert (found >= torch.maximum(own, log_odds[:, None])).all()
    p, q = own.double().sigmoid(), log_odds[:, None].double().sigmoid()
    torch.testing.assert_close(found.double().sigmoid(), p + (1 - p) * q, atol=1e-6, rtol=0)
    torch.testing.assert_close(either(own, torch.full_like(log_odds, -200.0)), own, atol=1e-4, rtol=0)


def test_a_detector_gives_strange_images_higher_scores(familiar_weights: dict[str, Tensor]) -> None:
    plain, detector = tiny_detector(), with_weights(familiar_weights)
    usual, strange = as_unit_tensor(smooth_images(20, 1)), as_unit_tensor(random_images(20))
    lifted = [d.score(strange).median() - d.score(usual).median() for d in (plain, detector)]
    assert lifted[1] > lifted[0] + detector.settings.familiarity
    found, before = detector.detect(strange), plain.detect(strange)
    assert torch.equal(found.reconstruction, before.reconstruction)
    scored = detector.look(strange, detector.evidence(strange)).anomaly_map
    torch.testing.assert_close(detector.image_score(scored), found.score)
    without = with_weights(familiar_weights, familiarity=0.0)
    assert torch.equal(without.score(strange), plain.score(strange))


def test_bundles_keep_it(familiar_weights: dict[str, Tensor], tmp_path: Path) -> None:
    detector = with_weights(familiar_weights)
    images = as_unit_tensor(random_images(2))
    saved(detector, tmp_path / "new")
    assert torch.equal(load_bundle(str(tmp_path / "new")).detector.score(images), detector.score(images))


def _with(tensor: Tensor, value: float) -> Tensor:
    tensor = tensor.clone()
    tensor.view(-1)[0] = value
    return tensor


@pytest.mark.parametrize(
    ("name", "damaged"),
    [
        ("mean", lambda mean: mean[1:]),
        ("mean", lambda mean: mean.double()),
        ("slope", lambda slope: slope[:0]),
        ("slope", lambda slope: -slope),
        ("slope", lambda slope: _with(slope, torch.nan)),
        ("shown", lambda shown: shown[:0]),
        ("shown", lambda shown: shown[:, 0][:0]),
        ("shown", lambda shown: shown.float()),
        ("shown", lambda shown: _with(shown, torch.inf)),
        ("shown", lambda shown: shown.repeat(2, 1)),
        ("left", lambda left: left[1:]),
        ("effect", lambda effect: effect[1:]),
        ("spread", lambda spread: _with(spread, 0)),
        ("usual_distance", lambda distance: distance.to(torch.complex64)),
    ],
)
def test_statistics_that_cannot_be_are_refused(
    familiar_weights: dict[str, Tensor], name: str, damaged: Callable[[Tensor], Tensor]
) -> None:
    assert with_weights(familiar_weights).familiarity.is_fitted
    weights = familiar_weights | {f"familiarity.{name}": damaged(familiar_weights[f"familiarity.{name}"])}
    with pytest.raises(RuntimeError, match=rf"familiarity\.{name} (holds|has)"):
        tiny_detector().load_state_dict(weights)


def test_statistics_that_are_lost_but_for_one_are_refused(familiar_weights: dict[str, Tensor]) -> None:
    emptied = {f"familiarity.{name}": torch.empty(0) for name in Familiarity(32).shapes if name != "slope"}
    with pytest.raises(RuntimeError, match=r"familiarity\.miniature_mean has shape \[0\]"):
        tiny_detector().load_state_dict(familiar_weights | emptied)
