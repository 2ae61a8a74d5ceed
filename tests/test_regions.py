"""From a map to a mask and its regions."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from diffad_ray.images.limits import LONGEST_SIDE
from diffad_ray.inference.regions import anomaly_mask, find_regions, mask_from_runs, mask_png, run_lengths

masks = arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=12))


@given(masks)
@settings(max_examples=100, deadline=None)
def test_run_lengths_round_trip(mask: np.ndarray) -> None:
    runs = run_lengths(mask)
    height, width = mask.shape
    np.testing.assert_array_equal(mask_from_runs(runs, width, height), mask)
    assert sum(runs) == mask.size
    assert all(run > 0 for run in runs[1:]), "no shorter form exists"
    assert all(type(run) is int for run in runs)


@pytest.mark.parametrize(
    ("rows", "runs"), [(["..##", "#..."], [2, 3, 3]), (["##"], [0, 2]), ([".."], [2]), (["#.", ".#"], [0, 1, 2, 1])]
)
def test_run_lengths_by_hand(rows: list[str], runs: list[int]) -> None:
    assert run_lengths(np.array([[pixel == "#" for pixel in row] for row in rows])) == runs


def test_regions_of_a_map_by_hand() -> None:
    full = np.zeros((6, 10), np.float32)
    full[1:3, 1:4] = [[0.5, 0.6, 0.7], [0.5, 0.5, 0.5]]
    # A diagonal: one region of three pixels, since corners touch.
    full[3, 7], full[4, 8], full[5, 9] = 0.9, 0.6, 0.6
    diagonal, block = find_regions(full, full >= 0.5)
    assert (block["x"], block["y"], block["width"], block["height"], block["area"]) == (1, 1, 3, 2, 6)
    assert (block["centroid_x"], block["centroid_y"]) == (2.0, 1.5)
    assert block["peak"] == pytest.approx(0.7)
    assert block["mean"] == pytest.approx(3.3 / 6)
    assert block["mask_runs"] == [0, 6]
    assert (diagonal["x"], diagonal["y"], diagonal["width"], diagonal["height"], diagonal["area"]) == (7, 3, 3, 3, 3)
    assert (diagonal["centroid_x"], diagonal["centroid_y"]) == (8.0, 4.0)
    assert diagonal["peak"] == pytest.approx(0.9), "the highest peak comes first"
    assert diagonal["mask_runs"] == [0, 1, 3, 1, 3, 1]


@given(masks)
@settings(max_examples=60, deadline=None)
def test_the_regions_make_up_the_mask(mask: np.ndarray) -> None:
    rebuilt = np.zeros(mask.shape, int)
    for region in find_regions(mask.astype(np.float32), mask):
        box = np.s_[region["y"] : region["y"] + region["height"], region["x"] : region["x"] + region["width"]]
        inside = mask_from_runs(region["mask_runs"], region["width"], region["height"])
        assert inside.sum() == region["area"]
        rebuilt[box] += inside
    np.testing.assert_array_equal(rebuilt, mask.astype(int))


def test_the_mask_has_the_size_of_the_original_image() -> None:
    anomaly_map = np.zeros((32, 32), np.float32)
    anomaly_map[8:16, 20:24] = 1
    full, mask = anomaly_mask(anomaly_map, width=320, height=128, threshold=0.5)
    assert full.shape == mask.shape == (128, 320)
    (region,) = find_regions(full, mask)
    # 4 times as high, 10 times as wide, to within half a pixel of the map.
    assert abs(region["x"] - 200) <= 5
    assert abs(region["width"] - 40) <= 10
    assert abs(region["y"] - 32) <= 2
    assert abs(region["height"] - 32) <= 4
    assert abs(region["centroid_x"] - 219.5) < 1
    assert abs(region["centroid_y"] - 47.5) < 1


@given(
    arrays(np.float32, (8, 8), elements=st.floats(0, 1, width=32)),
    st.integers(1, 40),
    st.integers(1, 40),
    st.floats(0, 1),
)
@settings(max_examples=100, deadline=None)
def test_a_mask_is_never_empty(anomaly_map: np.ndarray, width: int, height: int, threshold: float) -> None:
    full, mask = anomaly_mask(anomaly_map, width, height, threshold)
    assert mask.shape == (height, width)
    assert mask[np.unravel_index(full.argmax(), full.shape)]
    if full.max() >= np.float32(threshold):
        np.testing.assert_array_equal(mask, full >= np.float32(threshold))


@pytest.mark.parametrize("shape", [(1, LONGEST_SIDE), (LONGEST_SIDE, 1)])
def test_the_longest_image_has_a_mask(shape: tuple[int, int]) -> None:
    assert mask_png(np.ones(shape, bool)).startswith(b"\x89PNG")


def test_a_mask_png_decodes_to_the_mask() -> None:
    mask = np.random.default_rng(0).random((37, 53)) < 0.2
    decoded = cv2.imdecode(np.frombuffer(mask_png(mask), np.uint8), cv2.IMREAD_UNCHANGED)
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, np.where(mask, 255, 0))
