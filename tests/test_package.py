"""The wheel: it holds all that the checkout's package holds, and does its work where no checkout is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

from diffad_ray.versions import VERSION

ROOT = Path(__file__).parents[1]
QUICK = ("--workers", "0", "--preset", "tiny", "--image-size", "32", "--steps", "2", "--batch-size", "2")


def call(command: list[str | Path], folder: Path) -> str:
    """What a command prints, run where the checkout can't be imported from."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "RAY_ADDRESS")}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the source distribution, built of a copy, so that the checkout stays as it is."""
    source = tmp_path_factory.mktemp("source")
    for path in ROOT.iterdir():
        if path.is_file() and path.name != ".git":
            shutil.copy(path, source)
    for folder in ("cluster", "diffad_ray", "docs", "jobs", "tests"):
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    # Without isolation, for that would download setuptools.
    call([sys.executable, "-m", "build", "--no-isolation", source], source)
    return source / "dist"


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of a fresh environment with the wheel; what it depends on is that of the tests' environment."""
    home = tmp_path_factory.mktemp("environment")
    call([sys.executable, "-m", "venv", "--without-pip", home], home)
    programs = home / "bin"
    (wheel,) = built.glob("*.whl")
    call(
        [sys.executable, "-m", "pip", "--python", programs / "python", "install", "--no-index", "--no-deps", wheel],
        home,
    )
    (packages,) = home.glob("lib/python*/site-packages")
    # A path alone: other .pth files in that folder, such as the one of an editable installation, are not followed.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return programs


def test_wheel_holds_the_whole_package(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    package = (path for path in (ROOT / "diffad_ray").rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    wanted = {path.relative_to(ROOT).as_posix() for path in package}
    assert "diffad_ray/py.typed" in wanted
    assert wanted <= held
    assert all(name.startswith(("diffad_ray/", f"diffad_ray-{VERSION}.dist-info/")) for name in held)


def test_source_distribution_holds_tests_and_documentation(built: Path) -> None:
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        held = {name.partition("/")[2] for name in tar.getnames()}
    assert {"tests/conftest.py", "docs/index.md", "docs/site/conf.py", "jobs/score.py", "cluster/Dockerfile"} <= held


def test_installed_wheel_is_the_one_that_runs(installed: Path, tmp_path: Path) -> None:
    where = call([installed / "python", "-c", "import diffad_ray; print(diffad_ray.__file__)"], tmp_path)
    assert Path(where.strip()).is_relative_to(installed.parent)
    assert f"diffad-ray {VERSION}\n" in call([installed / "diffad-ray", "--version"], tmp_path)


def test_completion_is_offered(installed: Path, tmp_path: Path) -> None:
    """As the script asks that `--install-completion` leaves in a shell's start-up file."""
    asked = {"_DIFFAD_RAY_COMPLETE": "complete_bash", "COMP_WORDS": "diffad-ray compac", "COMP_CWORD": "1"}
    assert call(["env", *(f"{name}={value}" for name, value in asked.items()), installed / "diffad-ray"], tmp_path) == (
        "compact\n"
    )


@pytest.mark.long
def test_installed_wheel_trains_and_scores(installed: Path, normals: Path, tmp_path: Path) -> None:
    for k in range(6):
        (tmp_path / "archive").mkdir(exist_ok=True)
        shutil.copy(normals / f"{k:02d}.png", tmp_path / "archive")
    program = installed / "diffad-ray"
    settings = ("--set", "training.precision=float32", "--set", "detector.familiarity=0")
    call([program, "train", normals, "--detector", "part", *QUICK, *settings], tmp_path)
    call([program, "score", "archive", "--detector", "part", "--table", "scores", "--actors", "1"], tmp_path)
    counted = "SELECT count(score) AS scored FROM scores WHERE status = 'ok'"
    assert call([program, "query", "scores", counted, "--format", "csv"], tmp_path).split() == ["scored", "6"]
