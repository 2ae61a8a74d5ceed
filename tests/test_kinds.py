"""The contract of every kind of detector. Registering a kind in `detectors.kinds` adds it to these tests."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
import pytest
import torch
from conftest import write_image
from networks_of_features import CHANNELS, write_network
from scipy.stats import spearmanr
from tiny_detector import tiny_training

from diffad_ray import train
from diffad_ray.bundles.bundle import Bundle, load_bundle
from diffad_ray.demo.surfaces import defective, normal
from diffad_ray.detectors.kinds import KINDS, find_detector
from diffad_ray.errors import UserError
from diffad_ray.exports.onnx_file import export_onnx
from diffad_ray.inference.engine import Engine
from diffad_ray.tensors import as_unit_tensor
from diffad_ray.training.sources import Sources

SIDE = 32
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of good weave and of defective weave."""
    folder, rng = tmp_path_factory.mktemp("parts"), np.random.default_rng(0)
    for k in range(40):
        write_image(folder / "good" / f"{k:02d}.png", normal("weave", rng, 64).image)
    for k in range(6):
        write_image(folder / "bad" / f"{k}.png", defective("weave", "hole", rng, 64).image)
    return folder


ONNX, PACKAGED = "familiarity with an ONNX file", "familiarity with EfficientNet-Lite0"
SOURCES = {
    ONNX: {"source": "backbone", "layers": ["fine", "coarse"], "channels": CHANNELS},
    PACKAGED: {"source": "both"},
}
"Further detectors under the contract: what familiarity sees, by name."


@pytest.fixture(scope="module", params=[*KINDS, ONNX, pytest.param(PACKAGED, marks=pytest.mark.long)])
def folder(request: pytest.FixtureRequest, parts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny detector of a kind, trained for some steps."""
    kind = find_detector(request.param.partition(" ")[0])
    names = {field.name for field in dataclasses.fields(kind.settings_class)}
    location = tmp_path_factory.mktemp("detectors") / request.param
    settings = tiny_training("training.false_alarm_rate=0.1", steps=20)
    settings["detector"] = {name: value for name, value in settings["detector"].items() if name in names}
    if features := SOURCES.get(request.param):
        path = {"path": str(write_network(location.parent / "network.onnx"))} if request.param == ONNX else {}
        settings["detector"]["features"] = features | path
    defects = [str(parts / "bad")] if "defective" in kind.learns_from else []
    train(Sources(str(parts / "good"), defects=defects), location, kind=kind.kind, settings=settings, workers=0)
    return location


@pytest.fixture(scope="module")
def trained(folder: Path) -> Bundle:
    """The same detector, as it is read back."""
    return load_bundle(str(folder))


def various(count: int) -> list[np.ndarray]:
    """Images of good weave of several sizes."""
    rng = np.random.default_rng(5)
    return [normal("weave", rng, 48 + 16 * (k % 3)).image for k in range(count)]


def test_a_score_depends_on_the_image_and_the_detector_alone(trained: Bundle, tmp_path: Path) -> None:
    """Not on the batch, the order, the threads, or on which copy of the bundle scores."""
    images = various(7)
    first = [found.score for found in Engine(trained.detector, batch_size=4).detect_images(images)]
    again = [found.score for found in Engine(trained.detector, batch_size=4).detect_images(images[::-1])]
    assert again[::-1] == first
    torch.set_num_threads(2)
    larger = [found.score for found in Engine(trained.detector, batch_size=16).detect_images(images)]
    torch.set_num_threads(1)
    np.testing.assert_allclose(larger, first, atol=1e-4)
    assert np.isfinite(first).all()
    assert len(set(first)) == len(first), "scores rank"


SIZES = [
    (64, 64),
    (32, 32),
    (48, 96),
    (70, 41),
    (20, 30),
    (24, 24),
    (40, 20),
    (128, 128),
    (200, 30),
    (33, 97),
    (96, 64),
]


@pytest.mark.long
def test_its_onnx_file_gives_the_scores_of_the_engine(folder: Path, trained: Bundle, tmp_path: Path) -> None:
    if trained.detector.settings.needs_onnxruntime:
        with pytest.raises(UserError, match=r"network\.onnx, which is a graph of its own"):
            export_onnx(folder, tmp_path / "kind.onnx")
        return
    rng = np.random.default_rng(3)
    parts = [(defective("weave", "hole", rng, 64) if k % 3 == 0 else normal("weave", rng, 64)).image for k in range(10)]
    images = [cv2.resize(part, size) for part in parts for size in SIZES]
    export_onnx(folder, tmp_path / "kind.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "kind.onnx")
    found = np.array([session.run(["score"], {"pixels": pixels})[0] for pixels in images])
    exact = np.array([one.score for one in Engine(trained.detector).detect_images(images)])
    assert spearmanr(found, exact).statistic >= 0.9999
    assert np.abs(found - exact).max() <= 2e-3


def test_maps_have_the_unit_of_the_score(trained: Bundle) -> None:
    (batch,) = Engine(trained.detector, batch_size=4).detect(
        np.stack([normal("weave", np.random.default_rng(2), SIDE).image])
    )
    assert batch.anomaly_map.shape == (1, SIDE, SIDE)
    assert batch.anomaly_map.mean() <= batch.score[0] <= batch.anomaly_map.max()
    if batch.reconstruction is not None:
        assert batch.reconstruction.shape == (1, SIDE, SIDE, 3)
        assert batch.reconstruction.min() >= 0
        assert batch.reconstruction.max() <= 1


def test_it_sees_tiles_or_says_why_not(trained: Bundle) -> None:
    detector = trained.detector
    if "defective" in detector.learns_from:
        with pytest.raises(ValueError, match="tiles"):
            dataclasses.replace(detector.settings, view="tiles")
        return
    settings = dataclasses.replace(detector.settings, view="tiles")
    tiled = type(detector)(settings)
    tiled.load_state_dict(detector.state_dict())
    image = normal("weave", np.random.default_rng(3), 96).image
    (found,) = Engine(tiled.eval(), batch_size=4).detect_images([image])
    assert found.anomaly_map.shape == (96, 96)
    assert np.isfinite(found.score)


def test_its_threshold_lets_good_parts_pass_and_finds_what_is_none(trained: Bundle) -> None:
    noise = np.random.default_rng(0).integers(0, 2, (SIDE, SIDE, 3), dtype=np.uint8) * 255
    inverted = 255 - normal("weave", np.random.default_rng(1), SIDE).image
    half = normal("weave", np.random.default_rng(1), SIDE).image.copy()
    half[:, SIDE // 2 :] = 255
    odd = np.stack([noise, inverted, half, np.zeros_like(noise), np.full_like(noise, 255)])
    scores = trained.detector.score(as_unit_tensor(odd))
    assert (scores >= trained.calibration.threshold).any()
    good = [found.score for found in Engine(trained.detector).detect_images(various(9))]
    assert np.mean(np.array(good) >= trained.calibration.threshold) < 0.5


def test_what_changes_a_score_is_in_the_fingerprint(trained: Bundle) -> None:
    settings = trained.detector.settings
    assert settings.mode == trained.detector.mode
    assert {"precision", "channels_last", "white", "view", "image_size"} <= settings.as_dict().keys()


def test_kinds_are_registered_under_their_own_names() -> None:
    assert all(find_detector(kind).kind == kind for kind in KINDS)


def test_all_kinds_are_told_of() -> None:
    text = (ROOT / "docs/detectors.md").read_text()
    missing = [kind for kind in KINDS if f"`{kind}`" not in text]
    assert not missing, f"docs/detectors.md does not name {missing}"
