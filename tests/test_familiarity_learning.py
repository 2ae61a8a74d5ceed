"""The end of a training: what is familiar is learnt from images that look alike apart, and judged by what is not."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from good_parts import SIDE, as_pixels, familiar, parts, peaks, smooth_images
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_detector import random_images, tiny_detector, tiny_training
from torch import Tensor

from diffad_ray import train
from diffad_ray.bundles.bundle import Bundle
from diffad_ray.detectors.diffusion_ad import DiffusionAD
from diffad_ray.detectors.familiarity_alone import FamiliarityAlone, FamiliarityAloneSettings
from diffad_ray.familiarity.features import GRID, Described, channels
from diffad_ray.familiarity.judge import RARE, ResidualSegmenter, compressed
from diffad_ray.familiarity.learning import (
    FEWEST_TO_FIT,
    FEWEST_TO_TEACH,
    FOLDS,
    LOOKS,
    CrossFitted,
    folds,
    teach,
)
from diffad_ray.familiarity.model import Familiarity
from diffad_ray.familiarity.normality import RESIDUALS, Normality, normality, residuals
from diffad_ray.familiarity.samples import Known, judge_samples
from diffad_ray.inference.processor import has_bfloat16
from diffad_ray.synthesis.pseudo_anomalies import AnomalySettings, pseudo_anomalies
from diffad_ray.tensors import NormalSquares, as_unit_tensor
from diffad_ray.training.settle import WantedScoring, settle


def taught_steps(told: list[str]) -> list[tuple[int, int, float]]:
    """Steps done, steps in all and the loss, of what was told of a network's training."""
    found = [re.fullmatch(r"familiarity: step (\d+) of (\d+), loss ([\d.]+)", line) for line in told]
    return [(int(step[1]), int(step[2]), float(step[3])) for step in found if step]


@given(st.lists(st.integers(0, 30), min_size=FEWEST_TO_FIT, max_size=80), st.integers(1, 4))
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


@pytest.mark.long
def test_what_judges_learns_what_an_anomaly_leaves() -> None:
    generator = torch.Generator().manual_seed(0)
    left, masks = torch.randn((200, 1, 5, GRID, GRID), generator=generator), torch.zeros((200, GRID, GRID))
    for k in range(100):
        y, x = torch.randint(0, GRID - 4, (2,), generator=generator).tolist()
        masks[k, y : y + 4, x : x + 4] = 1
        # By its size no stranger than others, but always of one sign.
        left[k, ..., y : y + 4, x : x + 4] = left[k, ..., y : y + 4, x : x + 4].abs()
    torch.manual_seed(0)
    judge, lines = ResidualSegmenter(1, 5), list[str]()
    torch.testing.assert_close(judge(left), torch.full_like(masks, RARE))
    teach(judge, compressed(left[::2]).half(), masks[::2], 200, torch.Generator().manual_seed(0), lines.append)
    found = judge(left[1::2])
    inside = masks[1::2] > 0
    assert found[inside].median() > found[~inside].quantile(0.99)
    told = taught_steps(lines)
    assert [step[:2] for step in told] == [(100, 200), (200, 200)]
    assert told[1][2] < told[0][2] < 0.1
    assert not any(parameter.requires_grad for parameter in judge.parameters())


def test_nothing_is_learnt_of_a_handful_or_of_what_is_no_number() -> None:
    few = FEWEST_TO_FIT - 1
    detector = tiny_detector()
    tiles, of = smooth_images(4 * few, 0), np.arange(few).repeat(4)
    detector.fit(NormalSquares(tiles, of, None, 2, 0, torch.device("cpu")), print)
    assert not detector.familiarity.is_fitted
    with torch.no_grad():
        detector.segmenter.conv_out.bias.fill_(torch.nan)
    assert not familiar(detector, tiles).familiarity.is_fitted


