"""The charts of a report: counts and rates over time, the Pareto of regions, and the distributions of scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from diffad_ray.analytics.report import Report
from diffad_ray.analytics.report.counts import Counts, Group
from diffad_ray.analytics.report.places import Bar
from diffad_ray.analytics.report.rates import Rate
from diffad_ray.analytics.report.scores import Scores
from diffad_ray.analytics.report.serials import Serials
from diffad_ray.reports.pages import Chart
from diffad_ray.reports.svg import COLOURS, inline_svg, new_chart

LINE = 2.0
STYLES = (("good", "-"), ("defective", "-"), ("mark", "-"), ("good", "--"), ("defective", "--"), ("mark", "--"))
"Colours and dashes of groups in one chart; further groups are in the table alone."
LABELS = 4
"Dates that are written below a chart, about."


def over_time(report: Report) -> list[Chart]:
    """Images, alerts and the defect rate by day, of the period and of the one before, which is shaded."""
    days, first = _all_days(report.whole)
    values = [_of_day(report.whole, day) for day in days]
    images, axes = _dated("images", days, first)
    axes.bar(range(len(days)), [one.images for one in values], color=COLOURS["good"], width=0.8)
    alerts, axes = _dated("alerts", days, first)
    axes.bar(range(len(days)), [one.alerts for one in values], color=COLOURS["defective"], width=0.8)
    rates, axes = _dated("defect rate in %", days, first)
    _rate_line(axes, values, "defective", "-")
    axes.set_ylim(bottom=0)
    drawn = {"Images by day": images, "Alerts by day": alerts, "Defect rate by day": rates}
    return [Chart(title, inline_svg(figure, f"time{k}", title)) for k, (title, figure) in enumerate(drawn.items())]


def by_column(column: str, groups: Sequence[Group], days_of: Group, identifier: str) -> tuple[Chart, dict[str, str]]:
    """The defect rate by day of the largest groups of a column, and their colours by value, for the key."""
    days, first = _all_days(days_of)
    figure, axes = _dated("defect rate in %", days, first)
    key = {}
    for group, (colour, dashes) in zip(groups, STYLES, strict=False):
        _rate_line(axes, [_of_day(group, day) for day in days], colour, dashes)
        key[group.value] = colour if dashes == "-" else f"{colour} dashed"
    axes.set_ylim(bottom=0)
    title = f"Defect rate by {column}"
    return Chart(title, inline_svg(figure, identifier, title)), key


def parts_over_time(parts: Serials) -> Chart:
    """The share of rejected parts by night, of the period and of the one before, which is shaded."""
    nights = {**parts.earlier_days, **parts.days}
    figure, axes = _dated("rejected parts in %", sorted(nights), len(parts.earlier_days))
    shares = [_percent(nights[night]) for night in sorted(nights)]
    axes.plot(range(len(shares)), shares, "-o", color=COLOURS["defective"], linewidth=LINE, markersize=3.5)
    axes.set_ylim(bottom=0)
    title = "Rejected parts by night"
    return Chart(title, inline_svg(figure, "parts", title))


def pareto_chart(bars: Sequence[Bar], has_detectors: bool) -> Chart:
    """Regions by place and size as bars, with the cumulative share as a line."""
    names = [f"{bar.detector}: " * has_detectors + f"{bar.place}, {bar.size}" for bar in bars]
    figure, axes = new_chart("regions", "")
    figure.set_size_inches(figure.get_size_inches()[0] * 1.6, 0.3 * len(bars) + 0.9)
    places = np.arange(len(bars))
    axes.barh(places, [bar.now for bar in bars], color=COLOURS["good"], height=0.7)
    axes.set_yticks(places, names, parse_math=False)
    axes.invert_yaxis()
    share = axes.twiny()
    share.plot([100 * bar.cumulative_share for bar in bars], places, "o-", color=COLOURS["mark"], markersize=4)
    share.set_xlim(0, 105)
    share.tick_params(length=0, labelsize=11, labelcolor=COLOURS["pale"])
    share.set_xlabel("cumulative share in %", fontsize=11, color=COLOURS["pale"])
    for spine in share.spines.values():
        spine.set_visible(False)
    title = "Pareto of regions by place and size"
    return Chart(title, inline_svg(figure, "pareto", title))


def score_charts(report: Report) -> list[Chart]:
    """The scores of each detector: of the period (filled), of the one before and of the calibration split (lines)."""
    thresholds = {one.fingerprint: one.threshold for one in report.detectors}
    return [
        _scores(one, thresholds.get(one.fingerprint), f"scores{number}") for number, one in enumerate(report.scores)
    ]


def _scores(scores: Scores, threshold: float | None, identifier: str) -> Chart:
    figure, axes = new_chart("score", "share of images")
    for name, counts in {"now": scores.now, "earlier": scores.earlier}.items():
        if not (total := sum(counts)):
            continue
        shares = np.array(counts) / total
        if name == "now":
            axes.stairs(shares, scores.edges, fill=True, color=COLOURS["defective"], alpha=0.45)
        else:
            axes.stairs(shares, scores.edges, color=COLOURS["pale"], linewidth=1.2)
    if scores.calibration:
        axes.stairs(scores.calibration, scores.edges, color=COLOURS["good"], linewidth=1.6)
    if threshold is not None:
        axes.axvline(threshold, color=COLOURS["mark"], linewidth=LINE)
    axes.set_yscale("symlog", linthresh=1e-3)
    axes.set_ylim(bottom=0)
    title = f"Scores of {scores.detector}"
    return Chart(title, inline_svg(figure, identifier, title))


def _all_days(group: Group) -> tuple[list[str], int]:
    """The days of both periods, and how many of them are of the one before."""
    earlier = sorted(group.earlier_days)
    return [*earlier, *sorted(group.days)], len(earlier)


def _of_day(group: Group, day: str) -> Counts:
    return group.days.get(day) or group.earlier_days.get(day) or Counts()


def _dated(y: str, days: Sequence[str], first: int) -> tuple[Figure, Axes]:
    """A chart over days, of which the first ones, of the period before, are shaded."""
    figure, axes = new_chart("", y)
    if first:
        axes.axvspan(-0.6, first - 0.5, color=COLOURS["pale"], alpha=0.12, linewidth=0)
    step = max(1, round(len(days) / LABELS))
    axes.set_xticks(range(0, len(days), step), [day[5:] for day in days[::step]])
    axes.set_xlim(-0.6, len(days) - 0.4)
    return figure, axes


def _rate_line(axes: Axes, values: Sequence[Counts], colour: str, dashes: str) -> None:
    shares = [_percent(one.rate) for one in values]
    axes.plot(range(len(values)), shares, dashes, color=COLOURS[colour], linewidth=LINE, marker="o", markersize=3.5)


def _percent(rate: Rate) -> float:
    return float("nan") if rate.share is None else 100 * rate.share


def grouped(report: Report) -> Mapping[str, list[Group]]:
    """The groups of a report by their columns, without all images."""
    found: dict[str, list[Group]] = {}
    for group in report.groups[1:]:
        found.setdefault(group.column, []).append(group)
    return found
