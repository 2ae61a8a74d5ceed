"""The command that shows, chooses and applies thresholds."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from diffad_ray.cli.shared import AsJson, console, print_json
from diffad_ray.cli.unfold import unfold
from diffad_ray.errors import UserError

if TYPE_CHECKING:
    from diffad_ray.analytics.thresholds.proposal import Proposal
    from diffad_ray.table.thresholds import AppliedThreshold


@dataclass
class WishOptions:
    """How the thresholds are chosen."""

    false_alarm_rate: Annotated[
        float | None, typer.Option(help="Share of normal images that may be alerts, such as 0.001.")
    ] = None
    alerts_per_night: Annotated[int | None, typer.Option(help="Most alerts in a night, of all detectors together.")] = (
        None
    )
    fdr: Annotated[float | None, typer.Option(help="Share of the alerts that may be false, such as 0.1.")] = None
    from_verdicts: Annotated[bool, typer.Option("--from-verdicts", help="By what people said of images.")] = False
    threshold: Annotated[float | None, typer.Option(help="The score itself.")] = None
    review_band: Annotated[
        float | None,
        typer.Option(metavar="RATE|N", help="Review from a false-alarm rate on, or up to so many images a night."),
    ] = None


@dataclass
class ViewOptions:
    """What the table of candidates is made of."""

    by: Annotated[str, typer.Option(metavar="COLUMN,...", help="Columns that make groups.")] = "detector"
    detector: Annotated[str | None, typer.Option(help="Name or fingerprint of one detector. [default: all]")] = None
    since: Annotated[str | None, typer.Option(help="First date, or days: 2026-11-01, 7d. [default: 30d]")] = None
    until: Annotated[str | None, typer.Option(help="Last date. [default: that of the last rows]")] = None
    seconds_per_image: Annotated[float, typer.Option(help="Time that a person needs for an image or part.")] = 5.0
    group_by: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Count parts that have several images, such as serial.")
    ] = None


@dataclass
class ApplyOptions:
    """Whether the chosen thresholds are put in force."""

    apply: Annotated[bool, typer.Option("--apply", help="Put the chosen thresholds in force.")] = False
    why: Annotated[str, typer.Option(help="The reason, which the table keeps.")] = ""
    who: Annotated[str | None, typer.Option(help="Who applies them. [default: the user's name]")] = None


@unfold
def threshold(
    table: Annotated[str, typer.Argument(help="Folder or URI of the table.")],
    wish: WishOptions,
    view: ViewOptions,
    application: ApplyOptions,
    as_json: AsJson = False,
) -> None:
    """Show what thresholds would mean in alerts, false alarms and hours a night; choose one, and put it in force.

    Copy: `diffad-ray threshold scores --alerts-per-night 200 --apply --why "two reviewers"`
    """
    from diffad_ray.analytics.parts import images_without_part
    from diffad_ray.analytics.thresholds.choice import Wish
    from diffad_ray.analytics.thresholds.proposal import apply, propose
    from diffad_ray.reports.thresholds_text import print_applied, print_proposal

    if application.why and not application.apply:
        raise UserError("--why is the reason of --apply: give both, or none")
    proposal = propose(
        table,
        Wish(
            false_alarm_rate=wish.false_alarm_rate,
            alerts_per_night=wish.alerts_per_night,
            fdr=wish.fdr,
            from_verdicts=wish.from_verdicts,
            threshold=wish.threshold,
            review=wish.review_band,
        ),
        by=[column.strip() for column in view.by.split(",") if column.strip()],
        detector=view.detector,
        since=view.since,
        until=view.until,
        seconds_per_image=view.seconds_per_image,
        group_by=view.group_by,
    )
    applied = apply(proposal, application.why, application.who) if application.apply else []
    if as_json:
        print_json(_document(proposal, applied))
        return
    print_proposal(proposal, console)
    if view.group_by is not None and (left_out := images_without_part(table, view.group_by)).images:
        console.print(f"note: {left_out}", highlight=False, soft_wrap=True, markup=False)
    if proposal.choice is not None:
        print_applied(proposal, applied, console)


def _document(proposal: Proposal, applied: list[AppliedThreshold]) -> dict[str, Any]:
    """A proposal as JSON, without the scores of the calibration images."""
    detectors = [
        {
            "fingerprint": one.fingerprint,
            "name": one.name,
            "images": one.images,
            "reject": one.reject,
            "review": one.review,
            "applied": None if one.applied is None else asdict(one.applied),
            "calibration_images": None if one.calibration is None else one.calibration.images,
        }
        for one in proposal.detectors
    ]
    return {
        "table": proposal.table,
        "period": asdict(proposal.period),
        "part": proposal.part,
        "detectors": detectors,
        "consequences": [asdict(one) for one in proposal.consequences],
        "choice": None if proposal.choice is None else asdict(proposal.choice),
        "changes": [asdict(one) for one in proposal.changes],
        "applied": [asdict(one) for one in applied],
    }
