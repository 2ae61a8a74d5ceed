"""The tables of a report's page."""

from __future__ import annotations

from collections.abc import Sequence

from diffad_ray.analytics.estimates import Estimate
from diffad_ray.analytics.report import Report
from diffad_ray.analytics.report.counts import Counts, Group
from diffad_ray.analytics.report.detectors import DetectorInForce
from diffad_ray.analytics.report.examples import OF_A_CHANGE as OF_A_CHANGE
from diffad_ray.analytics.report.examples import WORST as WORST
from diffad_ray.analytics.report.rows import RUN_DATE
from diffad_ray.errors import percent
from diffad_ray.reports.pages import Cell, FigureTable, Row
from diffad_ray.reports.report_page.sentences import group_name, p_value, rate_text

MOST_GROUPS = 20
"Groups of a column in its table; the JSON has all of them."


def by_day(report: Report) -> FigureTable:
    """Counts of each day of the period."""
    rows = [Row(day, _counts(counts)) for day, counts in sorted(report.whole.days.items())]
    rows.append(Row("period", _counts(report.whole.now), is_sum=True))
    if report.whole.earlier.images:
        rows.append(Row("period before", _counts(report.whole.earlier), is_sum=True))
    return FigureTable("By day", "day", {"": ["images", "without score", "alerts", "to review", "defect rate"]}, rows)


def by_group(column: str, groups: Sequence[Group]) -> FigureTable:
    """Counts of the groups of a column, against the period before."""
    rows = [Row(group.value, _against(group.now, group.earlier)) for group in groups[:MOST_GROUPS]]
    left = len(groups) - len(rows)
    caption = f"By {column}" + (f"; {left} more are in the JSON" if left else "")
    names = ["images", "alerts", "defect rate"]
    return FigureTable(caption, column, {"this period": names, "period before": names}, rows)


def failures(report: Report) -> FigureTable:
    """Images without a score by reason, with an example."""
    rows = [
        Row(
            f"{one.status}: {one.reason}",
            [Cell(f"{one.now:,}"), Cell(f"{one.earlier:,}"), Cell(one.example, is_uri=True)],
        )
        for one in report.failures
    ]
    return FigureTable("Images without a score", "reason", {"": ["this period", "period before", "such as"]}, rows)


def regions(report: Report) -> FigureTable:
    """The bars of the Pareto as numbers."""
    rows = [
        Row(
            f"{bar.detector}: {bar.place}, {bar.size}",
            [Cell(f"{bar.now:,}"), Cell(percent(bar.cumulative_share)), Cell(f"{bar.earlier:,}")],
        )
        for bar in report.pareto
    ]
    names = ["regions", "cumulative", "period before"]
    return FigureTable("Regions by place and size", "place, size", {"": names}, rows)


def recurring(report: Report) -> FigureTable:
    """The recurring places; the times of files say nothing where a column of the user has the days."""
    has_times = report.asked.day_column == RUN_DATE
    rows = [
        Row(
            group_name(one.column, one.value),
            [
                Cell(one.place, f"x {one.x:.2f}, y {one.y:.2f}"),
                Cell(str(one.since), f"{one.first_seen:%m-%d %H:%M} – {one.last_seen:%m-%d %H:%M}" * has_times),
                Cell(rate_text(one.rates.now)),
                Cell(rate_text(one.rates.earlier)),
                Cell(f"{one.rates.effect:.2f}", p_value(one.p)),
            ],
        )
        for one in report.recurring
    ]
    names = ["place", "since", "of the images since", "before", "Cohen's h"]
    return FigureTable("Places where defects recur", "group", {"": names}, rows)


def detectors(report: Report) -> FigureTable:
    """Detectors and thresholds in force."""
    rows = [_detector(one) for one in report.detectors]
    names = ["images", "alerts", "threshold", "to review from", "false alarms expected", "calibration"]
    return FigureTable("Detectors and thresholds in force", "detector", {"": names}, rows)


