"""The command that shows everything."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from diffad_ray.cli.shared import console


def demo(
    output: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("demo-output"),
    images: Annotated[int, typer.Option(help="Images in the archive.")] = 400,
    steps: Annotated[int | None, typer.Option(help="Training steps a product.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the archive and the trainings.")] = 0,
) -> None:
    """Show everything on generated images: two products, two detectors, an archive, figures and a picture.

    Copy: `diffad-ray demo --output demo-output`
    """
    from diffad_ray.demo.demo import run_demo

    run_demo(output, images=images, steps=steps, seed=seed, console=console)
