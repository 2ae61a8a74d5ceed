"""Versions, each said in this one place: of the package, of what it writes, and of what it runs on."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from platform import python_version

VERSION = "0.1.0"
"The package's; pyproject.toml and the documentation read it here."
BUNDLE_SCHEMA = 12
"Of detector bundles; `bundles/bundle.py` says what changed when."
TABLE_SCHEMA = 2
"""Of the columns, file names, plans and records of tables. Version 2 writes down which rows a run supersedes, and the
table's columns; tables of version 1, which no release has written, lack that and are refused."""
OLDEST_TABLE_SCHEMA = 2
"That this code reads."

DEPENDENCIES = {
    "torch": "torch",
    "ray": "ray",
    "duckdb": "duckdb",
    "pyarrow": "pyarrow",
    "opencv": "opencv-python-headless",
    "pillow": "pillow",
}
"What a score or a table depends on: its usual name, and the name of its distribution."


def version_lines() -> list[str]:
    """What `--version` prints: a name and a version a line.

    The versions come from the metadata of what is installed: to import torch and Ray takes seconds.
    """
    return [
        f"diffad-ray {VERSION}",
        f"bundle schema {BUNDLE_SCHEMA}",
        f"table schema {TABLE_SCHEMA}",
        f"Python {python_version()}",
        *(f"{name} {_installed(package)}" for name, package in DEPENDENCIES.items()),
    ]


def _installed(package: str) -> str:
    try:
        found = distribution(package)
    except PackageNotFoundError:
        return "not installed"
    if package != "torch":
        return found.version
    try:
        version_file = Path(str(found.locate_file("torch/version.py"))).read_text(encoding="utf-8")
    except OSError:
        return found.version
    return f"{found.version} ({_torch_build(version_file)})"


def _torch_build(version_file: str) -> str:
    """What torch was built for, as the file says that `torch.version` is."""
    for toolkit, name in (("cuda", "CUDA"), ("hip", "ROCm")):
        if found := re.search(rf"^{toolkit}\b[^=]*=\s*['\"]([^'\"]+)['\"]", version_file, re.MULTILINE):
            return f"{name} {found[1]}"
    return "CPU"
