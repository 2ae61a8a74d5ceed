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
from diffad_ray.detectors.familiarity import (
    COLOURS,
    FARTHEST,
    FEWEST_IMAGES,
    GRID,
    MOST_ODDS,
    ORIENTATIONS,
    SHRINKAGE,
    WAVELENGTH,
    Familiarity,
    channels,
    either,
    filtered,
    gabor_filters,
    log_distance,
    octaves,
    patch_gaussian,
)
from diffad_ray.errors import UserError
from diffad_ray.training.looking_back import looking_back

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
    familiarity = Familiarity(SIDE)
    evidence = torch.randn(count, generator=torch.Generator().manual_seed(2)).double() - 3
    familiarity.fit(familiarity.describe(parts(count, 0)), torch.arange(count), evidence)
    return familiarity


def peaks(familiarity: Familiarity, images: Tensor, weight: float = 1.0) -> Tensor:
    return familiarity.log_odds(images, weight).flatten(1).amax(dim=1)


def test_new_normal_images_look_as_the_segmenter_finds_them_and_defects_do_not() -> None:
    familiarity, new = fitted(), parts(100, 3)
    usual = peaks(familiarity, new)
    assert abs(usual.median() - familiarity.usual_evidence) < 0.4
    # The evidence varies by 1, of which 1.28 are between its median and its 90 % quantile.
    assert 0.7 < usual.quantile(0.9) - usual.median() < 2.5
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
    energies = found[0, :-COLOURS, 8:-8, 8:-8].mean(dim=(1, 2))
    assert energies.argmax() == level * ORIENTATIONS + orientation
    assert energies.max() > 0.02


@pytest.mark.parametrize("side", [32, 64, 96, 128, 160, 256])
def test_filters_see_squares_of_any_size(side: int) -> None:
    found = filtered(torch.full((2, 3, side, side), 0.3), gabor_filters())
    assert found.shape == (2, channels(side), GRID, GRID)
    energies, grey, colours = found.split([ORIENTATIONS * octaves(side), 1, 2], dim=1)
    torch.testing.assert_close(grey, torch.full_like(grey, 0.3))
    assert energies.max() < 2e-4
    assert colours.abs().max() < 1e-6


def test_distances_are_honest_where_images_are_few() -> None:
    # 20 images, seen five times each, are no 100 images: they explain new ones less well.
    varied, evidence = torch.cat([parts(20, 0) + 0.002 * k for k in range(5)]), torch.linspace(-4, -2, 100).double()
    honest, again = Familiarity(SIDE), Familiarity(SIDE)
    honest.fit(honest.describe(varied), torch.arange(20).repeat(5), evidence)
    assert honest.basis.shape[1] == 5
    assert abs(peaks(honest, parts(100, 3)).median() - honest.usual_evidence) < 1
    # Numbers that share a factor with the number of parts are numbers like others.
    again.fit(again.describe(varied), 10 * torch.arange(20).repeat(5), evidence)
    assert torch.equal(again.usual_distance, honest.usual_distance)


def test_nothing_is_learnt_of_a_handful_or_of_what_is_no_number() -> None:
    familiarity, few = Familiarity(SIDE), FEWEST_IMAGES - 1
    seen = familiarity.describe(parts(4 * few, 0))
    familiarity.fit(seen, torch.arange(few).repeat(4), torch.zeros(4 * few).double())
    assert not familiarity.is_fitted
    broken = torch.zeros(4 * few).double()
    broken[3] = torch.nan
    familiarity.fit(seen, torch.arange(4 * few), broken)
    assert not familiarity.is_fitted


def test_images_without_any_difference_are_no_trouble() -> None:
    familiarity = Familiarity(SIDE)
    same = parts(1, 0).expand(20, -1, -1, -1)
    familiarity.fit(familiarity.describe(same), torch.arange(20), torch.full((20,), -20.0).double())
    damaged = same[:1].clone()
    damaged[..., 20:40, 20:40] = 0
    found = familiarity.log_odds(torch.cat([same[:1], damaged]), 2.0)
    assert found[0].max() <= -19.9
    assert found[1].max() > -10


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
    whitened = left[:, :, y, x] @ gaussian.whitening[y * GRID + x].T
    torch.testing.assert_close(
        whitened.square().mean(dim=1).log(), log_distance(gaussian, seen)[:, y, x], atol=1e-3, rtol=0
    )
    floor = SHRINKAGE * gaussian.whitening[y * GRID + x] @ gaussian.whitening[y * GRID + x].T
    identity = torch.eye(len(gaussian.spread))
    torch.testing.assert_close(whitened.T @ whitened / len(whitened) + floor, identity, atol=2e-2, rtol=0)


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
    detector.familiarise(looking_back(images, np.arange(len(images)), 0, detector, torch.device("cpu")))
    return detector


def smooth_images(count: int, seed: int) -> np.ndarray:
    coarse = torch.rand((count, 3, 4, 4), generator=torch.Generator().manual_seed(seed))
    fine = F.interpolate(coarse, 32, mode="bicubic").clamp(0, 1)
    return (fine * 255).byte().permute(0, 2, 3, 1).numpy()


def test_a_detector_gives_strange_images_higher_scores() -> None:
    plain, detector = tiny_detector(), familiar(tiny_detector(), smooth_images(40, 0))
    usual, strange = as_unit_tensor(smooth_images(20, 1)), as_unit_tensor(random_images(20))
    lifted = [d.score(strange).logit().median() - d.score(usual).logit().median() for d in (plain, detector)]
    evidence = plain.score(usual).logit()
    spread = evidence.quantile(0.9) - evidence.median()
    assert lifted[1] > lifted[0] + 2 * spread
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
    assert len(older) == len(weights) - len(detector.familiarity.shapes) - 1
    # Version 4 had these, without elements where nothing was learnt.
    older |= {f"familiarity.{name}": torch.empty(0) for name in ("mean", "whitening", "usual", "slope")}
    safetensors.torch.save_file(older, tmp_path / "old" / WEIGHTS)
    described = json.loads((tmp_path / "old" / DESCRIPTION).read_text())
    described["weights"]["sha256"] = hashlib.sha256((tmp_path / "old" / WEIGHTS).read_bytes()).hexdigest()
    for version, weight, is_read in ((3, None, True), (4, 0.0, True), (4, 0.5, False)):
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