@pytest.mark.long
def test_a_detector_learns_at_its_end_what_anomalies_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[tuple[Any, ...]] = []

    def spied(x: Tensor, textures: Any, generator: Any, made_by: Any, foregrounds: Any) -> Any:
        given.append((x, textures, foregrounds))
        return pseudo_anomalies(x, textures, generator, made_by, foregrounds)

    monkeypatch.setattr("diffad_ray.familiarity.samples.pseudo_anomalies", spied)
    inside = np.zeros((60, SIDE, SIDE, 1), np.uint8)
    inside[:, 4:-4, 4:-4] = 255
    squares = np.concatenate([as_pixels(parts(60, 0)), inside], axis=3)
    textures, told = torch.rand((5, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(1)), list[str]()
    detector = tiny_detector(image_size=SIDE)

    def taught() -> Familiarity:
        detector.fit(NormalSquares(squares, np.arange(60), textures, 100, 0, torch.device("cpu")), told.append)
        return detector.familiarity

    familiarity = taught()
    looked, made = "familiarity: 60 of 60 good images looked at", "familiarity: 534 of 534 samples made"
    steps = taught_steps(told)
    assert [step[0] for step in steps] == [100, 200]
    assert steps[-1][2] < steps[0][2]
    assert 0 < told.index(looked) < told.index(made) < len(told) - 2
    x, lent, foregrounds = given[0]
    assert lent is textures
    assert foregrounds.shape == (len(x), 1, SIDE, SIDE)
    assert foregrounds.float().mean().item() == pytest.approx((56 / 64) ** 2)

    new = parts(400, 3)
    usual = peaks(familiarity, new) - familiarity.usual_evidence
    assert abs(usual.median()) < 0.5
    assert 0.3 < usual.quantile(0.9) < 2
    made = pseudo_anomalies(new, textures, torch.Generator().manual_seed(5), detector.settings.anomalies)
    found = familiarity.judge(residuals(familiarity.normality, familiarity.describe(made.images)))
    masks = F.adaptive_avg_pool2d(made.masks, GRID).squeeze(1)
    assert found[masks > 0.9].median() > found[masks == 0].quantile(0.95)

    before = {name: tensor.clone() for name, tensor in familiarity.state_dict().items()}
    torch.manual_seed(7)
    again = taught().state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in before.items())


def test_no_image_is_compared_with_statistics_that_have_seen_it(monkeypatch: pytest.MonkeyPatch) -> None:
    images = smooth_images(40, 0)
    miniatures = tiny_detector().familiarity.describe(as_unit_tensor(images)).miniature
    learnt_from: list[tuple[Normality, set[int]]] = []
    compared: list[int] = []

    def numbers(seen: Described) -> set[int]:
        return set(torch.cdist(seen.miniature, miniatures).argmin(dim=1).tolist())

    def barely_changed(x: Tensor, *others: Any, **settings: Any) -> Any:
        made = pseudo_anomalies(x, *others, **settings)
        return made._replace(images=torch.where(made.is_normal[:, None, None, None], x, x + 1e-4))

    def learning(seen: Described, images: int, generator: torch.Generator) -> Normality:
        learnt_from.append((normality(seen, images, generator), numbers(seen)))
        return learnt_from[-1][0]

    def comparing(normal: Normality, seen: Described) -> Tensor:
        (known,) = (known for statistics, known in learnt_from if statistics is normal)
        assert not known & numbers(seen)
        compared.append(len(seen.miniature))
        return residuals(normal, seen)

    for name, spy in (
        ("samples.pseudo_anomalies", barely_changed),
        ("learning.normality", learning),
        ("learning.residuals", comparing),
        ("samples.residuals", comparing),
    ):
        monkeypatch.setattr(f"diffad_ray.familiarity.{name}", spy)
    assert familiar(tiny_detector(), images).familiarity.is_fitted
    # Five parts sorted by their looks, five drawn at random, and all together, which no image is compared with here.
    sizes = [len(known) for _, known in learnt_from]
    assert sum(sizes[:FOLDS]) == sum(sizes[FOLDS:-1]) == 4 * 40
    assert sizes[-1] == 40
    # Half of the samples, and each square once more as it is.
    assert sum(compared) > 40 + 20 * 16 // LOOKS // 2


