"""Checkpoints of the released code: as bundles they score as they did, and bad ones are refused by name."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import write_image
from safetensors.torch import load_file
from test_cli import fails, run
from test_parity import PARITY
from torch import Tensor, nn

from diffad_ray import import_checkpoint
from diffad_ray.bundles.bundle import load_bundle
from diffad_ray.demo.surfaces import normal
from diffad_ray.detectors.diffusion_ad import DiffusionAD, DiffusionADSettings
from diffad_ray.errors import UserError
from diffad_ray.networks.presets import NetworkSizes
from diffad_ray.tensors import as_unit_tensor
from diffad_ray.training.released import DENOISER, SEGMENTER, from_released, is_released, released_name

ARGS = {
    "img_size": [32, 32],
    "T": 500,
    "base_channels": 32,
    "beta_schedule": "linear",
    "attention_resolutions": "16",
    "num_heads": 2,
    "num_head_channels": -1,
    "noise_fn": "gauss",
    "channels": 3,
    "less_t_range": 150,
    "condition_w": 2,
    "eval_normal_t": 90,
    "eval_noisier_t": 210,
    "output_path": "/home/somebody/outputs",
}


@pytest.fixture(scope="module")
def normals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rng = tmp_path_factory.mktemp("normals"), np.random.default_rng(0)
    for k in range(4):
        write_image(folder / f"{k}.png", normal("weave", rng, 64).image)
    return folder


@pytest.fixture(scope="module")
def source() -> DiffusionAD:
    """A detector as the released code builds one from `ARGS`, none of its layers at zero."""
    torch.manual_seed(0)
    sizes = NetworkSizes(
        channels=32,
        channel_multipliers=(1, 2, 3, 4),
        residual_blocks=2,
        attention_sizes=(32, 16, 8),
        heads=2,
        segmenter_channels=8,
    )
    settings = DiffusionADSettings(
        image_size=32,
        score_unit="probability",
        familiarity=0.0,
        network=sizes,
        timesteps=500,
        beta_start=2e-4,
        beta_end=0.04,
        t_small=90,
        t_big=210,
        guidance=2.0,
        scaling="unit",
        prediction="noise",
        top_share=50 / 32**2,
    )
    detector = DiffusionAD(settings)
    for parameter in detector.parameters():
        if parameter.dim() > 1:
            nn.init.kaiming_normal_(parameter)
    return detector.eval()


@pytest.fixture(scope="module")
def released(source: DiffusionAD) -> dict[str, Any]:
    """What the released code saves of it: its dictionary of arguments fills up with what was asked for in vain."""
    entries: dict[str, Any] = {"n_epoch": 2999, DENOISER: {}, SEGMENTER: {}, "args": defaultdict(str, ARGS)}
    assert entries["args"]["channel_mults"] == entries["args"]["loss_weight"] == ""
    for name, tensor in filter(lambda item: is_released(item[0]), source.state_dict().items()):
        entry, theirs = released_name(name)
        entries[entry][theirs] = tensor.clone()
    return entries


def written(folder: Path, entries: object) -> Path:
    torch.save(entries, folder / "params-best.pt")
    return folder / "params-best.pt"


def without(args: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in args.items() if name not in names}


def test_an_imported_checkpoint_scores_as_its_source(
    source: DiffusionAD, released: dict[str, Any], normals: Path, tmp_path: Path
) -> None:
    more = {"optimizer": {"state": {0: torch.zeros(3)}}, "ema": {"down.0.0.weight": torch.zeros(1)}}
    file = written(tmp_path, released | more)
    import_checkpoint(file, tmp_path / "detector", normals=normals)
    bundle = load_bundle(str(tmp_path / "detector"))
    images = as_unit_tensor(np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8))
    scores = source.score(images)
    assert scores.std() > 1e-4, "scores that are all alike prove nothing"
    torch.testing.assert_close(bundle.detector.score(images), scores, atol=1e-5, rtol=0)
    torch.testing.assert_close(bundle.detector.anomaly_map(images), source.anomaly_map(images), atol=1e-5, rtol=0)
    settings = bundle.detector.settings
    assert isinstance(settings, DiffusionADSettings)
    assert (settings.precision, settings.view, settings.scaling) == ("float32", "whole", "unit")
    assert settings.t_split == 150
    assert bundle.calibration.images == 4
    assert bundle.calibration.false_alarm_rate == 0.01
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    imported = {"file": "params-best.pt", "sha256": digest, "epoch": 2999, "left_out": ["ema", "optimizer"]}
    assert bundle.facts["imported"] == imported
    description = (tmp_path / "detector" / "detector.json").read_text()
    assert str(tmp_path) not in description
    assert "somebody" not in description


@pytest.mark.skipif(not PARITY.is_dir(), reason="the numbers of the released code are not at hand")
def test_an_imported_checkpoint_scores_as_the_released_code(normals: Path, tmp_path: Path) -> None:
    config = json.loads((PARITY / "config.json").read_text())
    expected = load_file(PARITY / "tensors.safetensors")
    parts: dict[str, dict[str, Tensor]] = {"unet.": {}, "seg.": {}}
    for name, weight in load_file(PARITY / "weights.safetensors").items():
        part, _, theirs = name.partition(".")
        parts[f"{part}."][theirs] = weight
    args = {"img_size": [config["img_size"]] * 2, "T": config["T"], "condition_w": config["guidance_w"]}
    args |= {"eval_normal_t": config["t_small"], "eval_noisier_t": config["t_big"], "num_heads": config["num_heads"]}
    entries = {DENOISER: parts["unet."], SEGMENTER: parts["seg."], "args": defaultdict(str, args), "n_epoch": 1}
    detector = import_checkpoint(written(tmp_path, entries), tmp_path / "detector", normals=normals).detector
    assert isinstance(detector, DiffusionAD)
    both = expected["noise_small"], expected["noise_big"]
    detector.noise = lambda like, member, draw: both[draw]  # type: ignore[method-assign]
    torch.testing.assert_close(detector.score(expected["image"]), expected["image_score"], atol=1e-4, rtol=0)


def test_every_name_is_found_back(source: DiffusionAD, released: dict[str, Any]) -> None:
    state = from_released(released[DENOISER], released[SEGMENTER])
    assert state.keys() == {name for name in source.state_dict() if is_released(name)}
    assert released_name("denoiser.up.11.1.out.weight") == (DENOISER, "up.11.1.proj_out.weight")
    assert released_name("denoiser.down.10.0.norm2.bias") == (DENOISER, "down.11.0.out_layers.0.bias")
    assert released_name("segmenter.up.0.1.weight") == (SEGMENTER, "decoder_segment.up_b.1.weight")
    halves = from_released({"down.0.0.weight": torch.ones(1).half()}, {"x.num_batches_tracked": torch.tensor(3)})
    assert [tensor.dtype for tensor in halves.values()] == [torch.float32, torch.int64]


def test_options_say_what_the_file_does_not(released: dict[str, Any], normals: Path, tmp_path: Path) -> None:
    file = written(tmp_path, without(released, "args"))
    with pytest.raises(UserError, match="doesn't say for which image size"):
        import_checkpoint(file, tmp_path / "a", normals=normals)
    with pytest.raises(UserError, match="image size 0 px is not a multiple of 32"):
        import_checkpoint(file, tmp_path / "a", normals=normals, image_size=0)
    settings = import_checkpoint(file, tmp_path / "a", normals=normals, image_size=32).detector.settings
    assert isinstance(settings, DiffusionADSettings)
    found = (settings.timesteps, settings.t_small, settings.t_big, settings.t_split, settings.guidance)
    assert found == (1000, 200, 400, 300, 1.0)
    file = written(tmp_path, released)
    settings = import_checkpoint(file, tmp_path / "b", normals=normals, t_small=50).detector.settings
    assert isinstance(settings, DiffusionADSettings)
    assert (settings.t_small, settings.t_big) == (50, 210)
    with pytest.raises(UserError, match="are for 32 px, not 64"):
        import_checkpoint(file, tmp_path / "c", normals=normals, image_size=64)
    with pytest.raises(UserError, match="holds a detector already"):
        import_checkpoint(file, tmp_path / "b", normals=normals)


def test_files_that_are_no_checkpoints(released: dict[str, Any], normals: Path, tmp_path: Path) -> None:
    file = tmp_path / "params-best.pt"
    out = tmp_path / "detector"

    def refused(because: str) -> None:
        with pytest.raises(UserError, match=because):
            import_checkpoint(file, out, normals=normals)
        assert not out.exists()

    refused("can't be read")
    whole = written(tmp_path, released).read_bytes()
    for content in (b"", b"no torch file", whole[: len(whole) // 2], pickle.dumps(7), b"\x80\x02"):
        file.write_bytes(content)
        refused("params-best.pt is no checkpoint that torch can read")
    written(tmp_path, torch.zeros(3))
    refused("holds a Tensor")
    written(tmp_path, {"model": {}, "epoch": 3})
    refused(f"has no {DENOISER}.* it has model, epoch")
    written(tmp_path, released | {SEGMENTER: [1, 2]})
    refused(f"{SEGMENTER} in params-best.pt is no dictionary of tensors")
    written(tmp_path, released | {DENOISER: {1: torch.zeros(1)}})
    refused(f"{DENOISER} in params-best.pt is no dictionary of tensors")


def test_code_in_a_file_is_refused_and_not_run(released: dict[str, Any], normals: Path, tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "ran"),)

    for entries in (released | {"args": Attack()}, released | {DENOISER: nn.Linear(1, 1)}):
        with pytest.raises(UserError, match=r"holds pickled code \((\w+\.mkdir|torch\.[\w.]+)\), which is not run"):
            import_checkpoint(written(tmp_path, entries), tmp_path / "detector", normals=normals)
    (tmp_path / "params-best.pt").write_bytes(pickle.dumps(Attack(), protocol=2))
    with pytest.raises(UserError, match="holds pickled code"):
        import_checkpoint(tmp_path / "params-best.pt", tmp_path / "detector", normals=normals)
    assert not (tmp_path / "ran").exists()


def test_parameters_that_do_not_fit_are_named(released: dict[str, Any], normals: Path, tmp_path: Path) -> None:
    def refused(because: str, **changes: Any) -> None:
        with pytest.raises(UserError, match=because):
            import_checkpoint(written(tmp_path, released | changes), tmp_path / "detector", normals=normals)

    denoiser, segmenter = released[DENOISER], released[SEGMENTER]
    refused(f"it lacks {DENOISER}: out.2.bias$", **{DENOISER: without(denoiser, "out.2.bias")})
    refused("lacks the parameter down.0.0.weight", **{DENOISER: without(denoiser, "down.0.0.weight")})
    refused(f"has beyond them {SEGMENTER}: extra.bias$", **{SEGMENTER: segmenter | {"extra.bias": torch.zeros(2)}})
    short = {"out.2.bias": torch.zeros(2)}
    refused(rf"another shape {DENOISER}: out.2.bias \[2\] instead of \[3\]$", **{DENOISER: denoiser | short})
    refused("and [0-9]+ more", args=ARGS | {"channel_mults": [1, 2, 3]})
    for name, value, because in (
        ("beta_schedule", "cosine", "beta_schedule = 'cosine'; only 'linear'"),
        ("noise_fn", "simplex", "noise_fn = 'simplex'"),
        ("img_size", [32, 64], r"img_size = \[32, 64\]; only one side"),
        ("img_size", [], "only one side"),
        ("img_size", [[32]], "only one side"),
        ("T", "many", "T = 'many', which is no number"),
        ("T", 0, "can't be imported as it says in its args"),
        ("eval_normal_t", 400, "t_small 400 < t_big 210"),
        ("num_heads", 5, "can't be split"),
        ("img_size", 33, "not a multiple of 32"),
    ):
        refused(because, args=ARGS | {name: value})
    spoilt = denoiser | {"out.2.bias": torch.full((3,), torch.nan)}
    refused("no threshold can be set", **{DENOISER: spoilt})
    assert not (tmp_path / "detector").exists()


def test_the_command(
    released: dict[str, Any],
    normals: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ("import-checkpoint", written(tmp_path, released), "--detector", tmp_path / "detector")
    fails(monkeypatch, capsys, *command, because="give --normals FOLDER")
    fails(monkeypatch, capsys, *command, "--normals", tmp_path / "none", because="no folder")
    assert run(monkeypatch, *command, "--normals", normals) == 0
    said = capsys.readouterr().out
    assert "judged by 4 images" in said
    assert f"--detector {tmp_path / 'detector'} --table" in said
    train = ("train", normals, "--detector", tmp_path / "detector", "--workers", 0)
    fails(monkeypatch, capsys, *train, because="was imported")
