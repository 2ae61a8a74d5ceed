"""The section about parts that have several images: rejected parts by night, deciding views, and the worst parts."""

from __future__ import annotations

from dataclasses import dataclass

from diffad_ray.analytics.report.serials import DecidingView, Serials, WorstPart
from diffad_ray.errors import counted, percent
from diffad_ray.reports.pages import Card, Cell, Chart, FigureTable, Row
from diffad_ray.reports.report_page.charts import parts_over_time
from diffad_ray.reports.report_page.pictures import marked_picture
from diffad_ray.reports.report_page.sentences import rates_compared


@dataclass(frozen=True)
class Tile:
    """A figure on the first screen: the period's, and the one before."""

    name: str
    value: str
    before: str


@dataclass(frozen=True)
class PartsSection:
    """What the page shows of parts; `change` is a sentence, and `worst` has a card for each part."""

    column: str
    chart: Chart
    change: str
    table: FigureTable
    views: list[FigureTable]
    worst: list[Card]


def parts_tile(parts: Serials) -> Tile:
    """The rejected parts on the first screen."""
    now, earlier = parts.now, parts.earlier
    return Tile(
        f"rejected parts ({parts.column})", f"{now.count:,} of {now.of:,}", f"{earlier.count:,} of {earlier.of:,}"
    )


def parts_section(parts: Serials) -> PartsSection:
    """Return the section."""
    columns = list(dict.fromkeys(view.column for view in parts.views))
    views = [_views(column, [view for view in parts.views if view.column == column]) for column in columns]
    change = rates_compared(parts.change) if parts.change else ""
    if parts.without:
        change += f" {counted(parts.without, 'image')} of the period without {parts.column} belong to no part."
    return PartsSection(
        parts.column,
        parts_over_time(parts),
        change.strip(),
        _by_night(parts),
        views,
        [_card(part) for part in parts.worst],
    )


def _by_night(parts: Serials) -> FigureTable:
    names = ["parts", "rejected", "share"]
    rows = [
        Row(night, [Cell(f"{rate.of:,}"), Cell(f"{rate.count:,}"), Cell(percent(rate.share))])
        for night, rate in parts.days.items()
    ]
    for title, rate in (("period", parts.now), ("period before", parts.earlier)):
        if rate.of:
            cells = [Cell(f"{rate.of:,}"), Cell(f"{rate.count:,}"), Cell(percent(rate.share))]
            rows.append(Row(title, cells, is_sum=True))
    return FigureTable(f"Parts ({parts.column}) by night", "night", {"": names}, rows)


def _views(column: str, views: list[DecidingView]) -> FigureTable:
    rows = [
        Row(view.value, [Cell(f"{view.now:,}"), Cell(percent(view.cumulative_share)), Cell(f"{view.earlier:,}")])
        for view in views
    ]
    caption = f"Rejected parts by the {column} of their worst image"
    return FigureTable(caption, column, {"": ["parts", "cumulative", "period before"]}, rows)


def _card(part: WorstPart) -> Card:
    """All views of a part side by side, the worst first."""
    pictures, problems = {}, []
    for number, (image, title) in enumerate(zip(part.images, part.titles, strict=True), start=1):
        uri, problem = marked_picture(image)
        if uri is None:
            problems.append(problem)
        else:
            pictures[f"{number}. {title}, {image.score:.3g}"] = uri
    left = [f"{counted(part.left_out, 'further image')} not shown"] if part.left_out else []
    left += [f"{counted(len(problems), 'image')} can't be shown: {problems[0]}"] if problems else []
    worst = part.images[0]
    title = f"{part.part}, {part.day}: tail probability {worst.tail_probability:.2g}"
    title = "; ".join([title, *left])
    return Card(title, worst.image_uri, pictures, "" if pictures else problems[0])
