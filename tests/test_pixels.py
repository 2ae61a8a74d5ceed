"""Figures from counted pixels are those from the pixels themselves, and AUPRO is what one gets by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from diffad_ray.evaluation import pixels
from diffad_ray.evaluation.pixels import PixelCounts


def aupro_by_hand(maps: list[np.ndarray], masks: list[np.ndarray], limit: float = 0.3) -> float:
    """Every distinct value a threshold, every region counted by itself, the curve integrated as it is."""
    regions = []
    for values, mask in zip(maps, masks, strict=True):
        labelled, count = ndimage.label(mask, np.ones((3, 3)))
        regions += [values[labelled == k] for k in range(1, count + 1)]
    normal = np.concatenate([values[~mask] for values, mask in zip(maps, masks, strict=True)])
    thresholds = np.append(np.inf, np.unique(np.concatenate([m.ravel() for m in maps]))[::-1])

    def share_from(values: np.ndarray) -> np.ndarray:
        return 1 - np.searchsorted(np.sort(values), thresholds) / len(values)

    x, y = share_from(normal), np.mean([share_from(region) for region in regions], axis=0)
    k = np.searchsorted(x, limit, side="right")
    if k < len(x):
        at_limit = y[k - 1] + (y[k] - y[k - 1]) * (limit - x[k - 1]) / (x[k] - x[k - 1])
        x, y = np.append(x[:k], limit), np.append(y[:k], at_limit)
    return float(np.trapezoid(y, x) / limit)


def counted(maps: list[np.ndarray], masks: list[np.ndarray]) -> PixelCounts:
    counts = PixelCounts()
    for values, mask in zip(maps, masks, strict=True):
        counts.add(values, mask)
    return counts


def some_maps(rng: np.random.Generator, count: int = 5) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Maps that know something of their masks, with more ties in some than in others, and saturated at both ends."""
    masks = [ndimage.gaussian_filter(rng.random((30, 20 + k)), 2) > 0.53 for k in range(count)]
    maps = [
        (m * 0.3 + rng.beta(0.3, 2, m.shape)).clip(0, 1).astype(np.float32).round(2 + k) for k, m in enumerate(masks)
    ]
    return maps, masks


@pytest.mark.parametrize("most_waiting", [0, 1000, 10**9])
def test_counting_changes_no_figure(most_waiting: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixels, "MOST_WAITING", most_waiting)
    maps, masks = some_maps(np.random.default_rng(0))
    both = PixelCounts.sum([counted(maps[::2], masks[::2]), counted(maps[1::2], masks[1::2])])
    scores, labels = (np.concatenate([part.ravel() for part in parts]) for parts in (maps, masks))
    assert both.dropped_bits == 0
    assert both.auroc() == pytest.approx(roc_auc_score(labels, scores), abs=1e-9)
    assert both.average_precision() == pytest.approx(average_precision_score(labels, scores), abs=1e-9)
    precision, recall, _ = precision_recall_curve(labels, scores)
    best = (2 * precision * recall / np.maximum(precision + recall, 1e-300)).max()
    assert both.f1_max() == pytest.approx(best, abs=1e-9)
    for limit in (0.05, 0.3, 1.0):
        assert both.aupro(limit) == pytest.approx(aupro_by_hand(maps, masks, limit), abs=1e-9)


def test_aupro_of_hand_computed_cases() -> None:
    """Two regions of 1 and 4 pixels, ten normal pixels."""
    mask = np.zeros((3, 5), bool)
    mask[0, 0] = True
    mask[1:, 3:] = True

    def found(small: float, large: list[float], normal: list[float], limit: float = 0.3) -> float | None:
        values = np.zeros((3, 5), np.float32)
        values[0, 0], values[1:, 3:], values[~mask] = small, np.reshape(large, (2, 2)), normal
        return counted([values], [mask]).aupro(limit)

    zeros = [0.0] * 10
    assert found(1, [1] * 4, zeros) == pytest.approx(1)
    # All alike: the curve is the diagonal, and its area up to 0.3 is half of 0.3 squared.
    assert found(0, [0] * 4, zeros) == pytest.approx(0.15)
    assert found(0, [0] * 4, zeros, limit=1.0) == pytest.approx(0.5)
    # The small region first, the large one after two of ten normal pixels: 0.5 up to 0.2, then 1 up to 0.3.
    assert found(0.9, [0.5] * 4, [0.7, 0.7] + [0.0] * 8) == pytest.approx((0.5 * 0.2 + 0.1) / 0.3)
    # Only half of the large region, so that the overlap is 0.25 beside pixels' recall of 0.4.
    assert found(0, [0.9, 0.9, 0, 0], [0.5] * 5 + [0.1] * 5) == pytest.approx(0.25)
    # Saturated: five normal pixels share the highest score with half of each region's; the ramp ends beyond the limit.
    assert found(0, [1] * 4, [1.0] * 5 + [0.0] * 5) == pytest.approx(0.5 * (0.3 / 0.5) * 0.3 / 2 / 0.3)
    # Exactly at the limit a vertical rise adds nothing.
    assert found(0.5, [0.5] * 4, [0.9] * 3 + [0.0] * 7) == 0


