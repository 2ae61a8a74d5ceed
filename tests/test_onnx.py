"""Detectors as ONNX files; `test_kinds.py` compares the scores of each kind."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import torch
import torch.nn.functional as F
from tiny_detector import tiny_detector
from typer.testing import CliRunner

from diffad_ray.bundles.bundle import Bundle, save_bundle
from diffad_ray.bundles.calibration import Calibration
from diffad_ray.cli import app
from diffad_ray.errors import Fault, UserError
from diffad_ray.exports import onnx_file
from diffad_ray.exports.graph import WindowedPooling
from diffad_ray.exports.onnx_file import export_onnx
from diffad_ray.exports.resizing import stretched
from diffad_ray.images import network_input
from diffad_ray.inference.engine import Engine
from diffad_ray.inference.regions import anomaly_mask
from diffad_ray.inference.verdict import MAP_TYPE

ROOT = Path(__file__).parents[1]
SIZES = [
    (64, 64),
    (32, 32),
    (128, 96),
    (96, 96),
    (16, 16),
    (17, 300),
    (300, 17),
    (20, 30),
    (97, 33),
    (171, 172),
    (45, 32),
]


def image(height: int, width: int, seed: int = 0) -> np.ndarray:
    """An image with an edge and with noise, in which every rounding shows."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    pixels[: height // 2, : width // 3] = 30
    return pixels


