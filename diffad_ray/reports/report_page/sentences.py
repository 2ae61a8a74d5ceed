"""What changed, in words: each change as a sentence, with the figures behind it."""

from __future__ import annotations

from dataclasses import dataclass

from diffad_ray.analytics.report import Report
from diffad_ray.analytics.report.changes import SIGNIFICANT, Change
from diffad_ray.analytics.report.counts import ALL
from diffad_ray.analytics.report.light import LightChange
from diffad_ray.analytics.report.new_kinds import NewKind
from diffad_ray.analytics.report.rates import Rate, RateChange
from diffad_ray.analytics.report.recurring import Recurring
from diffad_ray.analytics.report.rows import RUN_DATE
from diffad_ray.errors import counted, percent

SMALLEST_P = 1e-6


@dataclass(frozen=True)
class Headline:
    """A change for the first screen.

    Attributes:
        text: the change in a sentence.
        figures: test and effect size.
        effect: by which headlines are ranked, in standard units.
        is_bad: whether it is for the worse.
    """

    text: str
    figures: str
    effect: float
    is_bad: bool


def headlines(report: Report) -> list[Headline]:
    """Return all changes of a report, the largest effect first."""
    found = [_change(change, report) for change in report.changes]
    found += [_place(place, report) for place in report.recurring]
    light: dict[tuple[str, str], list[LightChange]] = {}
    for one in report.light:
        light.setdefault((one.column, one.value), []).append(one)
    found += [_light(changes) for changes in light.values()]
    return sorted(found, key=lambda one: -one.effect)


def group_name(column: str, value: str) -> str:
    """The name of a group in a sentence.

    Example:
        >>> group_name("camera", "top")
        'camera = top'
    """
    return ALL if column == ALL else f"{column} = {value}"


def p_value(p: float) -> str:
    """A p-value in words."""
    return f"p < {SMALLEST_P:.6f}" if p < SMALLEST_P else f"p = {p:.2g}"


def rate_text(rate: Rate) -> str:
    """A rate with its counts."""
    return f"{percent(rate.share)} ({rate.count:,} of {rate.of:,})"


def rates_compared(rates: RateChange) -> str:
    """The shares of rejected parts of two periods in a sentence, with test and effect size."""
    now, earlier = percent(rates.now.share), percent(rates.earlier.share)
    return f"{now} of the parts were rejected, {earlier} before ({_figures(rates, rates.p)})."


@dataclass(frozen=True)
class DriftLine:
    """The state of a detector, the reason for it, and the command that shows more."""

    detector: str
    state: str
    reason: str
    command: str
    is_bad: bool


def drift_lines(report: Report) -> list[DriftLine]:
    """Return what the first screen says of each detector."""
    return [
        DriftLine(one.detector, one.state, one.reasons[0] if one.reasons else "", one.command, one.needs_action)
        for one in report.drift
    ]


def kind_title(kind: NewKind, names_detector: bool) -> str:
    """A new kind of regions as a title, such as `New: small, long regions at the top left (13 images, before 0)`."""
    detector = f"{kind.detector}: " if names_detector else ""
    where = "anywhere" if kind.place is None else f"at the {kind.place}"
    count = f"{counted(kind.now.count, 'image')}, {kind.earlier.count} before"
    return f"{detector}New: {kind.size}, {kind.shape} regions {where} ({count})"


def _change(change: Change, report: Report) -> Headline:
    group = group_name(change.column, change.value)
    if change.kind == "gone group":
        text = f"{group} is gone: no image in this period, {change.images:,} in the one before."
        return Headline(text, "", 0.0, True)
    rates = change.rates
    others = f", apart from {_list([group_name(*one) for one in change.without])}" if change.without else ""
    if change.kind == "new group":
        first = next(iter(sorted(_days(report, change))), "")
        text = f"{group} is new since {first} ({change.images:,} images)."
        if rates is None:
            return Headline(text, "", 0.0, False)
        now, rest = percent(rates.now.share), percent(rates.earlier.share)
        text += f" Its defect rate{others}{',' * bool(others)} is {now}, against {rest} of all others."
        is_bad = rates.effect > 0 and change.p is not None and change.p < SIGNIFICANT
        return Headline(text, _figures(rates, change.p), change.effect, is_bad)
    assert rates is not None, "rates of one group are compared with those before"
    name = "Defect rate" if change.kind == "alerts" else "Share of images without a score"
    text = f"{name} of {group}{others}: {percent(rates.now.share)}, before {percent(rates.earlier.share)}"
    text += f" ({_times(rates)})."
    return Headline(text, _figures(rates, change.p), change.effect, rates.effect > 0)


def _days(report: Report, change: Change) -> list[str]:
    return next(list(g.days) for g in report.groups if (g.column, g.value) == (change.column, change.value))


def _place(place: Recurring, report: Report) -> Headline:
    text = (
        f"A defect recurs at one place on {group_name(place.column, place.value)} since {place.since}: {place.place}, "
        f"{percent(round(place.x, 2))} from the left and {percent(round(place.y, 2))} from the top, in "
        f"{percent(place.rates.now.share)} of the images; before in {percent(place.rates.earlier.share)}."
    )
    if report.asked.day_column == RUN_DATE:
        text += f" First seen {place.first_seen:%Y-%m-%d %H:%M}, last seen {place.last_seen:%Y-%m-%d %H:%M} UTC."
    return Headline(text, _figures(place.rates, place.p), place.effect, True)


def _light(changes: list[LightChange]) -> Headline:
    """The measures of one group, the largest effect first: less light lowers several of them."""
    first = changes[0]
    text = f"The images of {group_name(first.column, first.value)} look different since {first.since}: "
    text += _list([_measure(change) for change in changes]) + ". Look at the camera and its light."
    figures = [f"{one.measure}: Cohen's d {one.effect:+.2f}, {p_value(one.p)}" for one in changes]
    return Headline(text, "; ".join(figures), abs(first.effect), True)


def _measure(change: LightChange) -> str:
    ratio = change.now / change.earlier - 1 if change.earlier else 0.0
    direction = "fell" if change.now < change.earlier else "rose"
    amount = f"{percent(abs(ratio))}, from {change.earlier:.3g} to {change.now:.3g}"
    return f"{change.measure} {direction} by {amount}"


def _times(rates: RateChange) -> str:
    if not rates.ratio:
        return "none before" if rates.ratio is None else "none now"
    return f"{rates.ratio:.3g} times" if rates.ratio >= 1 else f"1/{1 / rates.ratio:.3g} of it"


def _figures(rates: RateChange, p: float | None) -> str:
    counts = f"{rates.now.count:,} of {rates.now.of:,} against {rates.earlier.count:,} of {rates.earlier.of:,}"
    interval = f"difference {100 * rates.difference:+.3g} points [{100 * rates.low:+.3g}, {100 * rates.high:+.3g}]"
    test = f"; {p_value(p)}" if p is not None else ""
    return f"{counts}; {interval}; Cohen's h {rates.effect:+.2f}{test}"


def _list(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
