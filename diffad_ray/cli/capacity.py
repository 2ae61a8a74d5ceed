"""The command that says what scoring an archive takes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated

import typer

from diffad_ray.cli.shared import AsJson, Overrides, Settings, console, print_json, say, stderr
from diffad_ray.cli.unfold import unfold


@dataclass
class WindowOptions:
    """When the run begins and ends, and what the hour of a processor costs."""

    by: Annotated[str, typer.Option(metavar="HH:MM", help="When the run must have ended.")]
    start: Annotated[str | None, typer.Option(metavar="HH:MM", help="When the cluster starts. [default: now]")] = None
    price: Annotated[
        str | None, typer.Option(metavar="cpu=P,gpu=P", help="Price of a CPU and a GPU for an hour: cpu=0.04,gpu=2.5.")
    ] = None


@unfold
def capacity(
    archive: Annotated[str, typer.Argument(help="Folder or URI of images, manifest of URIs, or S3 inventory.")],
    detector: Annotated[str, typer.Option(help="Folder or URI of the detector.")],
    window: WindowOptions,
    table: Annotated[str | None, typer.Option(help="Plan for the images that this table lacks. Only read.")] = None,
    minutes: Annotated[float, typer.Option(min=0.0, help="Minutes of the trial.")] = 2.0,
    settings: Settings = None,
    override: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Say which nodes score an archive in time, at what cost, from a trial on images of it on this machine.

    Copy: `diffad-ray capacity s3://plant/line1 --detector s3://plant/detectors/part --by 06:00 --price cpu=0.04`
    """
    from diffad_ray.capacity.capacity import Window, parse_prices
    from diffad_ray.capacity.capacity import capacity as run
    from diffad_ray.reports.capacity_text import print_capacity

    found = run(
        archive,
        detector,
        Window(window.by, window.start, parse_prices(window.price) if window.price else {}),
        table=table,
        minutes=minutes,
        settings_file=settings,
        overrides=override or (),
        say=lambda line: say(line, stderr),
    )
    if as_json:
        print_json(asdict(found))
    else:
        print_capacity(found, console)
