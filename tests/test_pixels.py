"""Figures from counted pixels are those from the pixels themselves."""

from __future__ import annotations

import numpy as np
import pytest

from diffad_ray.evaluation import pixels
from diffad_ray.evaluation.metrics import auroc, average_precision
from diffad_ray.evaluation.pixels import PixelCounts


@pytest.mark.parametrize("most", [100, 10**9])
def test_counting_changes_no_figure(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixels, "MOST_UNMERGED", most)
    rng = np.random.default_rng(0)
    maps = [rng.beta(0.3, 4, (30, 20 + k)).astype(np.float32).round(3 + k) for k in range(5)]
    masks = [rng.random(values.shape) < values**2 for values in maps]
    first, second = PixelCounts(), PixelCounts()
    for k, (values, mask) in enumerate(zip(maps, masks, strict=True)):
        (first, second)[k % 2].add(values, mask)
    both = PixelCounts.sum([first, second])
    scores, labels = (np.concatenate([part.ravel() for part in parts]) for parts in (maps, masks))
    assert both.auroc() == pytest.approx(auroc(scores, labels), abs=1e-6)
    assert both.average_precision() == pytest.approx(average_precision(scores, labels), abs=1e-5)
    assert both._merge().sum(axis=1).tolist() == [(~labels).sum(), labels.sum()]


def test_figures_without_either_kind_of_pixel_are_none() -> None:
    counts = PixelCounts()
    assert (counts.auroc(), counts.average_precision()) == (None, None)
    counts.add(np.ones((2, 2), np.float32), np.zeros((2, 2), bool))
    assert (counts.auroc(), counts.average_precision()) == (None, None)
    anomalous = PixelCounts()
    anomalous.add(np.ones((2, 2), np.float32), np.ones((2, 2), bool))
    assert (anomalous.auroc(), anomalous.average_precision()) == (None, 1.0)
    both = PixelCounts.sum([counts, anomalous])
    assert (both.auroc(), both.average_precision()) == (0.5, 0.5)


def test_rounding_keeps_the_order_and_merges_neighbours() -> None:
    values = np.array([-2.0, -1e-3, 0.0, 1e-9, 0.3, 0.3 * (1 + 3e-7), 0.3001, 1.0, 7.5], np.float32)
    rounded = pixels._rounded(values)
    np.testing.assert_allclose(rounded, values, rtol=1e-5)
    assert rounded[4] == rounded[5]
    assert len(set(rounded.tolist())) == 8
    assert (np.diff(rounded) >= 0).all()
