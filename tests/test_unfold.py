"""Groups of options."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from diffad_ray.cli.unfold import unfold


@dataclass
class Size:
    width: Annotated[int, typer.Option(min=1, help="In pixels.")] = 64
    square: Annotated[bool, typer.Option(help="As high as wide.")] = False


@dataclass
class Place:
    folder: Annotated[str, typer.Option(help="Where to.")]


@unfold
def resize(image: Annotated[str, typer.Argument()], size: Size, place: Place, quality: int = 90) -> None:
    """Resize an image."""
    print(image, size, place, quality)


@pytest.mark.parametrize(
    ("given", "printed"),
    [
        (["a.png", "--folder", "x"], "a.png Size(width=64, square=False) Place(folder='x') 90"),
        (
            ["--square", "a.png", "--quality", "5", "--folder", "x", "--width", "3"],
            "a.png Size(width=3, square=True) Place(folder='x') 5",
        ),
    ],
)
def test_fields_are_options(given: list[str], printed: str) -> None:
    app = typer.Typer()
    app.command()(resize)
    result = CliRunner().invoke(app, given)
    assert (result.exit_code, result.output.strip()) == (0, printed)


def test_fields_keep_their_checks_and_help() -> None:
    app = typer.Typer()
    app.command()(resize)
    assert CliRunner().invoke(app, ["a.png", "--folder", "x", "--width", "0"]).exit_code == 2
    assert CliRunner().invoke(app, ["a.png"]).exit_code == 2, "a field without a default is required"
    shown = CliRunner().invoke(app, ["--help"]).output
    assert "As high as wide." in shown
    assert "Resize an image." in shown