def test_regions_touch_by_corners_and_keep_their_holes() -> None:
    diagonal = np.eye(4, dtype=bool)
    assert counted([np.zeros((4, 4), np.float32)], [diagonal]).regions == 1
    ring = np.ones((5, 5), bool)
    ring[1:4, 1:4] = False
    inner = ring.copy()
    inner[2, 2] = True
    maps = [np.arange(25, dtype=np.float32).reshape(5, 5)]
    for mask, regions in ((ring, 1), (inner, 2)):
        counts = counted(maps, [mask])
        assert counts.regions == regions
        # The hole is normal.
        assert counts.aupro() == pytest.approx(aupro_by_hand(maps, [mask]), abs=1e-12)


def test_figures_without_either_kind_of_pixel_are_none() -> None:
    def figures(counts: PixelCounts) -> list[float | None]:
        return [counts.auroc(), counts.average_precision(), counts.f1_max(), counts.aupro()]

    normal, defective = PixelCounts(), PixelCounts()
    assert figures(normal) == [None] * 4
    normal.add(np.ones((2, 2), np.float32), np.zeros((2, 2), bool))
    defective.add(np.ones((2, 2), np.float32), np.ones((2, 2), bool))
    assert figures(normal) == figures(defective) == [None] * 4
    assert figures(PixelCounts.sum([normal, defective])) == pytest.approx([0.5, 0.5, 2 / 3, 0.15])
    with pytest.raises(ValueError, match="finite"):
        normal.add(np.full((2, 2), np.nan, np.float32), np.zeros((2, 2), bool))


def test_too_many_values_lose_bits_alike_in_every_order(monkeypatch: pytest.MonkeyPatch) -> None:
    maps, masks = some_maps(np.random.default_rng(1), 8)
    maps = [
        values + np.float32(1e-4) * np.random.default_rng(k).random(values.shape, np.float32)
        for k, values in enumerate(maps)
    ]
    exact = counted(maps, masks)
    monkeypatch.setattr(pixels, "MOST_DISTINCT", 1500)
    found = []
    for most_waiting, order in ((0, range(8)), (700, reversed(range(8))), (10**9, range(8))):
        monkeypatch.setattr(pixels, "MOST_WAITING", most_waiting)
        parts = [PixelCounts() for _ in range(3)]
        for k in order:
            parts[k % 3].add(maps[k], masks[k])
        whole = PixelCounts.sum(parts)
        found.append((whole.dropped_bits, whole.regions, whole.auroc(), whole.average_precision(), whole.aupro()))
    assert found[0][:2] == found[1][:2] == found[2][:2]
    assert found[0] == pytest.approx(found[1], abs=1e-12)
    assert found[0] == pytest.approx(found[2], abs=1e-12)
    assert 8 < found[0][0] < 20
    assert found[0][2:] == pytest.approx((exact.auroc(), exact.average_precision(), exact.aupro()), abs=0.02)


def test_cut_bits_keep_the_order() -> None:
    values = np.sort(np.random.default_rng(0).normal(size=1000).astype(np.float32))
    for bits in (1, 12, 23):
        assert (np.diff(pixels._cut(values, bits)) >= 0).all()
        np.testing.assert_allclose(pixels._cut(values, bits), values, rtol=2.0 ** (bits - 23))
    assert np.array_equal(pixels._cut(pixels._cut(values, 5), 12), pixels._cut(values, 12))
