"""Brightness, contrast and sharpness: what they say, and that a large image says the same at a bounded cost."""

from __future__ import annotations

import time

import cv2
import numpy as np
import pytest

from diffad_ray.demo.surfaces import normal
from diffad_ray.images.quality import MEASURED_PIXELS, quality_of


def weave(side: int) -> np.ndarray:
    return normal("weave", np.random.default_rng(3), side).image


def test_dimmer_light_and_blur_tell_in_their_own_figures() -> None:
    image = weave(128)
    seen, dim = quality_of(image), quality_of((image * 0.8).astype(np.uint8))
    blurred = quality_of(cv2.GaussianBlur(image, (0, 0), 1.5))
    assert dim.brightness == pytest.approx(0.8 * seen.brightness, rel=0.02)
    assert blurred.brightness == pytest.approx(seen.brightness, rel=0.01)
    assert blurred.sharpness < 0.5 * seen.sharpness


@pytest.mark.parametrize("shape", [(1024, 1024), (3000, 300), (300, 3000), (200, 20_000)])
def test_a_large_image_is_measured_as_the_whole_of_it(shape: tuple[int, int]) -> None:
    """A seam between two bands that counts as an edge would raise the sharpness."""
    height, width = shape
    image = cv2.repeat(weave(256), height // 256 + 1, width // 256 + 1)[:height, :width]
    image = np.ascontiguousarray(image)
    assert image.shape[0] * image.shape[1] > MEASURED_PIXELS
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    whole = np.array([grey.mean(), grey.std(), cv2.Laplacian(grey, cv2.CV_32F).std()]) / 255
    np.testing.assert_allclose(quality_of(image), whole, rtol=0.1)


def test_sixteen_bits_mean_what_eight_do() -> None:
    image = weave(64)
    np.testing.assert_allclose(quality_of(image.astype(np.uint16) * 257), quality_of(image), rtol=0.01)


def test_the_cost_does_not_grow_with_the_pixels() -> None:
    def seconds(image: np.ndarray) -> float:
        times = []
        for _ in range(7):
            began = time.perf_counter()
            quality_of(image)
            times.append(time.perf_counter() - began)
        return min(times)

    assert seconds(np.zeros((4096, 4096, 3), np.uint8)) < 20 * seconds(np.zeros((256, 256, 3), np.uint8))