@pytest.fixture(scope="module")
def exported(detector: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ONNX file of the tiny trained detector."""
    file = tmp_path_factory.mktemp("onnx") / "weave.onnx"
    export_onnx(detector, file)
    return file


@pytest.mark.parametrize("side", [32, 96, 128])
def test_images_are_resized_as_opencv_does(side: int) -> None:
    for height, width in [*SIZES, (2 * side, 2 * side), (3 * side, side), (side, 4 * side), (10 * side // 3, 5 * side)]:
        pixels = image(height, width)
        expected = network_input(pixels, side).astype(int)
        difference = np.abs(stretched(torch.from_numpy(pixels), side).permute(1, 2, 0).numpy() - expected)
        if height % side == width % side == 0 or max(height, width) <= side:
            assert difference.max() == 0, (height, width)
        assert difference.max() <= 1, (height, width)
        assert (difference > 0).mean() <= 0.005, (height, width)


@pytest.mark.parametrize(("length", "new"), [(48, 32), (160, 128), (128, 32), (33, 7)])
def test_pooling_is_that_of_torch(length: int, new: int) -> None:
    images = torch.rand((2, 3, length, length), generator=torch.Generator().manual_seed(0))
    expected = [
        F.adaptive_max_pool2d(images, (new, new)),
        F.adaptive_avg_pool2d(images, new),
        F.interpolate(images, (new, new), mode="area"),
    ]
    with WindowedPooling():
        assert torch.equal(F.adaptive_max_pool2d(images, (new, new)), expected[0])
        torch.testing.assert_close(F.adaptive_avg_pool2d(images, new), expected[1])
        torch.testing.assert_close(F.interpolate(images, (new, new), mode="area"), expected[2])


def test_maps_are_those_in_which_scoring_finds_regions(exported: Path, bundle: Bundle) -> None:
    pixels = image(81, 60)
    _, anomaly_map, image_map = onnxruntime.InferenceSession(exported).run(None, {"pixels": pixels})
    (found,) = Engine(bundle.detector).detect_images([pixels])
    np.testing.assert_allclose(anomaly_map, found.anomaly_map, atol=2e-3)
    full, _ = anomaly_mask(found.anomaly_map.astype(MAP_TYPE), 60, 81, bundle.calibration.threshold)
    np.testing.assert_allclose(image_map, full, rtol=1e-3, atol=5e-3)  # both are half precision


def test_the_metadata_judge_a_score(exported: Path, bundle: Bundle) -> None:
    facts = onnxruntime.InferenceSession(exported).get_modelmeta().custom_metadata_map
    assert float(facts["diffad_ray.threshold"]) == bundle.calibration.threshold
    assert facts["diffad_ray.fingerprint"] == bundle.fingerprint
    calibration = Calibration(**json.loads(facts["diffad_ray.calibration"]))
    assert calibration == bundle.calibration
    # As docs/export.md says.
    n, last, k = calibration.images, calibration.scores[-1], calibration.tail_count
    score = last + 1.5
    tail = (1 + (score - last) / (k * calibration.tail_scale)) ** -k / (n + 1)
    assert calibration.tail_probability(np.array([score]))[0] == pytest.approx(tail)


def test_a_file_is_valid_and_holds_no_path_of_this_machine(exported: Path) -> None:
    onnx.checker.check_model(str(exported), full_check=True)
    assert str(ROOT).encode() not in exported.read_bytes()


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"view": "tiles"}, r"part \(diffusion-ad\) sees tiles"),
        ({"reconstruction": "iterative"}, r"part \(diffusion-ad\) calls its networks 201 times an image"),
    ],
)
def test_what_is_no_single_graph_is_refused(settings: dict[str, str], reason: str, tmp_path: Path) -> None:
    detector = tiny_detector(**settings)
    save_bundle(Bundle(detector, Calibration.from_scores(np.arange(9.0))), str(tmp_path / "part"))
    with pytest.raises(UserError, match=reason):
        export_onnx(tmp_path / "part", tmp_path / "part.onnx")
    assert not (tmp_path / "part.onnx").exists()


def test_a_wrong_conversion_is_not_written(
    exported: Path, detector: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = onnx.load(exported)
    (last,) = (node for node in wrong.graph.node if list(node.output) == ["score"])
    last.output[0] = "right"
    wrong.graph.initializer.append(onnx.numpy_helper.from_array(np.array(1000, np.float32), "far"))
    wrong.graph.node.append(onnx.helper.make_node("Add", ["right", "far"], ["score"]))
    monkeypatch.setattr(onnx_file, "converted", lambda graph: wrong)
    with pytest.raises(Fault, match=r"that torch scores .* Nothing was written"):
        export_onnx(detector, tmp_path / "part.onnx")
    assert not (tmp_path / "part.onnx").exists()


def test_the_command_tells_tables_from_detectors(detector: Path, tmp_path: Path) -> None:
    def said(*arguments: str) -> str:
        result = CliRunner().invoke(app, ["export", *arguments])
        assert isinstance(result.exception, UserError)
        return str(result.exception)

    assert "--onnx part.onnx" in said(str(detector))
    assert "leave lake out" in said(str(detector), "lake", "--onnx", str(tmp_path / "part.onnx"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_file, "find_spec", lambda package: None)
        assert "pip install 'diffad-ray[onnx]'" in said(str(detector), "--onnx", str(tmp_path / "part.onnx"))


@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++")
def test_the_example_in_cpp_gives_the_score(exported: Path, bundle: Bundle, tmp_path: Path) -> None:
    package = Path(openvino.__file__).parent
    (code,) = re.findall(r"```cpp\n(.*?)```", (ROOT / "docs" / "export.md").read_text(), re.DOTALL)
    (tmp_path / "score.cpp").write_text(code)
    (library,) = (package / "libs").glob("libopenvino.so.*")
    compiling = ["g++", "-std=c++17", "-I", package / "include", "score.cpp", library, f"-Wl,-rpath,{package}/libs"]
    subprocess.run([*compiling, "-o", "score"], cwd=tmp_path, check=True)
    pixels = image(81, 60)
    cv2.imwrite(str(tmp_path / "part.ppm"), pixels[..., ::-1])
    command = [str(tmp_path / "score"), str(exported), str(tmp_path / "part.ppm")]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    (found,) = Engine(bundle.detector).detect_images([pixels])
    number = re.fullmatch(r"score (\S+), map \[81,60\]\n", said)
    assert number is not None, said
    assert float(number[1]) == pytest.approx(found.score, abs=2e-3)
