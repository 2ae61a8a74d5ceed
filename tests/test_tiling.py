"""Tiles cover an image, and the maps of the tiles make one map of the image."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffad_ray.inference import tiling
from diffad_ray.inference.tiling import Blend, Grid, blending_weights, block_maximum, block_mean, padded, tile_starts

sides = st.integers(1, 300)
tiles = st.integers(1, 64)
overlaps = st.floats(0, 0.89)


def blended(
    values: np.ndarray, grid: Grid, reduce: Callable[[np.ndarray, int], np.ndarray] = block_maximum
) -> np.ndarray:
    blend = Blend(grid, reduce, values.shape[2:])
    for piece in grid.cut(values):
        blend.add(piece)
    return blend.result()


@settings(deadline=None)
@given(sides, tiles, overlaps)
def test_tiles_cover_a_side_and_overlap_as_wanted(length: int, tile: int, overlap: float) -> None:
    starts = tile_starts(length, tile, overlap)
    assert starts[0] == 0
    assert max(starts[-1] + tile, tile) == max(length, tile)
    gaps = np.diff(starts)
    assert (gaps > 0).all()
    assert (gaps <= max(1, tile * (1 - overlap))).all()
    assert np.ptp(gaps) <= 1 if len(gaps) else True


@settings(deadline=None)
@given(sides, tiles, overlaps)
def test_weights_are_a_partition_of_one(length: int, tile: int, overlap: float) -> None:
    starts = tile_starts(length, tile, overlap)
    weights = blending_weights(starts, tile)
    assert weights.min() > 0
    total = np.zeros(starts[-1] + tile)
    for start, of_tile in zip(starts, weights, strict=True):
        total[start : start + tile] += of_tile
    np.testing.assert_allclose(total, 1, atol=1e-6)


def test_a_tile_fades_out_towards_the_next_one() -> None:
    first, second = blending_weights((0, 24), 32)
    assert (first[:24] == 1).all()
    assert (np.diff(first[24:]) < 0).all()
    np.testing.assert_allclose(first[24:], second[:8][::-1], atol=1e-6)
    assert np.abs(np.diff(np.r_[1, first[24:], 0])).max() < 0.25


@settings(deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 40), overlaps, st.sampled_from([(), (3,)]))
def test_tiles_of_a_map_give_it_back(
    height: int, width: int, tile: int, overlap: float, channels: tuple[int, ...]
) -> None:
    values = np.random.default_rng(height * width).random((height, width, *channels), np.float32)
    found = blended(values, Grid(height, width, tile, overlap))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, values, atol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(61, 87), (16, 300), (300, 16), (100, 100), (35, 36)])
def test_large_maps_are_reduced_and_keep_their_peaks(height: int, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiling, "MOST_MAP_PIXELS", 1200)
    values = np.random.default_rng(0).random((height, width, 3), np.float32)
    grid = Grid(height, width, 32, 0.25)
    assert grid.factor > 1
    assert np.prod(grid.map_size) <= 1200
    for reduce in (block_maximum, block_mean):
        found = blended(values, grid, reduce)
        assert found.shape == (*grid.map_size, 3)
        np.testing.assert_allclose(found, reduce(values, grid.factor), atol=1e-5)
    np.testing.assert_allclose(blended(values, grid).max(), values.max(), atol=1e-5)


def test_the_map_of_one_tile_is_never_reduced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiling, "MOST_MAP_PIXELS", 100)
    assert Grid(32, 32, 32, 0.25).map_size == (32, 32)
    assert Grid(64, 48, 32, 0.25).map_size == (32, 24)


def test_blocks_at_the_border_are_smaller() -> None:
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert block_maximum(values, 3).tolist() == [[10, 11]]
    assert block_mean(values, 3).tolist() == [[5, 7]]
    assert block_mean(values, 2).tolist() == [[2.5, 4.5], [8.5, 10.5]]
    assert block_maximum(values, 1) is values


def test_small_images_go_on_as_their_mirror_image() -> None:
    pixels = np.arange(2 * 5 * 3, dtype=np.uint16).reshape(2, 5, 3)
    found = padded(pixels, 4)
    assert (found.shape, found.dtype) == ((4, 5, 3), np.uint16)
    np.testing.assert_array_equal(found, pixels[[0, 1, 0, 1]])
    np.testing.assert_array_equal(padded(pixels[:1], 4), pixels[[0, 0, 0, 0]])
    assert padded(pixels, 2) is pixels


def test_the_largest_image_takes_little_memory() -> None:
    side = 10_000
    grid = Grid(side, side, 256, 0.25)
    pixels = np.broadcast_to(np.uint8(7), (side, side, 3))
    tracemalloc.start()
    cut = grid.cut(pixels)
    assert all(np.shares_memory(piece, pixels) for piece in cut[:3])
    blend, ones = Blend(grid), np.ones((256, 256), np.float32)
    for _ in cut:
        blend.add(ones)
    found = blend.result()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.shape == (2000, 2000)
    np.testing.assert_allclose(found, 1, atol=1e-5)
    assert peak < 80e6, "the map at full size alone would take 400 MB"
