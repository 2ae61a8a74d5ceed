"""Candidate thresholds, and what the chosen ones change, for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from diffad_ray.errors import counted, percent

if TYPE_CHECKING:
    from diffad_ray.analytics.thresholds.consequences import Consequence, Reviewed
    from diffad_ray.analytics.thresholds.proposal import Proposal
    from diffad_ray.analytics.thresholds.subjects import Subject
    from diffad_ray.table.thresholds import AppliedThreshold


def print_proposal(proposal: Proposal, console: Console) -> None:
    """The thresholds in force, and a line for each candidate and group."""
    for subject in proposal.detectors:
        console.print(escape(_in_force(subject)), highlight=False, soft_wrap=True)
    windows = list(proposal.consequences[0].windows)
    widest = windows[-1]
    # One detector needs no column.
    shown = [name for name in proposal.consequences[0].group if name != "detector" or len(proposal.detectors) > 1]
    unit = "" if proposal.part is None else f", in parts ({proposal.part})"
    table = Table(box=None, title=escape(f"{proposal.period}{unit}"), title_justify="left")
    for name in shown:
        table.add_column(escape(name))
    for name in ("threshold", "", "false-alarm rate", *(f"alerts a night, {name}" for name in windows)):
        table.add_column(name, justify="left" if not name else "right")
    for name in (f"most, {widest}", "expected false", "good among reviewed", "hours a night", "with regions"):
        table.add_column(name, justify="right")
    for one in proposal.consequences:
        mark = "[bold]" if "chosen" in one.candidate.reasons else "[default]"
        cells = [str(one.group[name]) for name in shown] + _cells(one)
        table.add_row(*(f"{mark}{escape(cell)}[/]" for cell in cells))
    console.print(table)
    for one in proposal.consequences:
        if one.reviewed and one.reviewed.missed:
            group = ", ".join(str(value) for value in one.group.values())
            of = counted(one.reviewed.defects, "image" if proposal.part is None else "part")
            said = f"{one.reviewed.missed} of {of} that people call defective would be missed"
            console.print(escape(f"{group} at {one.candidate.reject:.4g}: {said}"), highlight=False, soft_wrap=True)


def _in_force(subject: Subject) -> str:
    band = "" if subject.review is None else f", review from {subject.review:.4g}"
    text = f"{subject.name} {subject.fingerprint}: threshold in force {subject.reject:.4g}{band}, "
    applied = subject.applied
    if applied is None:
        text += "as the images were scored with"
    else:
        text += f"applied {applied.applied_at[:16]} by {applied.who} ({applied.chosen_by}): {applied.why}"
    calibration = subject.calibration
    if calibration is None:
        return f"{text}; the table has no calibration of it"
    lowest = 1 / (calibration.images + 1)
    return f"{text}; {calibration.images} calibration images, which carry rates down to {lowest:.2g}"


def _cells(one: Consequence) -> list[str]:
    """What a line says of a candidate."""
    candidate, widest = one.candidate, list(one.windows.values())[-1]
    threshold = f"{candidate.reject:.4g}"
    if candidate.review is not None:
        threshold += f", review {candidate.review:.4g}"
    false = "" if widest.false_alarms is None else f"{_number(widest.false_alarms / max(1, widest.nights))} a night"
    alerts = [_number(window.alerts_a_night) for window in one.windows.values()]
    if candidate.review is not None:
        alerts[-1] += f" + {_number(widest.review / max(1, widest.nights))} to review"
    return [
        threshold,
        ", ".join(candidate.reasons),
        "" if candidate.rate is None else f"{candidate.rate:.2g}",
        *alerts,
        str(widest.most_alerts),
        false,
        _overkill(one.reviewed),
        f"{widest.hours_a_night:.2g}",
        percent(widest.with_regions / widest.alerts) if widest.alerts else "",
    ]


def _overkill(reviewed: Reviewed | None) -> str:
    if reviewed is None or reviewed.overkill is None:
        return ""
    share = reviewed.overkill
    interval = f"{percent(share.low)} to {percent(share.high)}"
    return f"{reviewed.good} of {reviewed.alerts}: {percent(share.value)} ({interval})"


def _number(value: float) -> str:
    """A number a night: whole where it is large, and never a rounded zero."""
    return f"{value:.0f}" if value >= 99.5 else f"{value:.2g}"


def print_applied(proposal: Proposal, applied: Sequence[AppliedThreshold], console: Console) -> None:
    """What the choice rests on and changes, and what to do next."""
    choice = proposal.choice
    assert choice is not None

    def say(text: str) -> None:
        console.print(escape(text), highlight=False, soft_wrap=True)

    for note in choice.notes:
        say(f"note: {note}")
    names = {subject.fingerprint: subject.name for subject in proposal.detectors}
    verb = "is in force now" if applied else "would be in force"
    for change in proposal.changes:
        review = choice.review.get(change.fingerprint)
        band = "" if review is None else f", with review from {review:.6g}"
        way = choice.chosen_by[change.fingerprint]
        say(f"{names[change.fingerprint]}: {choice.reject[change.fingerprint]:.6g}{band} {verb}, by {way}")
        say(
            f"  images of the table: {change.become} become alerts, {change.cease} cease to be, {change.review} are to "
            "be reviewed; nothing is scored again"
        )
        if change.without_regions:
            say(f"  {change.without_regions} of the new alerts have no regions yet. To make them: {change.command}")
    if applied:
        say(
            f"Other engines judge by it once their views are made anew: diffad-ray ddl {proposal.table} --engine ENGINE"
        )
    else:
        say('Next: the same command with --apply --why "…"')
