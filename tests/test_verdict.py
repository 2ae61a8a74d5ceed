"""One verdict on one image, whoever asks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from diffad_ray.bundles.calibration import Calibration
from diffad_ray.inference.regions import mask_from_runs
from diffad_ray.inference.verdict import verdict
from diffad_ray.reports.drawing import at_picture_size, marked_by

CALIBRATION = Calibration.from_scores(np.linspace(-6, -3, 200))
SPOT = np.full((8, 8), -6.0, np.float32)
SPOT[2, 3] = 4.0


def test_an_anomalous_image_has_regions_and_a_mask_in_its_own_pixels() -> None:
    found = verdict(4.0, SPOT, (80, 40), CALIBRATION, CALIBRATION.threshold)
    assert found.is_anomalous
    assert found.mask is not None
    assert found.mask.shape == (40, 80)
    (region,) = found.regions
    assert region["peak"] == pytest.approx(4, abs=0.6)
    assert region["area"] == found.mask.sum()
    assert found.anomalous_fraction == found.mask.mean() > 0
    assert found.tail_probability is not None
    assert found.tail_probability < 1 / 201


def test_a_normal_image_has_none() -> None:
    found = verdict(-5.0, SPOT, (80, 40), CALIBRATION, CALIBRATION.threshold)
    assert not found.is_anomalous
    assert found.regions == []
    assert found.mask is not None
    assert not found.mask.any()
    assert 0.3 < (found.tail_probability or 0) < 1
    assert verdict(-5.0, None, (80, 40), None, 0.0).mask is None
    assert verdict(-5.0, None, (80, 40), None, 0.0).tail_probability is None


@settings(max_examples=60, deadline=None)
@given(
    arrays.arrays(np.float32, (6, 7), elements=st.floats(-20, 20, width=16)),
    st.floats(-10, 10),
    st.integers(5, 60),
    st.integers(5, 60),
)
def test_regions_are_the_mask(anomaly_map: np.ndarray, threshold: float, width: int, height: int) -> None:
    score = float(anomaly_map.max())
    found = verdict(score, anomaly_map, (width, height), None, threshold)
    assert found.mask is not None
    together = np.zeros((height, width), dtype=int)
    for region in found.regions:
        x, y, w, h = (region[name] for name in ("x", "y", "width", "height"))
        together[y : y + h, x : x + w] += mask_from_runs(region["mask_runs"], w, h)
    np.testing.assert_array_equal(together, found.mask)
    assert bool(found.regions) == found.is_anomalous, "an anomalous image has a place"
    again = verdict(score, anomaly_map.astype(np.float16), (width, height), None, threshold)
    np.testing.assert_array_equal(again.mask, found.mask)


def test_narrow_regions_are_seen_in_small_pictures() -> None:
    narrow = np.full((600, 600), -6.0, np.float32)
    narrow[300, :] = 5
    found = verdict(5.0, narrow, (600, 600), CALIBRATION, CALIBRATION.threshold)
    picture = np.zeros((60, 60, 3), np.uint8)
    assert marked_by(found, picture).any()
    assert not picture.any()
    assert at_picture_size(narrow, 60, 60).max() > 4
    assert not marked_by(found._replace(score=-9.0), picture).any()
