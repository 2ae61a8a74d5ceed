"""The command with which people look at images and say which are defective."""

from __future__ import annotations

import getpass
from dataclasses import asdict, dataclass
from typing import Annotated

import typer

from diffad_ray.cli.shared import AsJson, print_json, say, stderr
from diffad_ray.cli.unfold import unfold
from diffad_ray.errors import UserError


@dataclass
class ChoiceOptions:
    """Which images are reviewed."""

    sample: Annotated[
        str | None,
        typer.Option(metavar="N|ID", help="A stratified random sample of N images. [default: alerts, review band]"),
    ] = None
    fresh: Annotated[bool, typer.Option("--fresh", help="Draw a new sample, even if one of N is not finished.")] = False
    detector: Annotated[str | None, typer.Option(help="Only what this one scored: fingerprint, name or folder.")] = None
    group_by: Annotated[
        str | None, typer.Option(help="Column that is the same for all images of a part, such as serial.")
    ] = None
    limit: Annotated[int, typer.Option(min=1, help="Images to take without --sample, the most severe first.")] = 1000


@dataclass
class PageOptions:
    """Where the page is."""

    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0: a free one.")] = 8765
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 lets tablets in.")] = "127.0.0.1"
    out: Annotated[str | None, typer.Option(help="Write the page as one HTML file instead, with its images.")] = None


@dataclass
class FileOptions:
    """Files to and from other tools."""

    export: Annotated[
        tuple[str, str] | None,
        typer.Option(metavar="label-studio|coco FILE", help="Write the images with their regions for another tool."),
    ] = None
    verdicts: Annotated[
        str | None, typer.Option("--import", help="Take verdicts from a file of the page, Label Studio or COCO.")
    ] = None


@unfold
def review(
    table: Annotated[str, typer.Argument(help="Folder or URI of the table.")],
    *,
    choice: ChoiceOptions,
    page: PageOptions,
    files: FileOptions,
    reviewer: Annotated[str | None, typer.Option(help="Your name. [default: that of the login]")] = None,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Estimate escapes and overkill from a sample and its verdicts.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Look at alerts or at a random sample in a local page, and say which images are defective.

    Copy: `diffad-ray review scores --sample 200`

    Copy: `diffad-ray review scores --estimate`
    """
    asked = [name for name, is_given in _modes(page, files, estimate).items() if is_given]
    if len(asked) > 1:
        raise UserError(f"{' and '.join(asked)} are different things: ask for one at a time")
    name = reviewer or getpass.getuser()
    if estimate:
        _estimate(table, choice.sample, as_json)
    elif files.verdicts is not None:
        _import(table, files.verdicts, name, as_json)
    else:
        _show(table, choice, page, files.export, name)


def _show(table: str, choice: ChoiceOptions, page: PageOptions, export_to: tuple[str, str] | None, name: str) -> None:
    """Serve the page with the images that are chosen, or write them to a file."""
    from diffad_ray.review.exports import export
    from diffad_ray.review.session import Wanted, open_review
    from diffad_ray.review.single_file import write_single_file

    wanted = Wanted(name, choice.sample, choice.fresh, choice.detector, choice.group_by, choice.limit)
    found = open_review(table, wanted)
    say(_told(found.sample.id if found.sample else None, len(found.queue.images), found.queue.left_out), stderr)
    if export_to is not None:
        say(f"wrote {export(found, *export_to)} images to {export_to[1]}")
    elif page.out is not None:
        for note in write_single_file(found, page.out):
            say(note, stderr)
        say(f"wrote {page.out}")
    else:
        from diffad_ray.review.server import serve_review

        if page.host not in ("127.0.0.1", "localhost", "::1"):
            say("others can reach this address; what they send and see is not encrypted", stderr)
        serve_review(found, page.host, page.port, lambda url: say(f"review at {url}"))


def _modes(page: PageOptions, files: FileOptions, estimate: bool) -> dict[str, bool]:
    return {
        "--out": page.out is not None,
        "--export": files.export is not None,
        "--import": files.verdicts is not None,
        "--estimate": estimate,
    }


def _told(sample: str | None, images: int, left_out: int) -> str:
    if sample is None:
        return f"{images} alerts and images of the review band, the most severe first" + (
            f"; {left_out} more" if left_out else ""
        )
    gone = f"; {left_out} of them have no score any more" if left_out else ""
    return f"sample {sample}: {images} images{gone}"


def _estimate(table: str, sample: str | None, as_json: bool) -> None:
    from diffad_ray.analytics.estimates import estimate
    from diffad_ray.reports.estimates_text import estimate_lines

    if sample is not None and sample.isdecimal():
        raise UserError("--estimate takes the id of a sample, or none, and no number")
    found = estimate(table, sample)
    if as_json:
        print_json(asdict(found))
    else:
        for line in estimate_lines(found):
            say(line)


def _import(table: str, file: str, reviewer: str, as_json: bool) -> None:
    from diffad_ray.review.imports import import_verdicts

    found = import_verdicts(table, file, reviewer)
    if as_json:
        print_json(asdict(found))
        return
    for line in found.lines():
        say(line)
