"""The command that reports on a period."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from diffad_ray.cli.shared import say
from diffad_ray.cli.unfold import unfold
from diffad_ray.errors import UserError

if TYPE_CHECKING:
    from diffad_ray.analytics.report import Question


@dataclass
class ImageOptions:
    """Which images the report is about."""

    since: Annotated[str | None, typer.Option(help="First day, or days like 7d. [default: 7d]")] = None
    until: Annotated[str | None, typer.Option(help="Last day. [default: the last one with images]")] = None
    run: Annotated[str | None, typer.Option(help="A run instead of days, against the run before.")] = None
    only: Annotated[
        list[str] | None, typer.Option(metavar="COLUMN=VALUE", help="Count only images with this value. Repeatable.")
    ] = None
    day_column: Annotated[str, typer.Option(help="Column with the day of an image.")] = "run_date"


@dataclass
class GroupOptions:
    """What images are counted by."""

    by: Annotated[
        str | None, typer.Option(metavar="COLUMN,...", help="Columns to count by. [default: those with few values]")
    ] = None
    group_by: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Count parts that have several images, such as serial.")
    ] = None


@unfold
def report(
    table: Annotated[str, typer.Argument(help="Folder or URI of the table.")],
    images: ImageOptions,
    groups: GroupOptions,
    out: Annotated[str | None, typer.Option(metavar="FILE", help="HTML page to write, a file or URI.")] = None,
    json_file: Annotated[
        str | None, typer.Option("--json", metavar="FILE", help="JSON with every number; - is stdout.")
    ] = None,
) -> None:
    """Report on a period: what changed since the one before, defect rates, places, failures, scores and throughput.

    Copy: `diffad-ray report scores --since 7d --out report.html`
    """
    from diffad_ray import storage
    from diffad_ray.analytics.report import report as ask
    from diffad_ray.reports.report_page import write_page
    from diffad_ray.reports.report_page.sentences import drift_lines, headlines

    found = ask(table, _question(images, groups))
    data = json.dumps(found.as_json(), indent=1, default=str)
    if json_file == "-":
        print(data)
    else:
        say(f"{found.asked.period}: {found.whole.now.images:,} images, {found.whole.now.alerts:,} alerts")
        told = [f"- {one.text}" for one in headlines(found)]
        for line in told or ["Nothing has changed since the period before that is significant and large."]:
            say(line)
        for one in drift_lines(found):
            say(f"{one.detector}: {one.state}. {one.reason}".rstrip())
        if found.drift:
            say(f"Next: {found.drift[0].command}")
        if json_file is not None:
            storage.write(json_file, data.encode())
            say(f"wrote {json_file}")
    if out is not None:
        write_page(found, out)
        if json_file != "-":
            say(f"wrote {out}")


def _question(images: ImageOptions, groups: GroupOptions) -> Question:
    from diffad_ray.analytics.report import Question

    return Question(
        since=images.since,
        until=images.until,
        run=images.run,
        by=None if groups.by is None else tuple(name.strip() for name in groups.by.split(",") if name.strip()),
        only=tuple(_pair(text) for text in images.only or ()),
        day_column=images.day_column,
        group_by=groups.group_by,
    )


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise UserError(f"--only takes COLUMN=VALUE, not {text!r}")
    return name, value
