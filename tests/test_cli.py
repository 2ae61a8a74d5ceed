"""The command line: what goes wrong is said in one message with exit code 2, and nothing is half-written."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.main import get_command

from diffad_ray.cli import app, main


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Exit code of the command line in this process."""
    monkeypatch.setattr(sys, "argv", ["diffad-ray", *map(str, arguments)])
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


@pytest.fixture
def damaged(detector: Path, tmp_path: Path) -> Path:
    """A copy of the detector to damage."""
    return Path(shutil.copytree(detector, tmp_path / "damaged"))


def fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object, because: str
) -> None:
    assert run(monkeypatch, *arguments) == 2
    said = capsys.readouterr().err
    assert because in said
    assert "Traceback" not in said


def test_training_input(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], normals: Path, tmp_path: Path
) -> None:
    out = tmp_path / "detector"
    (tmp_path / "empty").mkdir()
    (tmp_path / "small").mkdir()
    for k in range(8):
        cv2.imwrite(str(tmp_path / "small" / f"{k}.png"), np.zeros((4, 4), np.uint8))
    common = ("--detector", out, "--workers", 0, "--steps", 1)
    fails(monkeypatch, capsys, "train", tmp_path / "nowhere", *common, because="no folder")
    fails(monkeypatch, capsys, "train", tmp_path / "empty", *common, because="holds 0 images")
    fails(monkeypatch, capsys, "train", tmp_path / "small", *common, because="4 x 4 pixels is too small")
    fails(monkeypatch, capsys, "train", normals, *common, "--preset", "huge", because="tiny, small, base, paper")
    fails(monkeypatch, capsys, "train", normals, *common, "--image-size", 100, because="take 96")
    fails(monkeypatch, capsys, "train", normals, *common, "--kind", "magic", because="diffusion-ad")
    fails(monkeypatch, capsys, "train", normals, *common, "--set", "training.stepps=3", because="stepps")
    fails(monkeypatch, capsys, "train", normals, *common, "--set", "training.seed=many", because="training")
    fails(monkeypatch, capsys, "train", normals, *common, "--textures", tmp_path / "none", because="no folder")
    assert not out.exists(), "a failed training left something behind"
    taken = tmp_path / "file"
    taken.write_text("not a folder")
    fails(monkeypatch, capsys, "train", normals, "--detector", taken / "x", "--workers", 0, because="can't be written")


def test_damaged_detectors(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], archive: Path, damaged: Path, tmp_path: Path
) -> None:
    table = tmp_path / "table"

    def refused(because: str) -> None:
        fails(monkeypatch, capsys, "score", archive, "--detector", damaged, "--table", table, because=because)

    description = json.loads((damaged / "detector.json").read_text())
    weights = (damaged / "model.safetensors").read_bytes()
    (damaged / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    refused("damaged")
    (damaged / "model.safetensors").unlink()
    refused("lacks model.safetensors")
    (damaged / "detector.json").write_text(json.dumps({**description, "schema_version": 99}))
    refused("schema version 99")
    (damaged / "detector.json").unlink()
    refused("no detector at")
    assert not table.exists()


def test_scoring_input(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    detector: Path,
    archive: Path,
    refusing_store: str,
    tmp_path: Path,
) -> None:
    table = tmp_path / "table"
    (tmp_path / "empty").mkdir()
    common = ("--detector", detector, "--table", table)
    fails(monkeypatch, capsys, "score", tmp_path / "nowhere", *common, because="no archive at")
    fails(monkeypatch, capsys, "score", tmp_path / "empty", *common, because="holds no images")
    fails(monkeypatch, capsys, "score", archive, *common, "--masks", "some", because="masks")
    for name, value in {"ENDPOINT_URL": refusing_store, "ACCESS_KEY_ID": "x", "SECRET_ACCESS_KEY": "hush"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    fails(monkeypatch, capsys, "score", "s3://forbidden/parts", *common, because="refuses access")
    assert not table.exists()
    (tmp_path / "file").write_text("not a folder")
    common = ("--detector", detector, "--table", tmp_path / "file" / "x")
    fails(monkeypatch, capsys, "score", archive, *common, because="Not a directory")


def test_tables_and_datasets(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], detector: Path, archive: Path, tmp_path: Path
) -> None:
    fails(monkeypatch, capsys, "query", tmp_path, because="no table at")
    fails(monkeypatch, capsys, "evaluate", detector, archive, because="test/good")


def test_every_command_shows_a_line_to_copy() -> None:
    commands = get_command(app).commands  # type: ignore[attr-defined]
    assert commands.keys() >= {"train", "score", "evaluate", "query", "picture", "demo"}
    for name, command in commands.items():
        assert f"Copy: `diffad-ray {name} " in command.help, f"{name} --help shows no line to copy"
