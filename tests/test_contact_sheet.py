"""The contact sheet shows what training makes, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from conftest import write_image
from test_cli import fails, run

from diffad_ray import contact_sheet
from diffad_ray.diffusion.noise import seeded_generator
from diffad_ray.reports.contact_sheet import GAP
from diffad_ray.settings import read_settings
from diffad_ray.synthesis.pseudo_anomalies import AnomalySettings, pseudo_anomalies
from diffad_ray.tensors import as_unit_tensor
from diffad_ray.training.sources import Sources

SIDE = 32


def tiles(sheet: np.ndarray) -> np.ndarray:
    """[rows,3,S,S,3] uint8: the images of a sheet, after a check that white gaps frame them."""
    step = SIDE + GAP
    rows, columns = (length // step for length in sheet.shape[:2])
    assert sheet.shape == (rows * step + GAP, columns * step + GAP, 3)
    grid = sheet[:-GAP, :-GAP].reshape(rows, step, columns, step, 3)
    assert (grid[:, :GAP] == 255).all()
    assert (grid[:, :, :, :GAP] == 255).all()
    assert (sheet[-GAP:] == 255).all()
    assert (sheet[:, -GAP:] == 255).all()
    return grid[:, GAP:, :, GAP:].transpose(0, 2, 1, 3, 4)


def sized(*overrides: str) -> dict[str, dict[str, Any]]:
    return read_settings(overrides=overrides, options={"detector": {"image_size": SIDE}})


def test_a_sheet_shows_what_training_makes(normals: Path) -> None:
    sheet = contact_sheet(normals, settings=sized("detector.anomalies.perlin=0"), count=6, seed=3)
    assert sheet.dtype == np.uint8
    normal, anomalous, mask = tiles(sheet).swapaxes(0, 1)
    settings = AnomalySettings(share=1.0, perlin=0)
    made = pseudo_anomalies(as_unit_tensor(normal), None, seeded_generator("cpu", 3), settings)
    assert np.array_equal(anomalous, (made.images * 255).round().byte().permute(0, 2, 3, 1).numpy())
    assert np.array_equal(mask[..., :1] // 255, made.masks.byte().permute(0, 2, 3, 1).numpy())
    near = cv2.dilate(mask.transpose(1, 2, 0, 3).reshape(SIDE, SIDE, -1), np.ones((9, 9), np.uint8))
    assert (normal == anomalous).transpose(1, 2, 0, 3).reshape(SIDE, SIDE, -1)[near == 0].mean() > 0.99, "elsewhere"
    assert (mask.max(axis=(1, 2, 3)) == 255).sum() >= 5, "every sample has its anomaly, unless it missed the image"


def test_the_seed_decides(normals: Path) -> None:
    first, again, other = (contact_sheet(normals, settings=sized(), count=2, seed=seed) for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_few_and_deep_images_do(tmp_path: Path) -> None:
    for k in range(4):
        write_image(tmp_path / f"{k}.png", np.full((40, 50, 3), 10_000 * (k + 1), np.uint16))
    normal = tiles(contact_sheet(tmp_path, settings=sized(), count=10))[:, 0]
    greys = normal.min(axis=(1, 2, 3))
    assert sorted(set(greys.tolist())) == [round(10_000 * k / 257) for k in (1, 2, 3, 4)]
    assert np.array_equal(greys[:4], greys[4:8])


def test_textures_and_tiles(normals: Path, tmp_path: Path) -> None:
    red = np.zeros((20, 20, 3), np.uint8)
    red[..., 0] = 255
    for k in range(4):
        write_image(tmp_path / f"{k}.png", red)
    only = [f"detector.anomalies.{name}=0" for name in ("strips", "moved", "shades")]
    lent = contact_sheet(Sources(str(normals), str(tmp_path)), settings=sized(*only), count=4)
    assert not np.array_equal(lent, contact_sheet(normals, settings=sized(*only), count=4))
    cut = contact_sheet(normals, settings=sized("detector.view=tiles"), count=4)
    assert not np.array_equal(tiles(cut)[:, 0], tiles(contact_sheet(normals, settings=sized(), count=4))[:, 0])


def test_the_command(
    normals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "new" / "sheet.png"
    command = ("contact-sheet", normals, "--output", output, "--image-size", SIDE, "--count", 3)
    fails(monkeypatch, capsys, *command, "--set", "detector.anomalies.spotz=1", because="spotz")
    fails(monkeypatch, capsys, *command, "--set", "training.steps=1", because="detector.KEY")
    fails(monkeypatch, capsys, *command, "--image-size", 33, because="take 32")
    fails(monkeypatch, capsys, "contact-sheet", tmp_path, "--output", output, because="holds 0 images")
    (tmp_path / "textures").mkdir()
    lent = ("--textures", tmp_path / "textures")
    fails(monkeypatch, capsys, *command, *lent, because="textures holds no images that could lend pseudo-anomalies")
    wrong = (*command[:3], output.with_suffix(".jpg"), *command[4:])
    fails(monkeypatch, capsys, *wrong, because="give it a name that ends with .png")
    assert not list(tmp_path.glob("new/*"))
    (tmp_path / "training.toml").write_text(
        "[detector]\nimage_size = 64\n[detector.anomalies]\nperlin = 0\nstrokes = 0\n"
    )
    less = ["detector.anomalies.perlin=0", "detector.anomalies.strokes=0"]
    other = contact_sheet(normals, settings=sized(*less), count=3)
    assert not np.array_equal(other, contact_sheet(normals, settings=sized(), count=3))
    assert run(monkeypatch, *command, "--settings", tmp_path / "training.toml") == 0
    assert np.array_equal(cv2.imread(str(output))[..., ::-1], other)
    capsys.readouterr()
    assert run(monkeypatch, *command) == 0
    assert "sheet.png" in capsys.readouterr().out
    picture = cv2.imread(str(output))
    assert picture is not None
    assert np.array_equal(picture[..., ::-1], contact_sheet(normals, settings=sized(), count=3))
