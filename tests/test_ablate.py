"""The ablation: the paper's methods side by side, from one command."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import cv2
import pytest
from test_cli import fails, run
from test_evaluation import dataset as dataset  # the fixture

from diffad_ray import evaluate, load_detector
from diffad_ray.bundles.bundle import Bundle, save_bundle
from diffad_ray.detectors.diffusion_ad import DiffusionAD
from diffad_ray.evaluation.ablate import ablate


@pytest.fixture(scope="module")
def quick(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny detector, with few noise steps, which are all gone through here."""
    settings = dataclasses.replace(bundle.detector.settings, t_small=12, t_big=40)
    detector = DiffusionAD(settings)
    detector.load_state_dict(bundle.detector.state_dict())
    location = tmp_path_factory.mktemp("quick") / "weave"
    save_bundle(dataclasses.replace(bundle, detector=detector), str(location))
    return location


def test_methods_and_sweeps_side_by_side(
    quick: Path, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["ablate", quick, dataset, "--autoencoder", tmp_path / "autoencoder", "--sweep", "t_small=5,30"]
    command += [
        "--sweep",
        "guidance=0,1",
        "--sweep",
        "noise_seed=0",
        "--sweep",
        "familiarity=0,2",
        "--plot",
        tmp_path / "plots" / "ablation.png",
        "--json",
    ]
    assert run(monkeypatch, *command) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["images"] == 15
    lines = {(line["group"], line["name"]): line for line in found["variants"]}
    assert list(lines) == [
        *(("method", name) for name in ("autoencoder", "iterative", "one-step", "norm-guided", "with familiarity")),
        *(("t_small", name) for name in ("5", "30")),
        *(("guidance", name) for name in ("0.0", "1.0")),
        *(("noise_seed", name) for name in ("0",)),
        *(("familiarity", name) for name in ("0.0", "2.0")),
    ]
    assert any("familiarity" in note for note in found["notes"])
    calls = [lines["method", name]["network_calls"] for name in ("autoencoder", "iterative", "one-step", "norm-guided")]
    assert calls == [1, 13, 1, 2]
    whole, by_pixels = lines["method", "with familiarity"], lines["method", "norm-guided"]
    assert whole["aupro"] == pytest.approx(lines["familiarity", "2.0"]["aupro"], abs=1e-4)
    plain = evaluate(quick, dataset).figures["overall"]
    # Each engine finds its memory format by a trial, and formats round differently.
    assert (whole["image_auroc"], whole["aupro"]) == pytest.approx((plain.image_auroc, plain.aupro), abs=1e-4)
    for same in (("guidance", "1.0"), ("noise_seed", "0"), ("familiarity", "0.0")):
        assert lines[same]["image_auroc"] == by_pixels["image_auroc"]
        assert lines[same]["aupro"] == pytest.approx(by_pixels["aupro"], abs=1e-4)
    assert lines["guidance", "0.0"]["image_auroc"] == lines["method", "one-step"]["image_auroc"]
    assert lines["method", "iterative"]["images_per_second"] < lines["method", "one-step"]["images_per_second"] / 3
    assert all(0 < line["normal_error"] < 1 for line in lines.values())
    # Noise that is small to begin with is nearly all that an untrained network leaves.
    assert lines["t_small", "5"]["normal_error"] < lines["t_small", "30"]["normal_error"]
    assert load_detector(str(tmp_path / "autoencoder")).detector.settings.reconstruction == "autoencoder"
    picture = cv2.imread(str(tmp_path / "plots" / "ablation.png"))
    assert picture is not None
    assert picture.shape[1] > 1000

    # Wrong values cost nothing.
    for sweep, because in (
        ("t_small=a", "valid integer"),
        ("t_small", "SETTING=VALUE"),
        ("t_big=100000", "timesteps"),
        ("t_big=1", "<"),
        ("preset=paper", "can't be swept in a diffusion-ad: take one of"),
    ):
        fails(monkeypatch, capsys, "ablate", quick, dataset, "--sweep", sweep, because=because)
    fails(monkeypatch, capsys, "ablate", quick, dataset, "--method", "ddim", because="no method 'ddim' of this diffusi")
    lost = "no method 'autoencoder' of this diffusion-ad (autoencoder: with --autoencoder FOLDER)"
    fails(monkeypatch, capsys, "ablate", quick, dataset, "--method", "autoencoder", because=lost)
    fails(monkeypatch, capsys, "ablate", quick, dataset, "--autoencoder", quick, because="and no autoencoder: name a")


def test_few_images_of_each_kind(quick: Path, dataset: Path) -> None:
    found = ablate(quick, dataset, images=2)
    assert found.images == 6
    every = ["iterative", "one-step", "norm-guided", "with familiarity"]
    assert [variant.name for variant in found.variants] == every
    chosen = ablate(quick, dataset, images=2, methods=["norm-guided", "one-step"], sweeps={"t_big": [30]})
    assert [variant.name for variant in chosen.variants] == ["one-step", "norm-guided", "30"]


def test_methods_that_are_not_there_have_no_row(quick: Path, dataset: Path, bundle: Bundle, tmp_path: Path) -> None:
    own = tmp_path / "autoencoder"
    chosen = ablate(quick, dataset, images=1, autoencoder=own, methods=["autoencoder"])
    assert [variant.name for variant in chosen.variants] == ["autoencoder"]
    untaught = DiffusionAD(load_detector(str(quick)).detector.settings)
    save_bundle(dataclasses.replace(bundle, detector=untaught.eval()), str(tmp_path / "untaught"))
    found = ablate(tmp_path / "untaught", dataset, images=1)
    assert [variant.name for variant in found.variants] == ["iterative", "one-step", "norm-guided"]
    assert not [note for note in found.notes if "familiarity" in note]
