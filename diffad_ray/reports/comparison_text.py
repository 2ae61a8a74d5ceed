"""A comparison of two detectors in the terminal, and the words for its figures that the page shares."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from diffad_ray.analytics.comparison import Comparison, Group
from diffad_ray.analytics.paired import Agreement
from diffad_ray.errors import counted, percent
from diffad_ray.intervals import Interval, wilson

PER = 10_000
"Alert rates are given as alerts for so many images."
EFFECTS = ((0.25, "large"), (0.15, "medium"), (0.05, "small"))
"What Cohen (1988) calls an effect g of at least so much."
SHOWN_LOST = 5


def print_comparison(found: Comparison, console: Console) -> None:
    """Print the figures, the groups, the lost defects and the notes."""

    def say(text: str, style: str | None = None) -> None:
        console.print(text, style=style, highlight=False, soft_wrap=True, markup=False)

    things = "images" if found.unit == "image" else f"values of {found.unit}"
    say(f"{name_of(found, 'old')} and {name_of(found, 'new')}, {found.overall.agreement.images} {things}", "bold")
    for line in (*alert_lines(found), *agreement_lines(found)):
        say(f"  {line}")
    for column, groups in {**found.groups, "verdict": found.verdicts}.items():
        if groups:
            console.print(_table(column, groups))
    say(lost_line(found), "bold red" if found.defects.lost else None)
    for one in found.defects.examples[:SHOWN_LOST]:
        say(f"  {one.image_uri}: {one.old.decision} at {one.old.score:.4g}, now {one.new.score:.4g}")
    for note in found.notes:
        say(f"  note: {note}")
    if (command := promotion(found)) is not None:
        say(f"Next: {command}")


def name_of(found: Comparison, which: str) -> str:
    """The name of a detector, with its fingerprint where both have the same name."""
    one = getattr(found, which)
    return f"{one.name} ({one.fingerprint})" if found.old.name == found.new.name else str(one.name)


def alert_lines(found: Comparison) -> list[str]:
    """Sentences about the number of alerts of both detectors."""
    agreement = found.overall.agreement
    old, new = name_of(found, "old"), name_of(found, "new")
    lines = [f"{name}: {rate_text(count, agreement.images)}" for name, count in _alerts(old, new, agreement)]
    lines.append(f"difference: {difference_text(agreement)}")
    if found.matched is not None:
        lines.append(
            f"{new} is judged by the threshold {found.matched.reject}, which gives {found.matched.alerts} alerts where "
            f"{old} has {found.matched.wanted}"
        )
    return lines


def _alerts(old: str, new: str, agreement: Agreement) -> list[tuple[str, int]]:
    return [(old, agreement.old_alerts), (new, agreement.new_alerts)]


def rate_text(count: int, images: int) -> str:
    """A number of alerts, and the rate with its 95 % interval."""
    return f"{counted(count, 'alert')}, {_interval(wilson(count, images))} per {PER:,}"


def difference_text(agreement: Agreement) -> str:
    """The difference of the alert rates, with its interval, test and effect size."""
    text = f"{_interval(agreement.difference, '+')} alerts per {PER:,}"
    g = agreement.cohen_g
    if g is None:
        return f"{text}; no alert comes or goes"
    effect = next((word for least, word in EFFECTS if abs(g) >= least), "negligible")
    return f"{text}; McNemar's test p = {agreement.p_value:.2g}, effect g = {g:+.2f} ({effect})"


def agreement_lines(found: Comparison) -> list[str]:
    """Sentences about which alerts come and go, and how far the detectors agree."""
    agreement = found.overall.agreement
    kappa, rho = figure(agreement.kappa), figure(found.overall.rank_correlation)
    return [
        f"{counted(agreement.came, 'alert')} would come, {agreement.went} would go, {agreement.both} would stay",
        f"agreement {percent(agreement.share)}, Cohen's kappa {kappa}, rank correlation of scores {rho}",
    ]


def lost_line(found: Comparison) -> str:
    """Whether the new detector loses defects that people confirmed."""
    defects, new = found.defects, name_of(found, "new")
    compared = f"{defects.compared} of {defects.confirmed} images that people called defective were compared"
    unit = "image" if found.unit == "image" else found.unit
    if defects.lost:
        return f"{new} loses {counted(defects.lost, 'confirmed defect')} and finds {defects.found} more; {compared}"
    return f"{new} loses no {unit} with a confirmed defect and finds {defects.found} more; {compared}"


def promotion(found: Comparison) -> str | None:
    """The command that puts the matched threshold of the new detector in force; None without one."""
    if found.matched is None:
        return None
    why = f"as many alerts as {found.old.name}"
    return (
        f"diffad-ray threshold {found.table} --detector {found.new.fingerprint} --threshold {found.matched.reject} "
        f'--apply --why "{why}"'
    )


def figure(value: float | None) -> str:
    """A figure with three digits after the point; - where it is not defined."""
    return "-" if value is None else f"{value:.3f}"


def _interval(found: Interval, sign: str = "") -> str:
    value, low, high = (f"{PER * part:{sign}.1f}" for part in (found.value, found.low, found.high))
    return f"{value} ({low} to {high})"


def _table(column: str, groups: Sequence[Group]) -> Table:
    table = Table(box=None)
    table.add_column(escape(column))
    for name in ("images", "old alerts", "new alerts", "come", "go", "kappa", "rank corr."):
        table.add_column(name, justify="right")
    for value, agreement, rho in groups:
        counts = (agreement.images, agreement.old_alerts, agreement.new_alerts, agreement.came, agreement.went)
        table.add_row(escape(value), *map(str, counts), figure(agreement.kappa), figure(rho))
    return table
