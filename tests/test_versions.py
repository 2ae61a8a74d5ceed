"""Versions: each is said in one place, and `--version` prints them at once."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import diffad_ray
from diffad_ray import versions

ROOT = Path(__file__).parents[1]


def test_version_is_the_same_everywhere() -> None:
    assert diffad_ray.__version__ == versions.VERSION
    assert f"\nversion: {versions.VERSION}\n" in (ROOT / "CITATION.cff").read_text()
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None
    assert newest[1] == versions.VERSION


def test_printed_without_loading_what_it_names() -> None:
    code = "import sys; from diffad_ray.cli import main\ntry:\n    main()\nfinally:\n"
    heavy = {"torch", "ray", "cv2", "duckdb", "pyarrow", "numpy", "pydantic"}
    code += f"    assert not {heavy} & sys.modules.keys()"
    command = [sys.executable, "-c", code, "--version"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[:3] == [
        f"diffad-ray {versions.VERSION}",
        f"bundle schema {versions.BUNDLE_SCHEMA}",
        f"table schema {versions.TABLE_SCHEMA}",
    ]
    assert [line.rpartition(" ")[0] for line in lines[3:4] + lines[5:]] == [
        "Python",
        "ray",
        "duckdb",
        "pyarrow",
        "opencv",
        "pillow",
    ]
    assert re.fullmatch(r"torch \d\S+ \((CPU|CUDA \S+|ROCm \S+)\)", lines[4])


@pytest.mark.parametrize(
    ("file", "build"),
    [
        ("cuda: Optional[str] = None\nhip: Optional[str] = None\n", "CPU"),
        ("cuda: Optional[str] = '13.0'\nhip: Optional[str] = None\n", "CUDA 13.0"),
        ("cuda: Optional[str] = None\nhip: Optional[str] = '7.1.2'\n", "ROCm 7.1.2"),
        ("cuda = '12.8'\n", "CUDA 12.8"),
    ],
)
def test_what_torch_was_built_for(file: str, build: str) -> None:
    assert versions._torch_build(file) == build


def test_missing_dependency_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(versions.DEPENDENCIES, "duckdb", "no-such-distribution-here")
    assert "duckdb not installed" in versions.version_lines()
