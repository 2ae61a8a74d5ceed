"""Defective images for training: where they are found, and what is refused. All kinds of detectors by one command."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import write_image
from test_cli import fails, run

from diffad_ray import UserError, evaluate, load_detector
from diffad_ray.demo.surfaces import DEFECTS, defective
from diffad_ray.training.defective import find_defective, refuse_common
from diffad_ray.training.normals import find_normals

QUICK = ["training.precision=float32"]


@pytest.fixture(scope="module")
def cuts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 6 images of defective weave."""
    folder = tmp_path_factory.mktemp("defects") / "cut"
    rng = np.random.default_rng(0)
    for k in range(6):
        write_image(folder / f"{k}.png", defective("weave", DEFECTS["weave"][k % 4], rng, 64).image)
    return folder


def test_linked_folders_are_learnt_from_and_what_is_left_out_is_said(
    cuts: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("monday", "tuesday", ".old"):
        (tmp_path / name).symlink_to(cuts)
    wanted = [f"{tmp_path}/monday/{k}.png" for k in range(6)]
    assert list(find_defective([str(tmp_path)], set())) == wanted
    found = find_normals(str(tmp_path), 0.5, 100, 0)
    assert sorted([*found.learnt, *found.held_back]) == wanted
    assert caplog.text.count(f"linked a second time and was listed once, by another path: {tmp_path}/tuesday") == 2
    assert caplog.text.count(f"hidden name (it starts with a dot) is left out: {tmp_path}/.old") == 2


def test_folders_tables_and_data_sets(cuts: Path, normals: Path, tmp_path: Path) -> None:
    everything = [str(cuts / f"{k}.png") for k in range(6)]
    assert list(find_defective([str(cuts)], set())) == everything
    assert all(find_defective([str(cuts)], set()).values()), "with versions"
    (tmp_path / "labels.csv").write_text(f"uri,label\n{cuts}/0.png,cut\n{cuts}/1.png,good\n{cuts}/2.png,1\n")
    assert list(find_defective([str(tmp_path / "labels.csv")], set())) == [everything[0], everything[2]]
    assert list(find_defective([str(cuts), str(tmp_path / "labels.csv")], set())) == everything, "each once"
    shutil.copytree(cuts, tmp_path / "weave" / "test" / "cut")
    shutil.copytree(normals, tmp_path / "weave" / "test" / "good")
    shutil.copytree(normals, tmp_path / "weave" / "train" / "good")
    assert len(find_defective([str(tmp_path / "weave")], set())) == 6, "the good ones of a data set are left out"
    assert find_defective([], set()) == {}

    shutil.copytree(cuts, tmp_path / "dagm" / "Label")
    for place, because in (
        (tmp_path / "weave" / "test", "folder 'good'.*each with its own --defects"),
        (tmp_path / "nowhere", "no folder .*nowhere"),
        (tmp_path / "weave" / "train", "folder 'good'"),
        (tmp_path / "weave" / "test" / "good", "folder 'good', as of good images"),
        (tmp_path / "dagm", "folder 'Label', as of masks"),
    ):
        with pytest.raises(UserError, match=because):
            find_defective([str(place)], set())
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match="no defective images"):
        find_defective([str(tmp_path / "none")], set())
    with pytest.raises(
        UserError, match=r"6 images are among the normal and among the defective ones, such as .*0\.png"
    ):
        find_defective([str(cuts)], set(everything))


