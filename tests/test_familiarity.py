"""Familiarity: what is unlike the normal images counts more, and nothing else changes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_bundle import saved
from tiny_detector import random_images, tiny_detector
from torch import Tensor

from diffad_ray import train
from diffad_ray.detectors.bundle import DESCRIPTION, WEIGHTS, Bundle, load_bundle
from diffad_ray.detectors.diffusion_ad import DiffusionAD, DiffusionADSettings
from diffad_ray.detectors.engine import as_unit_tensor
from diffad_ray.detectors.familiarity import FEWEST_IMAGES, LEAST_SHIFT, MOST_SHIFT, Familiarity, pooled, shifted
from diffad_ray.training.augmentation import Augmentation
from diffad_ray.training.loop import TrainingSettings
from diffad_ray.training.variations import variations


def drawn(count: int, seed: int) -> Tensor:
    """Features [N,12] of which some go together, as those of a camera's images do."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn((12, 12), generator=torch.Generator().manual_seed(1))
    return torch.randn((count, 12), generator=generator) @ mixing + 5


def fitted(count: int = 200) -> Familiarity:
    familiarity = Familiarity(12)
    evidence = torch.randn(count, generator=torch.Generator().manual_seed(2)) - 3
    familiarity.fit(drawn(count, 0), torch.arange(count), evidence)
    return familiarity


def test_new_normal_images_keep_their_odds_and_strange_ones_do_not() -> None:
    familiarity, new = fitted(), drawn(400, 3)
    shift = familiarity.shift(new, 1.0)
    assert abs(shift.median()) < 0.3
    # The evidence varies by 1, of which 1.28 are between its median and its 90 % quantile; so does the shift.
    assert 0.8 < shift.quantile(0.9) < 2.0
    # Each feature by itself stays within what is normal; they don't go together any more.
    strange = torch.stack([column[torch.randperm(400)] for column in new.T], dim=1)
    assert familiarity.shift(strange, 1.0).median() > 3
    torch.testing.assert_close(familiarity.shift(new, 0.5).clamp(min=-0.5), 0.5 * shift.clamp(min=-1.0))
    assert familiarity.shift(1000 * new, 1.0).max() == MOST_SHIFT
    assert familiarity.shift(familiarity.mean[None], 1.0).item() == LEAST_SHIFT


def test_distances_are_honest_where_images_are_few() -> None:
    # 31 images, seen seven times each, in 12 dimensions: a Gaussian that knows one of the seven has all of them near.
    seen, evidence = drawn(31, 0), torch.linspace(-4, -2, 217)
    varied = torch.cat([seen + 0.01 * k for k in range(7)])
    honest, fooled = Familiarity(12), Familiarity(12)
    honest.fit(varied, torch.arange(31).repeat(7), evidence)
    fooled.fit(varied, torch.arange(217), evidence)
    new = drawn(400, 3)
    assert abs(honest.shift(new, 1.0).median()) < 0.75
    assert fooled.usual < honest.usual - 0.3, "images that are no others must share a number"
    # Numbers that share a factor with the number of parts are numbers like others.
    again = Familiarity(12)
    again.fit(varied, 10 * torch.arange(31).repeat(7), evidence)
    assert torch.equal(again.usual, honest.usual)


def test_nothing_is_learnt_of_a_handful() -> None:
    familiarity = Familiarity(12)
    few = FEWEST_IMAGES - 1
    familiarity.fit(drawn(4 * few, 0), torch.arange(few).repeat(4), torch.zeros(4 * few))
    assert not familiarity.is_fitted
    broken = drawn(40, 0)
    broken[3, 4] = torch.nan
    familiarity.fit(broken, torch.arange(40), torch.zeros(40))
    assert not familiarity.is_fitted


def test_a_feature_that_is_silent_on_normal_images_does_not_drown_the_others() -> None:
    familiarity, features = Familiarity(12), drawn(200, 0)
    features[:, 5] = 0
    familiarity.fit(features, torch.arange(200), torch.randn(200, generator=torch.Generator().manual_seed(2)))
    new = drawn(400, 3)
    new[:, 5] = 0
    shift = familiarity.shift(new, 1.0)
    new[:, 5] = 1e-4
    assert (familiarity.shift(new, 1.0) - shift).abs().max() < 0.1


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


