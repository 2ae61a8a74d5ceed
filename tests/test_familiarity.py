"""Familiarity: what is unlike the normal images, at its place and in this image, is anomalous, and nothing else is."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from test_bundle import saved
from tiny_detector import random_images, tiny_detector
from torch import Tensor

from diffad_ray import train
from diffad_ray.detectors.bundle import DESCRIPTION, WEIGHTS, Bundle, load_bundle
from diffad_ray.detectors.diffusion_ad import DiffusionAD, DiffusionADSettings
from diffad_ray.detectors.engine import as_unit_tensor
from diffad_ray.detectors.familiarity import DISTANCE_WEIGHT, LEAST_SPREAD, MOST_ODDS, Familiarity, either
from diffad_ray.detectors.gabor import (
    COLOURS,
    GRID,
    LEAST_ENERGY,
    ORIENTATIONS,
    WAVELENGTH,
    channels,
    filtered,
    gabor_filters,
    octave_sides,
)
from diffad_ray.detectors.patch_gaussian import (
    FARTHEST,
    SHRINKAGE,
    PatchGaussian,
    patch_gaussian,
    squared_distance,
    unexplained,
)
from diffad_ray.errors import UserError
from diffad_ray.networks.residual_segmenter import RARE, ResidualSegmenter
from diffad_ray.synthesis.pseudo_anomalies import pseudo_anomalies
from diffad_ray.training.familiarise import FEWEST_IMAGES, FEWEST_TO_TEACH, FOLDS, familiarise, folds, teach

SIDE = 64


def parts(count: int, seed: int) -> Tensor:
    """Images [N,3,64,64] of a part: a disk that is a little elsewhere and in another light each time, with grain."""
    generator = torch.Generator().manual_seed(seed)
    axis = torch.arange(SIDE, dtype=torch.float32)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    shift = 32 + 2 * torch.randn((count, 2, 1, 1), generator=generator)
    radius = ((y - shift[:, 0]).square() + (x - shift[:, 1]).square()).sqrt()
    light = 0.4 + 0.2 * torch.rand((count, 1, 1), generator=generator)
    grain = 0.01 * torch.randn((count, SIDE, SIDE), generator=generator)
    grey = light * (1 + torch.sigmoid(radius - 20)) + grain
    return grey[:, None].expand(-1, 3, -1, -1).clamp(0, 1)


def fitted(count: int = 120) -> Familiarity:
    """Of a judge that knows nothing, so that distances alone count."""
    familiarity = Familiarity(SIDE)
    seen, part = familiarity.describe(parts(count, 0)), torch.arange(count) % FOLDS
    strangeness = torch.empty(count)
    for number in range(FOLDS):
        others = patch_gaussian(seen.those(part != number), int((part != number).sum()))
        left = unexplained(others, seen.those(part == number))
        strangeness[part == number] = familiarity.strangeness(left).flatten(1).amax(dim=1)
    evidence = torch.randn(count, generator=torch.Generator().manual_seed(2)) - 3
    familiarity.learn(patch_gaussian(seen, count), strangeness, evidence)
    return familiarity


def peaks(familiarity: Familiarity, images: Tensor, weight: float = 1.0) -> Tensor:
    return familiarity.log_odds(images, weight).flatten(1).amax(dim=1)


def test_new_normal_images_look_as_the_segmenter_finds_them_and_defects_do_not() -> None:
    familiarity, new = fitted(), parts(100, 3)
    usual = peaks(familiarity, new)
    assert abs(usual.median() - familiarity.usual_evidence) < 0.4
    assert 0.5 < usual.quantile(0.9) - usual.median() < 2
    torch.testing.assert_close(peaks(familiarity, new, 2.0), (2 * usual - familiarity.usual_evidence).clamp(max=12))

    scratched = new.clone()
    scratched[:, :, 30:34, 36:39] -= 0.1
    found = familiarity.log_odds(scratched, 1.0)
    assert (found.flatten(1).amax(dim=1) > usual.quantile(0.99)).float().mean() > 0.95
    places = found.flatten(1).argmax(dim=1)
    assert ((places // GRID - 16).abs() <= 3).float().mean() > 0.9
    assert ((places % GRID - 18).abs() <= 3).float().mean() > 0.9
    assert peaks(familiarity, 1 - new, 4.0).max() == MOST_ODDS


def test_the_light_of_the_whole_image_is_no_defect_but_that_of_its_half_is() -> None:
    familiarity, new = fitted(), parts(100, 3)
    brighter, half = new + 0.05, new.clone()
    half[..., 32:] += 0.05
    usual = peaks(familiarity, new).median()
    assert peaks(familiarity, brighter).median() < usual + 1
    assert peaks(familiarity, half).median() > usual + 3


def test_what_is_new_in_colour_is_found() -> None:
    familiarity, new = fitted(), parts(50, 3)
    red = new.clone()
    red[:, 0, 40:44, 40:44] += 0.1
    red[:, 1:, 40:44, 40:44] -= 0.05
    assert (peaks(familiarity, red) > peaks(familiarity, new).quantile(0.98)).all()


@given(st.integers(0, ORIENTATIONS - 1), st.integers(0, 2))
@settings(deadline=None)
def test_a_wave_is_seen_by_the_filter_of_its_direction_and_length(orientation: int, level: int) -> None:
    angle, length = math.pi * orientation / ORIENTATIONS, WAVELENGTH * 2**level
    axis = torch.arange(128, dtype=torch.float32)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    wave = 0.5 + 0.2 * torch.sin(2 * math.pi * (x * math.cos(angle) + y * math.sin(angle)) / length)
    found = filtered(wave.expand(1, 3, -1, -1), gabor_filters())
    roots = found[0, :-COLOURS, 8:-8, 8:-8].mean(dim=(1, 2))
    # Of the two finest octaves there are maxima, too, each before its means.
    means = roots.view(-1, ORIENTATIONS)[[1, 3, 4, 5]]
    assert means.flatten().argmax() == level * ORIENTATIONS + orientation
    assert means.max().square() > 0.02


@pytest.mark.parametrize("side", [16, 32, 64, 96, 128, 160, 256])
def test_filters_see_squares_of_any_size(side: int) -> None:
    found = filtered(torch.full((2, 3, side, side), 0.3), gabor_filters())
    assert found.shape == (2, channels(side), GRID, GRID)
    roots, grey, colours = found.split([found.shape[1] - COLOURS, 1, 2], dim=1)
    torch.testing.assert_close(grey, torch.full_like(grey, 0.3))
    assert (roots.square() - LEAST_ENERGY).max() < 2e-4
    assert colours.abs().max() < 1e-6
    assert octave_sides(side)[0] == min(side, 128)


def test_a_speck_sets_the_maximum_of_its_place() -> None:
    image = torch.full((1, 3, 128, 128), 0.5)
    image[..., 65, 65] = 0.0
    maxima, means = filtered(image, gabor_filters())[0, : 2 * ORIENTATIONS].split(ORIENTATIONS)
    assert (maxima[:, 16, 16].square() > 1.3 * means[:, 16, 16].square()).all()


@given(st.lists(st.integers(0, 30), min_size=FEWEST_IMAGES, max_size=80), st.integers(1, 4))
@settings(deadline=None, max_examples=50)
def test_images_that_look_alike_are_in_one_part_and_no_part_is_empty(lots: list[int], tiles: int) -> None:
    looks = torch.randn((31, 768), generator=torch.Generator().manual_seed(0))
    grain = 0.01 * torch.randn((len(lots) * tiles, 768), generator=torch.Generator().manual_seed(1))
    # Numbers that share a factor with the number of parts are numbers like others.
    sources = 10 * torch.arange(len(lots)).repeat_interleave(tiles)
    part = folds(looks[torch.tensor(lots)].repeat_interleave(tiles, dim=0) + grain, sources, torch.Generator())
    assert sorted(part.unique().tolist()) == list(range(FOLDS))
    by_image = part.view(len(lots), tiles)
    assert (by_image == by_image[:, :1]).all(), "tiles of an image are in one part"
    smallest, largest = (of(part.bincount().tolist()) for of in (min, max))
    assert largest - smallest <= tiles * (len(lots) // FOLDS)


def test_lots_are_kept_together() -> None:
    generator = torch.Generator().manual_seed(0)
    looks, lots = torch.randn((10, 768), generator=generator), torch.arange(10).repeat(20)
    seen = looks[lots] + 0.1 * torch.randn((200, 768), generator=generator)
    together = [folds(seen, torch.arange(200), torch.Generator().manual_seed(k)).view(20, 10) for k in range(5)]
    # Groups of k-means can hold two lots or half of one.
    share = torch.stack([(part == part.mode(dim=0).values).float().mean() for part in together]).mean()
    assert share > 0.8


def test_what_judges_learns_what_an_anomaly_leaves() -> None:
    generator = torch.Generator().manual_seed(0)
    left, masks = torch.randn((200, 5, GRID, GRID), generator=generator), torch.zeros((200, GRID, GRID))
    for k in range(100):
        y, x = torch.randint(0, GRID - 4, (2,), generator=generator).tolist()
        masks[k, y : y + 4, x : x + 4] = 1
        # By its size no stranger than others, but always of one sign.
        left[k, :, y : y + 4, x : x + 4] = left[k, :, y : y + 4, x : x + 4].abs()
    torch.manual_seed(0)
    judge, told = ResidualSegmenter(5), []
    torch.testing.assert_close(judge(left), torch.full_like(masks, RARE))
    teach(judge, left[::2].half(), masks[::2], 200, 0, lambda *step: told.append(step))
    found = judge(left[1::2])
    inside = masks[1::2] > 0
    assert found[inside].median() > found[~inside].quantile(0.99)
    assert [step[:2] for step in told] == [(100, 200), (200, 200)]
    assert told[1][2] < told[0][2] < 0.1
    assert not any(parameter.requires_grad for parameter in judge.parameters())


def test_strangeness_is_what_the_judge_says_and_the_distance() -> None:
    familiarity, left = Familiarity(SIDE), torch.zeros((1, channels(SIDE), GRID, GRID))
    left[:, :, 10, 10] = 3.0
    distance = squared_distance(left)
    assert distance[0, 10, 10] == pytest.approx(9.0)
    found = familiarity.strangeness(left)
    assert found[0, 9, 11].item() == pytest.approx(RARE + DISTANCE_WEIGHT * math.log(1.0), abs=1e-3)
    assert found[0, 20, 20] < -20


def test_images_without_any_difference_are_no_trouble() -> None:
    same = np.repeat(smooth_images(1, 0), 20, axis=0)
    detector = familiar(tiny_detector(), same)
    assert detector.familiarity.slope == 1 / LEAST_SPREAD
    damaged = same[:1].copy()
    damaged[:, 10:20, 10:20] = 0
    found = detector.familiarity.log_odds(as_unit_tensor(np.concatenate([same[:1], damaged])), 2.0)
    assert found[0].max() <= detector.familiarity.usual_evidence + 0.1
    assert found[1].max() > found[0].max() + 5


def test_nothing_is_learnt_of_a_handful_or_of_what_is_no_number() -> None:
    few = FEWEST_IMAGES - 1
    detector = tiny_detector()
    tiles, of = smooth_images(4 * few, 0), np.arange(few).repeat(4)
    familiarise(detector, tiles, of, None, 2, 0, torch.device("cpu"))
    assert not detector.familiarity.is_fitted
    with torch.no_grad():
        detector.segmenter.conv_out.bias.fill_(torch.nan)
    assert not familiar(detector, tiles).familiarity.is_fitted


def test_what_the_image_does_not_explain_is_whitened() -> None:
    seen = Familiarity(SIDE).describe(parts(200, 0))
    gaussian = patch_gaussian(seen, 200)
    assert gaussian.basis.shape[1] == 50
    code = (seen.miniature - gaussian.miniature_mean) @ gaussian.basis
    torch.testing.assert_close(code.T @ code / len(code), torch.eye(50), atol=1e-3, rtol=0)
    code = code.clamp(-FARTHEST, FARTHEST)
    explained = torch.einsum("nk,kcyx->ncyx", code, gaussian.effect.float())
    left = (seen.responses - gaussian.mean - explained) / gaussian.spread[:, None, None]
    y, x = 16, 3
    whitening = gaussian.whitening[y * GRID + x]
    torch.testing.assert_close(whitening, whitening.T, atol=1e-4, rtol=0)
    whitened = left[:, :, y, x] @ whitening.T
    torch.testing.assert_close(whitened, unexplained(gaussian, seen)[:, :, y, x], atol=2e-3, rtol=0)
    floor = SHRINKAGE * whitening @ whitening.T
    identity = torch.eye(len(gaussian.spread))
    torch.testing.assert_close(whitened.T @ whitened / len(whitened) + floor, identity, atol=2e-2, rtol=0)


def as_pixels(images: Tensor) -> np.ndarray:
    return (images * 255).round().byte().permute(0, 2, 3, 1).numpy()


def test_a_detector_learns_at_its_end_what_anomalies_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[tuple[Any, ...]] = []

    def spied(x: Tensor, textures: Any, generator: Any, made_by: Any, foregrounds: Any) -> Any:
        given.append((x, textures, foregrounds))
        return pseudo_anomalies(x, textures, generator, made_by, foregrounds)

    monkeypatch.setattr("diffad_ray.training.familiarise.pseudo_anomalies", spied)
    inside = np.zeros((60, SIDE, SIDE, 1), np.uint8)
    inside[:, 4:-4, 4:-4] = 255
    squares = np.concatenate([as_pixels(parts(60, 0)), inside], axis=3)
    textures, told = torch.rand((5, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(1)), []
    detector = tiny_detector(image_size=SIDE)

    def taught() -> Familiarity:
        familiarise(
            detector, squares, np.arange(60), textures, 100, 0, torch.device("cpu"), lambda *step: told.append(step)
        )
        return detector.familiarity

    familiarity = taught()
    assert [step[0] for step in told] == [0, 100, 200]
    assert told[-1][2] < told[1][2]
    x, lent, foregrounds = given[0]
    assert lent is textures
    assert foregrounds.shape == (len(x), 1, SIDE, SIDE)
    assert foregrounds.float().mean().item() == pytest.approx((56 / 64) ** 2)

    new = parts(100, 3)
    usual = peaks(familiarity, new) - familiarity.usual_evidence
    assert abs(usual.median()) < 0.5
    assert 0.3 < usual.quantile(0.9) < 2
    made = pseudo_anomalies(new, textures, torch.Generator().manual_seed(5), detector.settings.anomalies)
    gaussian = PatchGaussian(*(getattr(familiarity, name) for name in PatchGaussian._fields))
    found = familiarity.judge(unexplained(gaussian, familiarity.describe(made.images)))
    masks = F.adaptive_avg_pool2d(made.masks, GRID).squeeze(1)
    assert found[masks > 0.9].median() > found[masks == 0].quantile(0.95)

    before = {name: tensor.clone() for name, tensor in familiarity.state_dict().items()}
    torch.manual_seed(7)
    again = taught().state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in before.items())


def test_of_few_images_distances_alone_are_learnt() -> None:
    detector = familiar(tiny_detector(), smooth_images(FEWEST_TO_TEACH - 1, 0))
    assert detector.familiarity.is_fitted
    left = torch.randn((1, channels(32), GRID, GRID))
    torch.testing.assert_close(detector.familiarity.judge(left), torch.full((1, GRID, GRID), RARE))


def test_an_untaught_detector_is_the_same_whatever_was_drawn_before() -> None:
    torch.manual_seed(1)
    one = Familiarity(SIDE).state_dict()
    torch.manual_seed(2)
    other = Familiarity(SIDE).state_dict()
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


@pytest.mark.parametrize("lost", ["judge.into.weight", "whitening"])
def test_a_part_that_is_lost_is_missed(lost: str) -> None:
    detector = familiar(tiny_detector(), smooth_images(40, 0))
    state = {name: tensor for name, tensor in detector.state_dict().items() if name != f"familiarity.{lost}"}
    with pytest.raises(RuntimeError, match=lost):
        tiny_detector().load_state_dict(state)


odds = st.lists(st.floats(-60, MOST_ODDS, width=32), min_size=4, max_size=4)
probabilities = st.lists(st.floats(0, 1, width=32), min_size=4, max_size=4)


@settings(deadline=None)
@given(probabilities, odds)
def test_either_is_never_less_than_one_of_them(values: list[float], others: list[float]) -> None:
    before, log_odds = torch.tensor(values).view(1, 1, 2, 2), torch.tensor(others).view(1, 2, 2)
    after = either(before, log_odds)
    assert 0 <= after.min() <= after.max() <= 1
    assert (after >= torch.maximum(before, log_odds[:, None].sigmoid()) - 1e-6).all()
    torch.testing.assert_close(either(before, torch.full_like(log_odds, -60.0)), before, atol=1e-6, rtol=0)


def test_trained_detectors_have_it_whatever_their_view(bundle: Bundle, normals: Path, tmp_path: Path) -> None:
    assert isinstance(bundle.detector, DiffusionAD)
    assert bundle.detector.familiarity.is_fitted
    quick = ["training.precision=float32", "detector.view=tiles"]
    tiny: dict[str, Any] = {"preset": "tiny", "image_size": 32, "steps": 2, "batch_size": 4, "workers": 0}
    tiles = train(normals, tmp_path / "tiles", **tiny, overrides=quick)
    assert isinstance(tiles.detector, DiffusionAD)
    assert tiles.detector.familiarity.is_fitted
    few = tmp_path / "few"
    few.mkdir()
    for file in sorted(normals.iterdir())[:5]:
        (few / file.name).write_bytes(file.read_bytes())
    handful = train(few, tmp_path / "handful", **tiny, overrides=quick)
    assert isinstance(handful.detector, DiffusionAD)
    assert not handful.detector.familiarity.is_fitted, "tiles of few images are no many images"


def familiar(detector: DiffusionAD, images: np.ndarray) -> DiffusionAD:
    familiarise(detector, images, np.arange(len(images)), None, 10, 0, torch.device("cpu"))
    return detector


def smooth_images(count: int, seed: int) -> np.ndarray:
    coarse = torch.rand((count, 3, 4, 4), generator=torch.Generator().manual_seed(seed))
    fine = F.interpolate(coarse, 32, mode="bicubic").clamp(0, 1)
    return (fine * 255).byte().permute(0, 2, 3, 1).numpy()


def test_a_detector_gives_strange_images_higher_scores() -> None:
    plain, detector = tiny_detector(), familiar(tiny_detector(), smooth_images(40, 0))
    usual, strange = as_unit_tensor(smooth_images(20, 1)), as_unit_tensor(random_images(20))
    lifted = [d.score(strange).logit().median() - d.score(usual).logit().median() for d in (plain, detector)]
    assert lifted[1] > lifted[0] + detector.settings.familiarity
    found, before = detector.detect(strange), plain.detect(strange)
    assert torch.equal(found.reconstruction, before.reconstruction)
    torch.testing.assert_close(detector.image_score(found.anomaly_map[:, None]), found.score)
    without = tiny_detector(familiarity=0.0)
    without.load_state_dict(detector.state_dict())
    assert torch.equal(without.score(strange), plain.score(strange))


def test_bundles_keep_it_and_older_ones_have_none(tmp_path: Path) -> None:
    detector = familiar(tiny_detector(), smooth_images(40, 0))
    images = as_unit_tensor(random_images(2))
    saved(detector, tmp_path / "new")
    assert torch.equal(load_bundle(str(tmp_path / "new")).detector.score(images), detector.score(images))

    saved(tiny_detector(), tmp_path / "old")
    weights = safetensors.torch.load_file(tmp_path / "old" / WEIGHTS)
    older = {name: tensor for name, tensor in weights.items() if not name.startswith("familiarity.")}
    assert len(older) == len(weights) - len(detector.familiarity.state_dict())
    # Versions 4 and 5 had these, without elements where nothing was learnt.
    older |= {f"familiarity.{name}": torch.empty(0) for name in ("mean", "whitening", "usual", "slope")}
    safetensors.torch.save_file(older, tmp_path / "old" / WEIGHTS)
    described = json.loads((tmp_path / "old" / DESCRIPTION).read_text())
    described["weights"]["sha256"] = hashlib.sha256((tmp_path / "old" / WEIGHTS).read_bytes()).hexdigest()
    for version, weight, is_read in ((3, None, True), (4, 0.0, True), (4, 0.5, False), (5, 2.0, False)):
        described["schema_version"] = version
        described["settings"].pop("familiarity", None)
        if weight is not None:
            described["settings"]["familiarity"] = weight
        (tmp_path / "old" / DESCRIPTION).write_text(json.dumps(described))
        if not is_read:
            with pytest.raises(UserError, match="train it again"):
                load_bundle(str(tmp_path / "old"))
            continue
        old = load_bundle(str(tmp_path / "old")).detector
        assert isinstance(old.settings, DiffusionADSettings)
        assert old.settings.familiarity == 0
        assert torch.equal(old.score(images), tiny_detector().score(images))


def test_statistics_of_another_size_are_refused(tmp_path: Path) -> None:
    saved(familiar(tiny_detector(), smooth_images(40, 0)), tmp_path / "bundle")
    weights = safetensors.torch.load_file(tmp_path / "bundle" / WEIGHTS)
    weights["familiarity.mean"] = weights["familiarity.mean"][1:].clone()
    detector = tiny_detector()
    with pytest.raises(RuntimeError, match=r"familiarity\.mean"):
        detector.load_state_dict(weights)