@pytest.mark.long
@pytest.mark.parametrize("kind", ["semantic-diffgan"])
def test_other_kinds_are_trained_compared_and_evaluated_by_the_same_commands(
    kind: str,
    cuts: Path,
    normals: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    location = tmp_path / "detector"
    command = ["train", normals, "--detector", location, "--kind", kind, "--preset", "tiny", "--image-size", 32]
    command += ["--steps", 12, "--batch-size", 4, "--workers", 0, "--set", QUICK[0]]
    command += ["--set", "detector.t=12"]
    if kind == "semantic-diffgan":
        command += ["--defects", cuts, "--set", "detector.denoiser_share=0.3", "--set", "detector.critic_steps=1"]
    assert run(monkeypatch, *command) == 0
    bundle = load_detector(str(location))
    assert bundle.detector.kind == kind
    assert len(bundle.facts["data"].get("defective", ())) == (6 if kind == "semantic-diffgan" else 0)
    assert (location / "training" / "losses.png").stat().st_size > 1000
    assert run(monkeypatch, *command) == 0, "a finished training is loaded"

    shutil.copytree(cuts, tmp_path / "weave" / "test" / "cut")
    shutil.copytree(normals, tmp_path / "weave" / "test" / "good")
    shutil.copytree(normals, tmp_path / "weave" / "train" / "good")
    capsys.readouterr()
    assert run(monkeypatch, "ablate", location, tmp_path / "weave", "--images", 2, "--json") == 0
    methods = [line["name"] for line in json.loads(capsys.readouterr().out)["variants"]]
    assert methods == [*bundle.detector.settings.methods]
    labels = tmp_path / "labels.csv"
    good = "".join(f"{path},good\n" for path in sorted(normals.iterdir())[:3])
    labels.write_text(f"uri,label\n{good}{cuts}/0.png,cut\n{tmp_path}/weave/test/cut/1.png,cut\n")
    # Twelve steps of training may find nothing.
    others = ("mask", "no image reaches the threshold")
    notes = [note for note in evaluate(location, labels).notes if not any(other in note for other in others)]
    assert notes == (
        [
            "weakly supervised: the detector has learnt from 6 defective images",
            "1 of the test images are among those: leave them out, for they flatter all figures",
        ]
        if kind == "semantic-diffgan"
        else []
    )


def test_what_is_refused(
    cuts: Path, normals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train_gan = ["train", normals, "--detector", tmp_path / "d", "--kind", "semantic-diffgan", "--workers", 0]
    train_gan += ["--preset", "tiny", "--image-size", 32, "--steps", 4, "--batch-size", 4, "--set", QUICK[0]]
    for share in (0.05, 0.95):
        short = ["--set", f"detector.denoiser_share={share}", "--defects", cuts]
        fails(monkeypatch, capsys, *train_gan, *short, because="4 steps leave the")
    for impossible in ("beta_end=2.0", "timesteps=1", "penalty=nan", "gan_learning_rate=inf"):
        settings = ["--set", f"detector.{impossible}", "--defects", cuts]
        fails(monkeypatch, capsys, *train_gan, *settings, because="settings of [detector]")
    train_gan += ["--set", "detector.critic_steps=1", "--set", "detector.denoiser_share=0.5"]
    fails(monkeypatch, capsys, *train_gan, because="learns from defective images as well: give --defects")
    fails(monkeypatch, capsys, *train_gan, "--defects", normals, because="among the normal and among the defective")
    fails(monkeypatch, capsys, *train_gan, "--defects", cuts, "--textures", cuts, because="takes no textures")
    plain = ["train", normals, "--detector", tmp_path / "d", "--workers", 0]
    fails(monkeypatch, capsys, *plain, "--defects", cuts, because="leave --defects out")
    fails(monkeypatch, capsys, *plain, "--kind", "anoddpm", "--textures", cuts, because="takes no textures")
    assert not (tmp_path / "d").exists(), "nothing has been written"
    # The same picture under another name.
    shutil.copytree(cuts, tmp_path / "mixed")
    shutil.copy(normals / "03.png", tmp_path / "mixed" / "strange.png")
    (tmp_path / "mixed" / "broken.png").write_bytes(b"")
    # A deep image among them must not hide it.
    cv2.imwrite(str(tmp_path / "mixed" / "deep.png"), np.full((64, 64), 40_000, np.uint16))
    seen = "1 of 8 defective images are among the normal ones under other names"
    fails(monkeypatch, capsys, *train_gan, "--defects", tmp_path / "mixed", because=seen)


def test_the_same_pixels_are_found_in_any_depth_and_any_of_the_normal_sets() -> None:
    rng = np.random.default_rng(0)
    learnt, held_back = rng.integers(0, 256, (2, 5, 8, 8, 4), dtype=np.uint8)
    other = rng.integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    refuse_common((learnt, held_back), other)
    for normals in (learnt, held_back):
        for same in (normals[2:4, ..., :3], normals[2:4, ..., :3].astype(np.uint16) * 257):
            with pytest.raises(UserError, match="2 of 2 defective images"):
                refuse_common((learnt, held_back), same)
