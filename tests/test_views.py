"""Whole images through a detector, stretched or in tiles: the same answer whatever the batches."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from test_detector import GOLDEN_SIZES
from tiny_detector import SIDE, tiny_detector
from torch import Tensor

from diffad_ray.bundles.bundle import DESCRIPTION, Bundle, load_bundle, save_bundle
from diffad_ray.bundles.calibration import Calibration
from diffad_ray.detectors.base import Detection
from diffad_ray.detectors.diffusion_ad import DiffusionAD, DiffusionADSettings
from diffad_ray.images import ImageError, check_side, network_input, same_depth
from diffad_ray.inference import tiling
from diffad_ray.inference.engine import BatchDetection, Engine
from diffad_ray.inference.views import ImageDetection, grid_of, pieces


class Brightness(DiffusionAD):
    """A detector whose map is the brightness of each pixel: nothing around a pixel and no place in a tile counts."""

    def detect(self, images: Tensor) -> Detection:
        anomaly_map = images.mean(dim=1)
        return Detection(anomaly_map.amax(dim=(1, 2)), anomaly_map, 1 - images)


class TileBrightness(DiffusionAD):
    """A detector that finds each of its squares equally anomalous all over: the worst case for seams."""

    def detect(self, images: Tensor) -> Detection:
        mean = images.mean(dim=(1, 2, 3))
        return Detection(mean, mean[:, None, None].expand(-1, *images.shape[2:]), images)


def tiles_engine(kind: type[DiffusionAD], batch_size: int = 4, **settings: float) -> Engine:
    return Engine(
        kind(DiffusionADSettings(preset="tiny", image_size=SIDE, view="tiles", **settings)),  # type: ignore[arg-type]
        batch_size=batch_size,
    )


def various_images() -> list[np.ndarray]:
    """Images larger than a tile, smaller on one side and on both, one of them with 16 bits."""
    rng = np.random.default_rng(4)
    sizes = [(70, 51), (20, 90), (17, 24), (32, 32), (33, 100)]
    images = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
    images[1] = rng.integers(0, 65536, (*sizes[1], 3), dtype=np.uint16)
    return images


def test_whole_images_are_detected_as_ready_batches_are() -> None:
    engine, images = Engine(tiny_detector(), batch_size=2), various_images()
    found = list(engine.detect_images(iter(images)))
    squares = same_depth([network_input(image, SIDE) for image in images])
    expected = BatchDetection(*map(np.concatenate, zip(*engine.detect(squares), strict=True)))
    for k, detection in enumerate(found):
        assert detection.score == float(expected.score[k])
        np.testing.assert_array_equal(detection.anomaly_map, expected.anomaly_map[k])
        np.testing.assert_array_equal(detection.reconstruction, expected.reconstruction[k])
    assert [type(detection.score) for detection in found] == [float] * len(images)
    assert [piece.shape for image in images for piece in pieces(image, engine.detector.settings)] == [(32, 32, 3)] * 5


def test_tiles_give_the_detection_of_the_image() -> None:
    images = various_images()
    found = list(tiles_engine(Brightness).detect_images(images))
    assert len(found) == len(images)
    for image, detection in zip(images, found, strict=True):
        unit = image / np.iinfo(image.dtype).max
        assert detection.anomaly_map.dtype == np.float32
        np.testing.assert_allclose(detection.anomaly_map, unit.mean(axis=2), atol=1e-5)
        np.testing.assert_allclose(detection.reconstruction, 1 - unit, atol=1e-5)
        assert detection.score == pytest.approx(unit.mean(axis=2).max(), abs=1e-5)


def test_images_are_shrunk_before_they_are_cut() -> None:
    image = np.full((90, 201, 3), 51, np.uint8)
    engine = tiles_engine(Brightness, tile_scale=0.5, tile_overlap=0.5)
    (found,) = engine.detect_images([image])
    assert found.anomaly_map.shape == grid_of(90, 201, engine.detector.settings).map_size == (45, 100)
    np.testing.assert_allclose(found.anomaly_map, 0.2, atol=1e-6)
    (tiny,) = tiles_engine(Brightness, tile_scale=0.01).detect_images([image[:40, :40]])
    assert tiny.anomaly_map.shape == (1, 1)


def test_large_maps_are_reduced_and_keep_their_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiling, "MOST_MAP_PIXELS", 2000)
    image = np.zeros((100, 90, 3), np.uint8)
    image[61, 47] = 255
    (found,) = tiles_engine(Brightness).detect_images([image])
    assert found.anomaly_map.shape == (34, 30)
    assert found.reconstruction is not None
    assert found.reconstruction.shape == (34, 30, 3)
    assert np.argwhere(found.anomaly_map > 0.999).tolist() == [[20, 15]]
    assert found.reconstruction[20, 15] == pytest.approx(8 / 9, abs=1e-5)


def test_no_seam_where_tiles_meet() -> None:
    ramp = np.broadcast_to(np.linspace(0, 255, 96)[None, :, None], (64, 96, 3)).astype(np.uint8)
    engine = tiles_engine(TileBrightness)
    (found,) = engine.detect_images([ramp])
    scores = [float(piece.mean()) / 255 for piece in pieces(ramp, engine.detector.settings)]
    assert found.score == pytest.approx(max(scores), abs=1e-5)
    largest_step = max(np.abs(np.diff(found.anomaly_map, axis=axis)).max() for axis in (0, 1))
    assert largest_step < 0.25 * max(np.diff(sorted(set(scores)))), "tiles side by side would have a step of 1"


def test_a_defect_across_tiles_gives_one_map() -> None:
    y, x = np.mgrid[:32, :104]
    image = (110 + 40 * np.sin(x / 9) + 30 * np.cos(y / 7))[..., None].repeat(3, axis=2).round().astype(np.uint8)
    image[10:20, 20:40] = 230
    # A denoiser on patches, untrained, has steps of its own between them.
    engine = Engine(tiny_detector(view="tiles", network=GOLDEN_SIZES, prediction="noise"), batch_size=4)
    columns = grid_of(32, 104, engine.detector.settings).columns
    assert columns == (0, 24, 48, 72)
    (found,) = engine.detect_images([image])
    steps = np.abs(np.diff(found.anomaly_map, axis=1)).mean(axis=0)
    borders = np.array(sorted({start + end for start in columns for end in (0, SIDE)} - {0, 104})) - 1
    assert steps[borders].max() < np.quantile(np.delete(steps, borders), 0.9)


def test_tiles_do_not_depend_on_the_neighbours() -> None:
    engine, images = Engine(tiny_detector(view="tiles"), batch_size=4), various_images()

    def detect(order: list[int]) -> list[ImageDetection]:
        return list(engine.detect_images([images[k] for k in order]))

    alone = {k: detect([k])[0] for k in (0, 1)}
    for order in ([1, 0], [2, 0, 1, 4], [4, 3, 1, 2, 0]):
        found = detect(order)
        for k, expected in alone.items():
            detection = found[order.index(k)]
            assert detection.score == expected.score
            np.testing.assert_array_equal(detection.anomaly_map, expected.anomaly_map)
            np.testing.assert_array_equal(detection.reconstruction, expected.reconstruction)


@pytest.mark.parametrize("view", ["whole", "tiles"])
def test_images_are_taken_when_there_is_room_for_them(view: str) -> None:
    taken = 0

    def images() -> Iterator[np.ndarray]:
        nonlocal taken
        for image in [np.zeros((80, 70, 3), np.uint8)] * 6:
            taken += 1
            yield image

    engine = Engine(tiny_detector(view=view), batch_size=4)
    squares = 1 if view == "whole" else 9
    for done, found in enumerate(engine.detect_images(images(), with_reconstruction=False)):
        # The batch that completed this image held squares of the images up to here and no more.
        assert taken == min(6, -(-(-(-(done + 1) * squares // 4) * 4) // squares))
        assert found.reconstruction is None
    assert taken == 6


@pytest.mark.parametrize("view", ["whole", "tiles"])
def test_an_image_too_small_to_be_seen_is_refused(view: str) -> None:
    small = np.zeros((15, 200, 3), np.uint8)
    with pytest.raises(ImageError, match="200 x 15 pixels is too small: a side needs 16 at least"):
        check_side(small)
    with pytest.raises(ImageError, match="too small"):
        list(Engine(tiny_detector(view=view)).detect_images([small]))
    check_side(np.zeros((16, 16, 3), np.uint8))


def test_a_bundle_from_before_tiles_is_read_and_keeps_its_fingerprint(tmp_path: Path) -> None:
    save_bundle(Bundle(tiny_detector(), Calibration.from_scores(np.arange(5.0))), str(tmp_path))
    file = tmp_path / DESCRIPTION
    description = json.loads(file.read_text())
    for name in ("view", "tile_overlap", "tile_scale"):
        del description["settings"][name]
    file.write_text(json.dumps(description))
    text = f"diffusion-ad\n{json.dumps(description['settings'], sort_keys=True)}\n{description['weights']['sha256']}"
    bundle = load_bundle(str(tmp_path))
    assert bundle.detector.settings.view == "whole"
    assert bundle.fingerprint == hashlib.sha256(text.encode()).hexdigest()[:16]