probabilities = st.lists(st.floats(0, 1, width=32), min_size=4, max_size=4)


@settings(deadline=None)
@example([1.0] * 4, 3.7, 1.0)
@given(probabilities, st.floats(LEAST_SHIFT, MOST_SHIFT, width=32), st.floats(2**-10, 1, width=32))
def test_a_shift_keeps_the_order_of_pixels_and_the_bounds(values: list[float], shift: float, peak: float) -> None:
    before = torch.tensor(sorted(values), dtype=torch.float64).view(1, 1, 2, 2)
    after = shifted(before, torch.tensor([peak], dtype=torch.float64), torch.tensor([shift], dtype=torch.float64))
    assert (after.flatten().diff() >= -1e-12).all()
    assert 0 <= after.min() <= after.max() <= 1
    assert ((after - before) * shift >= -1e-12).all(), "all pixels go the same way"
    unmoved = shifted(before, torch.tensor([peak]), torch.tensor([0.0]))
    assert torch.equal(unmoved, before)
    shifts = torch.linspace(LEAST_SHIFT, MOST_SHIFT, 1001)
    assert shifted(torch.ones((1001, 1, 1, 1)), torch.ones(1001), shifts).max() == 1


def test_pooled_features_are_mean_maximum_and_deviation() -> None:
    maps = [torch.randn((3, 4, 8, 8)), torch.randn((3, 2, 4, 4)).bfloat16()]
    found = pooled(maps)
    assert found.shape == (3, 18)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found[:, :4], maps[0].mean(dim=(2, 3)))
    torch.testing.assert_close(found[:, 4:8], maps[0].amax(dim=(2, 3)))
    torch.testing.assert_close(found[:, 16:], maps[1].float().std(dim=(2, 3)))


def familiar(detector: DiffusionAD, images: np.ndarray) -> DiffusionAD:
    training = TrainingSettings(augmentation=Augmentation(mirror="both"))
    detector.familiarise(variations(images, np.arange(len(images)), training, detector, torch.device("cpu")))
    return detector


def smooth_images(count: int, seed: int) -> np.ndarray:
    coarse = torch.rand((count, 3, 4, 4), generator=torch.Generator().manual_seed(seed))
    fine = torch.nn.functional.interpolate(coarse, 32, mode="bicubic").clamp(0, 1)
    return (fine * 255).byte().permute(0, 2, 3, 1).numpy()


def test_a_detector_gives_strange_images_higher_scores() -> None:
    plain, detector = tiny_detector(), familiar(tiny_detector(), smooth_images(40, 0))
    usual, strange = as_unit_tensor(smooth_images(20, 1)), as_unit_tensor(random_images(20))
    lifted = [d.score(strange).logit().median() - d.score(usual).logit().median() for d in (plain, detector)]
    evidence = plain.score(usual).logit()
    spread = evidence.quantile(0.9) - evidence.median()
    assert lifted[1] > lifted[0] + 2 * spread
    assert (detector.score(usual).logit() - evidence).abs().median() < spread
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
    assert len(older) == len(weights) - 4
    safetensors.torch.save_file(older, tmp_path / "old" / WEIGHTS)
    described = json.loads((tmp_path / "old" / DESCRIPTION).read_text())
    described["weights"]["sha256"] = hashlib.sha256((tmp_path / "old" / WEIGHTS).read_bytes()).hexdigest()
    described["schema_version"] = 3
    del described["settings"]["familiarity"]
    (tmp_path / "old" / DESCRIPTION).write_text(json.dumps(described))
    old = load_bundle(str(tmp_path / "old")).detector
    assert isinstance(old.settings, DiffusionADSettings)
    assert old.settings.familiarity == 0
    assert torch.equal(old.score(images), tiny_detector().score(images))


def test_statistics_of_another_network_are_refused(tmp_path: Path) -> None:
    saved(familiar(tiny_detector(), smooth_images(40, 0)), tmp_path / "bundle")
    weights = safetensors.torch.load_file(tmp_path / "bundle" / WEIGHTS)
    weights["familiarity.mean"] = weights["familiarity.mean"][1:].clone()
    detector = tiny_detector()
    with pytest.raises(RuntimeError, match=r"familiarity\.mean"):
        detector.load_state_dict(weights)
