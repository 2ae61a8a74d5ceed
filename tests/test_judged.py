"""A kind's own evidence and familiarity: the one that tells less must not spoil the other."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from good_parts import SIDE, as_pixels, familiar, parts
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_detector import tiny_detector
from torch import Tensor

from diffad_ray.detectors.diffusion_ad import DiffusionAD
from diffad_ray.detectors.judged import Examination, log_odds_to_tell

scores = st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0]), min_size=1, max_size=6)


@given(scores, scores)
@settings(deadline=None)
def test_odds_count_the_pairs_in_the_right_order(good: list[float], defective: list[float]) -> None:
    right = sum((d > g) + (d == g) / 2 for g in good for d in defective)
    found = log_odds_to_tell(torch.tensor(good)[:, None], torch.tensor(defective)[:, None])
    assert found.exp().item() == pytest.approx((right + 1) / (len(good) * len(defective) - right + 1))


def fitted_with(evidence: Callable[[DiffusionAD, Tensor], Tensor], monkeypatch: pytest.MonkeyPatch) -> DiffusionAD:
    """A detector whose own evidence is a function, fitted to good parts."""
    detector = tiny_detector(image_size=SIDE)
    monkeypatch.setattr(detector, "evidence", lambda images: Examination(evidence(detector, images), None))
    return familiar(detector, as_pixels(parts(16, 0)))


def noise(detector: DiffusionAD, images: Tensor) -> Tensor:
    return 10 * torch.randn((len(images), 1, SIDE, SIDE), generator=torch.Generator().manual_seed(len(images)))


def as_familiarity(detector: DiffusionAD, images: Tensor) -> Tensor:
    places = torch.zeros((len(images), 1, 1, 1))
    if detector.familiarity.is_fitted:
        places = detector.familiarity.log_odds(images, 1.0)[:, None]
    return torch.nn.functional.interpolate(places, (SIDE, SIDE), mode="bilinear")


def test_evidence_that_tells_nothing_is_made_less_of(monkeypatch: pytest.MonkeyPatch) -> None:
    detector = fitted_with(noise, monkeypatch)
    assert detector.familiarity.discount > 0.5
    new = parts(4, 1)
    discounted = detector.score(new)
    detector.familiarity.discount.zero_()
    assert (discounted < detector.score(new)).all()


def test_evidence_that_tells_as_much_counts_in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    assert fitted_with(as_familiarity, monkeypatch).familiarity.discount < 0.2
