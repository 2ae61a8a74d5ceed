"""The command that scores an archive into a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import typer

from diffad_ray.cli.check import check_first
from diffad_ray.cli.shared import (
    AsJson,
    CheckAlone,
    Cpus,
    Gpus,
    Overrides,
    Settings,
    console,
    print_json,
    say,
)
from diffad_ray.cli.unfold import unfold
from diffad_ray.errors import UserError


@dataclass
class ChoiceOptions:
    """Which images of the archive are scored, and by which detector."""

    detector: Annotated[str | None, typer.Option(help="Folder or URI of the detector.")] = None
    route: Annotated[
        list[str] | None,
        typer.Option(metavar="GLOB=DETECTOR", help="Another detector for paths that match. Repeatable."),
    ] = None
    include: Annotated[list[str] | None, typer.Option(metavar="GLOB", help="Only these paths. Repeatable.")] = None
    exclude: Annotated[list[str] | None, typer.Option(metavar="GLOB", help="Not these paths. Repeatable.")] = None
    since: Annotated[str | None, typer.Option(help="Only images changed since: 2026-11-20, 36h, 7d.")] = None
    sample: Annotated[float | None, typer.Option(help="A random share of the images, such as 0.05.")] = None
    limit: Annotated[int | None, typer.Option(help="Only the first so many images of the archive.")] = None
    force: Annotated[bool, typer.Option(help="Score images again that the table has.")] = False
    missing_masks: Annotated[
        bool, typer.Option("--missing-masks", help="Score alerts alone again that have no masks yet.")
    ] = False

    def settings(self) -> dict[str, Any]:
        """As `make_task` takes them."""
        no_settings = ("detector", "route", "force", "missing_masks")
        own = {name: value for name, value in asdict(self).items() if name not in no_settings}
        return own | {"routes": _routes(self.route or ())}


@dataclass
class RowOptions:
    """What becomes of an image."""

    template: Annotated[
        str | None, typer.Option(help="Columns from paths: '{line}/{camera}/{date:%Y-%m-%d}/{name}'.")
    ] = None
    retry: Annotated[
        str | None, typer.Option(metavar="STATUS,...", help="Try images again that ended so: missing,failed.")
    ] = None
    masks: Annotated[str | None, typer.Option(help="PNG masks of: all, anomalous, none. [default: anomalous]")] = None
    threshold: Annotated[float | None, typer.Option(help="Replaces the threshold in force.")] = None
    gate: Annotated[
        bool | None,
        typer.Option("--gate/--no-gate", help="Let the detector's gate pass on what is good beyond doubt."),
    ] = None

    def settings(self) -> dict[str, Any]:
        """As `make_task` takes them."""
        retry = [status.strip() for status in self.retry.split(",")] if self.retry else None
        return asdict(self) | {"retry": retry}


@dataclass
class ClusterOptions:
    """What a run asks of the cluster."""

    gpus: Gpus = None
    cpus: Cpus = None
    actors: Annotated[int | None, typer.Option(min=1, help="Processes that hold the detector.")] = None
    check: CheckAlone = False

    def settings(self) -> dict[str, Any]:
        """As `make_task` takes them."""
        return {"gpus": self.gpus, "cpus": self.cpus, "actors": self.actors}


@dataclass
class EndOptions:
    """What happens after a run."""

    compact: Annotated[bool, typer.Option("--compact", help="Merge the table's files afterwards.")] = False
    profile: Annotated[
        str | None, typer.Option(metavar="FILE", help="JSON file or URI: where the time went, as a trace of Chrome.")
    ] = None
    as_json: AsJson = False


@unfold
def score(
    archive: Annotated[str, typer.Argument(help="Folder or URI of images, manifest of URIs, or S3 inventory.")],
    table: Annotated[str, typer.Option(help="Folder or URI of the table to write to.")],
    choice: ChoiceOptions,
    rows: RowOptions,
    cluster: ClusterOptions,
    end: EndOptions,
    settings: Settings = None,
    override: Overrides = None,
) -> None:
    """Score an archive into a table, a row an image. An interrupted run is finished by the same command.

    Copy: `diffad-ray score s3://plant/line1 --detector s3://plant/detectors/part --table s3://plant/scores`
    """
    from diffad_ray.preflight.check import check_scoring
    from diffad_ray.reports.profile_text import print_profile
    from diffad_ray.reports.terminal import print_compaction, print_run
    from diffad_ray.scoring.pipeline import run_task
    from diffad_ray.scoring.profile import Profile
    from diffad_ray.scoring.task import make_task
    from diffad_ray.table.compact import compact as run_compaction
    from diffad_ray.table.upkeep import reasons_to_compact

    task = make_task(
        archive,
        table,
        choice.detector,
        force=choice.force,
        missing_masks=choice.missing_masks,
        settings={**choice.settings(), **rows.settings(), **cluster.settings()},
        settings_file=settings,
        overrides=override or (),
    )
    if check_first(cluster.check, end.as_json, lambda tell: check_scoring(task, tell)):
        return
    profile = Profile() if end.profile else None
    finished = run_task(task, show_progress=True, profile=profile)
    if profile is not None and end.profile is not None:
        profile.write(end.profile)
    merged = run_compaction(finished.plan.table) if end.compact else None
    if end.as_json:
        assert finished.record is not None, "a run that ended without an error has a record"
        of_run = {"plan": asdict(finished.plan), "record": asdict(finished.record)}
        print_json(of_run | ({"compaction": asdict(merged)} if merged else {}))
        return
    print_run(finished, console)
    if profile is not None:
        print_profile(profile, console)
        say(f"wrote {end.profile}")
    if merged:
        print_compaction(merged, console)
    elif reasons := reasons_to_compact(finished.plan.table):
        say(f"The table has {' and '.join(reasons)}. Next: diffad-ray compact {table}, or score with --compact")


def _routes(texts: Sequence[str]) -> dict[str, str]:
    """Detectors by the globs that lead to them."""
    pairs = [text.rpartition("=") for text in texts]
    if wrong := ["".join(pair) for pair in pairs if not all(pair)]:
        raise UserError(f"--route {wrong[0]!r} is not of the form GLOB=DETECTOR, as in 'line1/**=detectors/line1'")
    return {pattern: place for pattern, _, place in pairs}