def _detector(one: DetectorInForce) -> Row:
    by = f"{one.applied.chosen_by}, {one.applied.who}: {one.applied.why}" if one.applied else "the detector's own"
    review = "–" if one.applied is None or one.applied.review is None else f"{one.applied.review:.4g}"
    expected = "–"
    if one.expected_false_alarms is not None:
        expected = f"{one.expected_false_alarms:,.1f}"
    cells = [
        Cell(f"{one.images:,}"),
        Cell(f"{one.alerts:,}"),
        Cell("several" if one.threshold is None else f"{one.threshold:.4g}", by),
        Cell(review),
        Cell(expected, "" if one.false_alarm_rate is None else percent(one.false_alarm_rate)),
        Cell("–" if one.calibration_images is None else f"{one.calibration_images:,} images"),
    ]
    return Row(f"{one.detector} ({one.fingerprint[:8]})", cells)


def runs(report: Report) -> FigureTable:
    """Throughput of the runs."""
    rows = [
        Row(
            run.run_id,
            [
                Cell(run.state),
                Cell(f"{run.images:,}"),
                Cell(_number(run.seconds, 0)),
                Cell(_number(run.images_per_second, 1)),
                Cell(_number(run.core_seconds, 0)),
                Cell(_number(run.gpu_seconds, 0)),
            ],
        )
        for run in report.runs[-MOST_GROUPS:]
    ]
    names = ["state", "images", "seconds", "images/s", "core-seconds", "GPU-seconds"]
    left = len(report.runs) - len(rows)
    caption = "Runs" + (f"; {left} older ones are in the JSON" if left else "")
    return FigureTable(caption, "run", {"": names}, rows)


def verdicts(report: Report) -> FigureTable:
    """What people said."""
    found = report.verdicts
    assert found is not None, "the section is left out where nobody judged"
    rows = [
        Row("reviewed images", [Cell(f"{found.reviewed:,}", f"{found.unsure} unsure, {found.disputed} disputed")]),
        Row("alerts that are defects", [Cell(f"{found.confirmed:,}")]),
        Row("overkill: alerts that are good", [Cell(rate_text(found.overkill_rate))]),
        Row("escapes: defects that are no alerts", [Cell(rate_text(found.escape_rate))]),
    ]
    return FigureTable("Verdicts of people on images of this period", "", {"": ["images"]}, rows)


def estimates(report: Report) -> FigureTable:
    """Overkill and escapes of the archive, estimated from a random sample."""
    assert report.estimates is not None, "the section is left out without a sample"
    names = {one.fingerprint: one.detector for one in report.detectors}
    rows = [
        Row(f"{title} of {names.get(one.detector_fingerprint, one.detector_fingerprint)}", _estimate(found))
        for one in report.estimates.detectors
        for title, found in (("overkill", one.overkill), ("escapes", one.escapes))
        if found is not None
    ]
    caption = f"Estimated from the random sample of {report.estimates.sampled_at[:10]}, with 95 % intervals"
    return FigureTable(caption, "", {"": ["images", "judged", "estimated number", "share"]}, rows)


def _estimate(found: Estimate) -> list[Cell]:
    cells = [Cell(f"{found.images:,}"), Cell(f"{found.judged:,}")]
    if found.count is None or found.low is None or found.high is None:
        return [*cells, Cell("–", "judge more images"), Cell("–")]
    number = Cell(f"{found.count:,.0f}", f"{found.low:,.0f} – {found.high:,.0f}")
    return [*cells, number, Cell(percent(found.share), f"{percent(found.share_low)} – {percent(found.share_high)}")]


def kinds(report: Report) -> FigureTable:
    """Defects by kind; those without one before are new."""
    assert report.verdicts is not None, "the section is left out where nobody judged"
    rows = [
        Row(one.kind, [Cell(f"{one.now:,}"), Cell(f"{one.earlier:,}", "" if one.earlier else "new")])
        for one in report.verdicts.kinds
    ]
    return FigureTable("Kinds of defects, as people called them", "kind", {"": ["this period", "before"]}, rows)


def _counts(counts: Counts) -> list[Cell]:
    return [
        Cell(f"{counts.images:,}"),
        Cell(f"{counts.images - counts.scored:,}"),
        Cell(f"{counts.alerts:,}"),
        Cell(f"{counts.warned:,}"),
        Cell(percent(counts.rate.share)),
    ]


def _against(now: Counts, earlier: Counts) -> list[Cell]:
    return [
        cell
        for counts in (now, earlier)
        for cell in (Cell(f"{counts.images:,}"), Cell(f"{counts.alerts:,}"), Cell(percent(counts.rate.share)))
    ]


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"
