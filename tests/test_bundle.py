"""The detector bundle: what is saved is what is loaded, and a damaged one says so."""

from __future__ import annotations

import hashlib
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from tiny_detector import random_images, tiny_detector

from diffad_ray.bundles.bundle import BUNDLE_SCHEMA, DESCRIPTION, WEIGHTS, Bundle, load_bundle, save_bundle
from diffad_ray.bundles.calibration import Calibration
from diffad_ray.detectors.base import Trainable
from diffad_ray.errors import UserError
from diffad_ray.synthesis.pseudo_anomalies import AnomalySettings
from diffad_ray.tensors import as_unit_tensor


def saved(detector: Trainable, location: Path) -> Bundle:
    calibration = Calibration.from_scores(np.linspace(0, 0.5, 30))
    return save_bundle(Bundle(detector, calibration, {"steps": 4}), str(location))


@pytest.fixture
def location(tmp_path: Path) -> Path:
    saved(tiny_detector(), tmp_path / "weave")
    return tmp_path / "weave"


def edit(location: Path, **changes: Any) -> None:
    file = location / DESCRIPTION
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_a_loaded_bundle_is_the_saved_one(tmp_path: Path) -> None:
    anomalies = AnomalySettings(share=0.3, opacity=(0.1, 0.9))
    before = saved(tiny_detector(mean=(0.1, 0.2, 0.3), guidance=0.7, anomalies=anomalies), tmp_path / "weave")
    after = load_bundle(f"{tmp_path}/weave/")
    assert after.detector.settings == before.detector.settings
    assert after.calibration == before.calibration
    assert (after.facts, after.name, after.fingerprint) == ({"steps": 4}, "weave", before.fingerprint)
    assert not after.detector.training
    images = as_unit_tensor(random_images(2))
    assert torch.equal(after.detector.score(images), before.detector.score(images))
    assert sorted(file.name for file in (tmp_path / "weave").iterdir()) == [DESCRIPTION, WEIGHTS]


def test_the_fingerprint_follows_weights_and_settings_alone(tmp_path: Path) -> None:
    first = saved(tiny_detector(), tmp_path / "a").fingerprint
    assert len(first) == 16
    assert int(first, 16)
    moved = Bundle(tiny_detector(), Calibration.from_scores(np.arange(5.0)), {"steps": 9})
    assert save_bundle(moved, str(tmp_path / "b")).fingerprint == first, "a threshold can change without scoring again"
    nudged = tiny_detector()
    with torch.no_grad():
        nudged.segmenter.conv_out.bias += 1e-6
    others = [nudged, tiny_detector(seed=1), tiny_detector(t_small=201), tiny_detector(noise_seed=1)]
    fingerprints = {saved(detector, tmp_path / "other").fingerprint for detector in others}
    assert len(fingerprints | {first}) == 5


def test_settings_edited_by_hand_make_another_fingerprint(location: Path) -> None:
    before, settings = load_bundle(str(location)), json.loads((location / DESCRIPTION).read_text())["settings"]
    edit(location, settings=settings | {"guidance": 0.5})
    after = load_bundle(str(location))
    assert after.detector.settings.guidance == 0.5
    assert after.fingerprint != before.fingerprint


def test_the_weights_describe_themselves(location: Path) -> None:
    with safe_open(location / WEIGHTS, framework="numpy") as file:
        metadata, names = file.metadata(), set(file.keys())
    described = json.loads(metadata["detector"])
    assert described["kind"] == "diffusion-ad"
    assert described["settings"]["image_size"] == 32
    assert names == set(tiny_detector().state_dict())


class Trap:
    """Leaves a file where it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


def test_no_pickle_is_ever_loaded(location: Path, tmp_path: Path) -> None:
    trap = pickle.dumps(Trap(tmp_path / "sprung"))
    (location / WEIGHTS).write_bytes(trap)
    edit(location, weights={"file": WEIGHTS, "bytes": len(trap), "sha256": hashlib.sha256(trap).hexdigest()})
    with pytest.raises(UserError, match=r"is damaged.*copy the bundle again"):
        load_bundle(str(location))
    assert not (tmp_path / "sprung").exists()


def test_a_newer_schema_asks_for_an_update(location: Path) -> None:
    edit(location, schema_version=BUNDLE_SCHEMA + 1)
    with pytest.raises(UserError, match=f"schema version {BUNDLE_SCHEMA + 1}.*pip install -U diffad-ray"):
        load_bundle(str(location))


def test_bundles_of_development_versions_are_refused(location: Path) -> None:
    edit(location, schema_version=BUNDLE_SCHEMA - 1)
    with pytest.raises(UserError, match="before its first release"):
        load_bundle(str(location))


def test_no_description_says_how_to_train(location: Path) -> None:
    (location / DESCRIPTION).unlink()
    with pytest.raises(UserError, match=f"no detector at {location}.*diffad-ray train FOLDER --detector {location}"):
        load_bundle(str(location))


def test_truncated_weights_are_damaged(location: Path) -> None:
    weights = (location / WEIGHTS).read_bytes()
    (location / WEIGHTS).write_bytes(weights[:-1])
    with pytest.raises(UserError, match=f"damaged: {len(weights) - 1} bytes.*the {len(weights)} bytes.*Copy"):
        load_bundle(str(location))


def test_missing_weights_are_named(location: Path) -> None:
    (location / WEIGHTS).unlink()
    with pytest.raises(UserError, match=f"lacks {WEIGHTS}: copy the bundle again"):
        load_bundle(str(location))


@pytest.mark.parametrize("garbage", [b"", b"{", b"\xff\xfe\x00", b"[]", b"null", b"{}"])
def test_garbage_for_a_description_is_no_traceback(location: Path, garbage: bytes) -> None:
    (location / DESCRIPTION).write_bytes(garbage)
    with pytest.raises(UserError, match=str(location)):
        load_bundle(str(location))


def test_an_unknown_kind_names_the_known_ones(location: Path) -> None:
    edit(location, kind="oracle")
    with pytest.raises(UserError, match="unknown detector 'oracle': take one of diffusion-ad"):
        load_bundle(str(location))


@pytest.mark.parametrize(
    "key", ["kind", "settings", "calibration", "training", "weights", "settings.t_small", "settings.new"]
)
def test_a_description_with_holes_is_damaged(location: Path, key: str) -> None:
    description = json.loads((location / DESCRIPTION).read_text())
    match key.split("."):
        case ["settings", "t_small"]:
            description["settings"]["t_small"] = 5000
        case ["settings", "new"]:
            description["settings"]["new"] = 1
        case [name]:
            del description[name]
    (location / DESCRIPTION).write_text(json.dumps(description))
    with pytest.raises(UserError, match=r"is damaged.*copy the bundle again"):
        load_bundle(str(location))


def test_weights_of_other_networks_are_refused(location: Path, tmp_path: Path) -> None:
    wide = saved(tiny_detector(preset="small"), tmp_path / "small")
    description = json.loads((tmp_path / "small" / DESCRIPTION).read_text())
    (location / WEIGHTS).write_bytes((tmp_path / "small" / WEIGHTS).read_bytes())
    edit(location, weights=description["weights"])
    assert wide.name == "small"
    with pytest.raises(UserError, match="is damaged"):
        load_bundle(str(location))
