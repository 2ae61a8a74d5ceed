"""Anomaly maps as colours: what is worse is brighter, and the threshold has its colour, whatever numbers scores are."""

from __future__ import annotations

import matplotlib
import numpy as np
import pytest

from diffad_ray.reports.drawing import HEAT, heat, outlined

COLOURS = matplotlib.colormaps[HEAT](np.arange(256), bytes=True)[:, :3]


def places(anomaly_map: np.ndarray, threshold: float) -> np.ndarray:
    """Where the colours of a map lie in the colour map, 0 to 255."""
    drawn = heat(anomaly_map, threshold)
    assert drawn.dtype == np.uint8
    assert drawn.shape == (*anomaly_map.shape, 3)
    return (drawn[..., None, :] == COLOURS).all(axis=-1).argmax(axis=-1)


@pytest.mark.parametrize(
    ("values", "threshold", "expected"),
    [
        pytest.param([0.0, 0.25, 0.5], 0.5, [0, 64, 128], id="from-0-to-1"),
        pytest.param([-10.0, -6.0, -2.0, 2.0], -2.0, [0, 64, 128, 192], id="log-odds"),
        pytest.param([-10.0, -6.0], -2.0, [0, 64], id="nothing-reaches-it"),
        pytest.param([-10.0, 0.0, 30.0], 0.0, [0, 64, 255], id="the-threshold-is-below-the-middle"),
        pytest.param([1.0, 2.0], 0.0, [192, 255], id="everything-reaches-it"),
        pytest.param([3.0, 3.0], 3.0, [128, 128], id="all-alike"),
        pytest.param([3.0, 3.0], 4.0, [0, 0], id="all-alike-below-it"),
        pytest.param([3.0, 3.0], 2.0, [255, 255], id="all-alike-above-it"),
    ],
)
def test_colours_are_linear_around_the_threshold(values: list[float], threshold: float, expected: list[int]) -> None:
    for dtype in (np.float32, np.float64):
        assert places(np.array([values], dtype), threshold)[0].tolist() == expected


def test_worse_is_never_darker() -> None:
    values = np.sort(np.random.default_rng(0).normal(-3, 6, (1, 500)))
    for threshold in (-30.0, -3.0, 0.0, 30.0):
        assert (np.diff(places(values, threshold)[0]) >= 0).all()


def test_outlines_are_drawn_on_a_copy() -> None:
    picture = np.zeros((40, 40, 3), np.uint8)
    mask = np.zeros((40, 40), bool)
    mask[10:30, 10:30] = True
    mask[15:25, 15:25] = False
    drawn = outlined(picture, mask, (1, 2, 3)).any(axis=-1)
    assert not picture.any()
    assert drawn[10, 10:30].all()
    assert drawn[14, 15:25].all(), "holes have outlines too"
    assert not drawn[:9].any()
