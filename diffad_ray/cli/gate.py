"""The command that makes the gate of a detector."""

from __future__ import annotations

from typing import Annotated

import typer

from diffad_ray.cli.shared import AsJson, console, print_json, say, stderr


def gate(
    detector: Annotated[str, typer.Argument(help="Folder or URI of the detector; the gate becomes a part of it.")],
    normals: Annotated[
        str | None, typer.Option(help="Folder or URI of good parts to make it by. [default: those of the training]")
    ] = None,
    defects: Annotated[
        list[str] | None, typer.Option(help="Folder of defective images, or table of labels; may be repeated.")
    ] = None,
    missed: Annotated[float, typer.Option(help="Share of what the detector flags that the gate may pass.")] = 0.001,
    threshold: Annotated[float | None, typer.Option(help="Replaces the detector's threshold.")] = None,
    samples: Annotated[int, typer.Option(min=64, help="Samples that the student learns from.")] = 2000,
    as_json: AsJson = False,
) -> None:
    """Make the gate of a detector: a fast first look that passes on what is good beyond doubt.

    Copy: `diffad-ray gate detectors/part --missed 0.001`
    """
    from diffad_ray.gates.make import GateSettings, make_gate
    from diffad_ray.reports.gate_text import print_gate

    wanted = GateSettings(
        normals=normals, defects=tuple(defects or ()), missed=missed, threshold=threshold, samples=samples
    )
    made = make_gate(detector, wanted, lambda line: say(line, stderr))
    if as_json:
        print_json(made.summary())
    else:
        print_gate(made, detector, console)