def test_squares_without_an_anomaly_are_searched_once_and_have_the_residuals_of_their_own() -> None:
    images = smooth_images(24, 0)
    familiarity, generator = tiny_detector().familiarity, torch.Generator().manual_seed(0)
    seen = familiarity.describe(as_unit_tensor(images))
    others = [normality(seen.those(torch.arange(24) % FOLDS != part), 19, generator) for part in range(FOLDS)]
    drawn: list[Tensor] = []

    def squares(numbers: np.ndarray) -> Tensor:
        drawn.append(torch.from_numpy(numbers))
        return as_unit_tensor(images[numbers])

    known = Known(seen, torch.arange(24) % FOLDS, others)
    lent = (None, AnomalySettings())
    samples, masks = judge_samples(familiarity, squares, lent, known, 120, generator, torch.float16, lambda doing: None)
    numbers = torch.cat(drawn)
    assert len(samples) == len(masks) == len(numbers) >= 120
    is_normal = masks.flatten(1).amax(dim=1) == 0
    assert 20 < is_normal.sum() < 100
    for sample, number in zip(samples[is_normal], numbers[is_normal], strict=True):
        expected = compressed(residuals(others[int(number) % FOLDS], seen.those(number[None])))[0]
        torch.testing.assert_close(sample.float(), expected, atol=1e-2, rtol=1e-2)


@pytest.mark.long
def test_mostly_blank_images_and_a_few_parts_are_no_trouble() -> None:
    few = np.zeros((57, 32, 32, 3), np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    detector = familiar(tiny_detector(), np.concatenate([few, noise]))
    assert all(tensor.isfinite().all() for tensor in detector.familiarity.state_dict().values())
    assert detector.score(as_unit_tensor(random_images(2))).isfinite().all()


def test_what_is_familiar_is_learnt_in_the_precision_of_scoring() -> None:
    cpu = torch.device("cpu")
    for wanted in ("auto", "float32", "bfloat16"):
        detector = tiny_detector()
        settle(detector, WantedScoring(precision=wanted, runtime="torch", batch=1), random_images(2), cpu)
        assert detector.mode.precision == detector.settings.precision
        assert wanted in ("auto", detector.settings.precision) or not has_bfloat16(cpu)


def test_of_few_images_distances_alone_are_learnt() -> None:
    detector = familiar(tiny_detector(), smooth_images(FEWEST_TO_TEACH - 1, 0))
    assert detector.familiarity.is_fitted
    left = torch.randn((1, RESIDUALS, channels(32), GRID, GRID))
    torch.testing.assert_close(detector.familiarity.judge(left), torch.full((1, GRID, GRID), RARE))


def test_cross_fitted_scores_are_those_of_new_images() -> None:
    settings = FamiliarityAloneSettings(image_size=SIDE)
    learnt, new = parts(60, 0), parts(100, 3)
    detector = FamiliarityAlone(settings)
    squares = NormalSquares(as_pixels(learnt), np.arange(60), None, 10, 0, torch.device("cpu"))
    apart = torch.tensor(detector.fit(squares, lambda doing: None).scores)
    assert apart.shape == (60,)
    found = detector.score(new)
    assert abs(apart.median() - found.median()) < 0.5
    assert detector.score(learnt).median() < apart.median() - 0.5, "statistics that saw an image know it by heart"
    tiles, none = squares._replace(sources=np.arange(60) // 4), CrossFitted(np.arange(60), torch.empty(0))
    assert not len(detector.cross_fitted_scores(tiles, none, lambda images: images))


def test_trained_detectors_have_it_whatever_their_view(bundle: Bundle, normals: Path, tmp_path: Path) -> None:
    assert isinstance(bundle.detector, DiffusionAD)
    assert bundle.detector.familiarity.is_fitted
    tiny = tiny_training("detector.view=tiles")
    tiles = train(normals, tmp_path / "tiles", settings=tiny, workers=0)
    assert isinstance(tiles.detector, DiffusionAD)
    assert tiles.detector.familiarity.is_fitted
    few = tmp_path / "few"
    few.mkdir()
    for file in sorted(normals.iterdir())[:5]:
        (few / file.name).write_bytes(file.read_bytes())
    handful = train(few, tmp_path / "handful", settings=tiny, workers=0)
    assert isinstance(handful.detector, DiffusionAD)
    assert not handful.detector.familiarity.is_fitted, "tiles of few images are no many images"
