"""JPEGs that are decoded at a reduced size: nearly the same network input, and the same damage is found."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from image_files import exif, saved
from PIL import Image
from test_damage import JPEGS, PROGRESSIVE, damaged, scan_of

from diffad_ray import storage
from diffad_ray.bundles.bundle import Bundle, load_bundle, save_bundle
from diffad_ray.detectors.base import DetectorSettings
from diffad_ray.detectors.diffusion_ad import DiffusionADSettings
from diffad_ray.evaluation.evaluate import _LabelledPixels
from diffad_ray.images import ImageError, decode_image, network_input
from diffad_ray.inference.engine import Engine
from diffad_ray.inference.views import decoding_of
from diffad_ray.labels.datasets import LabelledImage
from diffad_ray.scoring.isolated import IsolatedDecoder
from diffad_ray.scoring.load import decode
from diffad_ray.training.normals import read_images

SIDE = 32


def weave(height: int, width: int) -> np.ndarray:
    """A picture [H,W,3] with edges and some noise."""
    rows, columns = np.mgrid[:height, :width]
    grey = 120 + 60 * np.sin(rows / 11) * np.cos(columns / 17) + np.random.default_rng(0).normal(0, 4, rows.shape)
    picture = np.dstack([grey, grey + 20, grey - 20])
    picture[height // 3 : height // 2, width // 4 : width // 3] = 30
    return picture.clip(0, 255).astype(np.uint8)


def jpeg(height: int, width: int, **options: object) -> bytes:
    return saved(weave(height, width), "JPEG", quality=90, **options)


@pytest.mark.parametrize(
    ("size", "reduction"),
    [
        ((512, 600), 8),
        ((511, 600), 4),
        ((256, 300), 4),
        ((255, 256), 2),
        ((128, 999), 2),
        ((127, 999), 1),
        ((131, 133), 2),
    ],
)
def test_the_smallest_size_that_keeps_both_sides(size: tuple[int, int], reduction: int) -> None:
    height, width = size
    full, found = decode_image(jpeg(*size)), decode_image(jpeg(*size), least_side=64)
    assert (found.width, found.height) == (full.width, full.height) == (width, height)
    assert found.pixels.shape == (-(-height // reduction), -(-width // reduction), 3)
    difference = network_input(found.pixels, SIDE).astype(float) - network_input(full.pixels, SIDE)
    # The last block of an odd size is a part of one, so the far border moves by up to half a pixel of the input.
    assert np.abs(difference).mean() < 2
    if reduction == 1:
        assert not difference.any()


def test_grey_progressive_and_turned_jpegs() -> None:
    grey = saved(weave(300, 400)[..., 0], "JPEG", quality=90)
    assert decode_image(grey, least_side=64).pixels.shape == (75, 100, 3)
    assert decode_image(grey, least_side=64).mode == "8-bit grey"
    assert decode_image(jpeg(300, 400, progressive=True), least_side=64).pixels.shape == (75, 100, 3)
    turned = decode_image(jpeg(300, 400, exif=exif(6)), least_side=64)
    assert (turned.width, turned.height, turned.pixels.shape) == (300, 400, (100, 75, 3))


def test_other_kinds_and_inks_are_decoded_in_full() -> None:
    for data in (saved(weave(300, 400), "PNG"), saved(Image.fromarray(weave(300, 400)).convert("CMYK"), "JPEG")):
        assert decode_image(data, least_side=64).pixels.shape == (300, 400, 3)


@pytest.mark.parametrize("data", [*JPEGS.values(), PROGRESSIVE], ids=[*JPEGS, "progressive"])
def test_damage_is_found_at_every_size(data: bytes) -> None:
    """By libjpeg, which reads all coefficients at any size, and by what is checked without decoding."""

    def reason(file: bytes, least_side: int | None) -> str:
        try:
            decode_image(file, least_side=least_side)
        except ImageError as error:
            return str(error)
        return "image"

    reasons = []
    for what, file in damaged(data, scan_of(data), 512, 397):
        reasons.append(reason(file, None))
        assert reason(file, 20) == reasons[-1], what
    assert len(set(reasons)) > 1


def test_every_door_decodes_alike(bundle: Bundle, tmp_path: Path) -> None:
    settings: DetectorSettings = replace(bundle.detector.settings, reduced_jpeg=True)
    path, decoding = tmp_path / "part.jpg", decoding_of(settings)
    assert decoding.least_side == 2 * SIDE
    path.write_bytes(jpeg(300, 400))
    expected = decode_image(path.read_bytes(), least_side=2 * SIDE).pixels
    assert expected.shape == (75, 100, 3)
    with IsolatedDecoder(10**6) as isolated:
        for decoder in (None, isolated):
            loaded = decode(storage.read(str(path)), 10**6, decoding, decoder)
            assert (loaded.width, loaded.height) == (400, 300)
            np.testing.assert_array_equal(loaded.pixels, expected)
    (trained,) = read_images([str(path)], {}, decoding)
    np.testing.assert_array_equal(trained, expected)
    labelled = _LabelledPixels(settings).load(LabelledImage(uri=str(path), product="part", kind="good", mask_uri=None))
    assert labelled is not None
    np.testing.assert_array_equal(labelled[0], expected)


def test_it_is_another_detector_with_nearly_the_same_scores(bundle: Bundle, tmp_path: Path) -> None:
    reduced = load_bundle(bundle_at(bundle, tmp_path / "reduced", True))
    assert reduced.fingerprint != bundle.fingerprint
    assert load_bundle(bundle_at(bundle, tmp_path / "full", False)).fingerprint == bundle.fingerprint
    (tmp_path / "part.jpg").write_bytes(jpeg(300, 400))
    scores = []
    for one in (bundle, reduced):
        images = read_images([str(tmp_path / "part.jpg")], {}, decoding_of(one.detector.settings))
        scores += [found.score for found in Engine(one.detector).detect_images(images)]
    assert 0 < abs(scores[0] - scores[1]) < 0.5


def bundle_at(bundle: Bundle, location: Path, reduced: bool) -> str:
    """Save the bundle's detector, with or without reduced decoding."""
    before = bundle.detector.settings
    bundle.detector.settings = replace(before, reduced_jpeg=reduced)
    save_bundle(Bundle(bundle.detector, bundle.calibration), str(location))
    bundle.detector.settings = before
    return str(location)


def test_tiles_show_an_image_at_its_own_scale() -> None:
    with pytest.raises(ValueError, match="reduced_jpeg is for the view 'whole'"):
        DiffusionADSettings(reduced_jpeg=True, view="tiles")
