"""The images of the demo: repeatable, and with masks that hold the defects and little else."""

from __future__ import annotations

import numpy as np
import pytest

from diffad_ray.demo.surfaces import DEFECTS, PRODUCTS, defective, normal

KINDS = [(product, kind) for product, kinds in DEFECTS.items() for kind in kinds]
SEEDS = range(12)


@pytest.mark.parametrize("product", PRODUCTS)
def test_normal_parts_repeat_vary_and_have_no_mask(product: str) -> None:
    first, again, other = (normal(product, np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert first.image.shape == (160, 160, 3)
    assert first.image.dtype == np.uint8
    assert first.defect == "good"
    assert first.mask.shape == (160, 160)
    assert first.mask.dtype == bool
    assert not first.mask.any()
    np.testing.assert_array_equal(first.image, again.image)
    assert (first.image != other.image).any()


@pytest.mark.parametrize(("product", "kind"), KINDS)
def test_defective_parts_repeat(product: str, kind: str) -> None:
    first, again = (defective(product, kind, np.random.default_rng(5)) for _ in range(2))
    assert first.defect == kind
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.mask, again.mask)


@pytest.mark.parametrize("size", [96, 160, 256])
@pytest.mark.parametrize(("product", "kind"), KINDS)
def test_the_mask_holds_the_change(product: str, kind: str, size: int) -> None:
    for seed in SEEDS:
        before = normal(product, np.random.default_rng(seed), size).image.astype(int)
        image, mask, _ = defective(product, kind, np.random.default_rng(seed), size)
        change = np.abs(image.astype(int) - before).max(axis=2)
        assert 0 < mask.mean() < 0.25, seed
        assert change[mask].mean() > 12, seed
        assert change[mask].sum() > 0.85 * change.sum(), seed
        assert (change[~mask] > 20).mean() < 0.002, seed


@pytest.mark.parametrize("product", PRODUCTS)
def test_normal_parts_stay_alike(product: str) -> None:
    tones = [normal(product, np.random.default_rng(seed)).image.mean() for seed in SEEDS]
    assert 1 < np.ptp(tones) < 45


def test_an_unknown_defect_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="choose from scratch, dent, pit, stain"):
        defective("brushed_metal", "hole", np.random.default_rng(0))
