"""A kind's own evidence and familiarity: the one that tells less must not spoil the other."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
import torch
from good_parts import SIDE, as_pixels, parts
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from tiny_detector import tiny_detector
from torch import Tensor

from diffad_ray.bundles.bundle import Bundle
from diffad_ray.bundles.calibration import Calibration
from diffad_ray.detectors.base import Fitted
from diffad_ray.detectors.diffusion_ad import DiffusionAD
from diffad_ray.detectors.judged import Examination, log_odds_to_tell
from diffad_ray.reports.training_text import print_training
from diffad_ray.tensors import NormalSquares

scores = st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0]), min_size=1, max_size=6)


@given(scores, scores)
@settings(deadline=None)
def test_odds_count_the_pairs_in_the_right_order(good: list[float], defective: list[float]) -> None:
    right = sum((d > g) + (d == g) / 2 for g in good for d in defective)
    found = log_odds_to_tell(torch.tensor(good)[:, None], torch.tensor(defective)[:, None])
    assert found.exp().item() == pytest.approx((right + 1) / (len(good) * len(defective) - right + 1))


def fitted_with(
    evidence: Callable[[DiffusionAD, Tensor], Tensor], monkeypatch: pytest.MonkeyPatch
) -> tuple[DiffusionAD, Fitted]:
    """A detector whose own evidence is a function, fitted to good parts; and what was found."""
    detector = tiny_detector(image_size=SIDE)
    monkeypatch.setattr(detector, "evidence", lambda images: Examination(evidence(detector, images), None))
    images = as_pixels(parts(16, 0))
    squares = NormalSquares(images, np.arange(len(images)), None, 10, 0, torch.device("cpu"))
    return detector, detector.fit(squares, lambda doing: None)


def noise(detector: DiffusionAD, images: Tensor) -> Tensor:
    return 10 * torch.randn((len(images), 1, SIDE, SIDE), generator=torch.Generator().manual_seed(len(images)))


def as_familiarity(detector: DiffusionAD, images: Tensor) -> Tensor:
    places = torch.zeros((len(images), 1, 1, 1))
    if detector.familiarity.is_fitted:
        places = detector.familiarity.log_odds(images, 1.0)[:, None]
    return torch.nn.functional.interpolate(places, (SIDE, SIDE), mode="bilinear")


def test_evidence_that_tells_nothing_is_made_less_of(monkeypatch: pytest.MonkeyPatch) -> None:
    detector, found = fitted_with(noise, monkeypatch)
    assert detector.familiarity.discount > 0.5
    assert found.tells["networks"] < 0.7 < found.tells["familiarity"]
    new = parts(4, 1)
    discounted = detector.score(new)
    detector.familiarity.discount.zero_()
    assert (discounted < detector.score(new)).all()


def test_evidence_that_tells_as_much_counts_in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    detector, found = fitted_with(as_familiarity, monkeypatch)
    assert detector.familiarity.discount < 0.2
    assert found.tells["networks"] == pytest.approx(found.tells["whole"], abs=0.05)


@pytest.mark.parametrize(("whole", "is_said"), [(0.951, True), (0.97, False)])
def test_networks_that_add_nothing_are_named_when_the_training_ends(whole: float, is_said: bool) -> None:
    tells = {"networks": 0.8, "familiarity": 0.95, "whole": whole}
    facts = {"data": {}, "images": 40, "seconds": 1.0, "losses": {}, "unreadable": {}, "tells": tells}
    said = Console(record=True, width=1000, file=io.StringIO())
    print_training(Bundle(tiny_detector(), Calibration.from_scores(np.arange(40.0)), facts), "detectors/part", said)
    assert ("familiarity alone has an image AUROC of 0.950, and with them 0.951" in said.export_text()) == is_said
