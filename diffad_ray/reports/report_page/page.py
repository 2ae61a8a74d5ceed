"""The page of a report: first what changed, then all figures, charts and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from diffad_ray import storage
from diffad_ray.analytics.report import Report
from diffad_ray.analytics.report.counts import Group
from diffad_ray.analytics.report.whole import PICTURED
from diffad_ray.errors import percent
from diffad_ray.reports.mean_image import MeanImage, mean_image
from diffad_ray.reports.pages import Card, Chart, FigureTable, data_uri, rendered
from diffad_ray.reports.report_page import tables
from diffad_ray.reports.report_page.charts import by_column, grouped, over_time, pareto_chart, score_charts
from diffad_ray.reports.report_page.parts import Tile, parts_section, parts_tile
from diffad_ray.reports.report_page.pictures import cards
from diffad_ray.reports.report_page.product import LONGEST_SIDE, heat_map, marked_place
from diffad_ray.reports.report_page.sentences import drift_lines, group_name, headlines, kind_title

HEADLINES = 5
"Changes on the first screen; the others follow below the tiles."
PLACES = 6
"Recurring places with a picture."


@dataclass(frozen=True)
class ColumnSection:
    """The groups of a column: a chart, the colours of its lines by value, and a table."""

    column: str
    chart: Chart
    key: dict[str, str]
    table: FigureTable


@dataclass(frozen=True)
class Product:
    """Where on the product regions lie: pictures with their titles, and what can't be shown."""

    pictures: list[Card] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def write_page(report: Report, output: str) -> None:
    """Write the page of a report to a file or object.

    Raises:
        OSError: it can't be written.
    """
    storage.write(output, page(report).encode())


def page(report: Report) -> str:
    """Return the page as text."""
    found = headlines(report)
    return rendered(
        "report.html",
        title=f"{report.table.rsplit('/', 1)[-1]}: {report.asked.period}",
        command="diffad-ray report",
        report=report,
        compared=bool(report.whole.earlier.images),
        first=found[:HEADLINES],
        more=found[HEADLINES:],
        drift=drift_lines(report),
        tiles=_tiles(report),
        time=over_time(report),
        days=tables.by_day(report),
        columns=_columns(report),
        parts=parts_section(report.parts) if report.parts else None,
        failures=tables.failures(report) if report.failures else None,
        pareto=pareto_chart(report.pareto, len(report.detectors) > 1) if report.pareto else None,
        regions=tables.regions(report) if report.pareto else None,
        product=_product(report),
        recurring=tables.recurring(report) if report.recurring else None,
        scores=score_charts(report),
        detectors=tables.detectors(report),
        runs=tables.runs(report),
        verdicts=tables.verdicts(report) if report.verdicts else None,
        estimates=tables.estimates(report) if report.estimates else None,
        kinds=tables.kinds(report) if report.verdicts and report.verdicts.kinds else None,
        galleries=_galleries(report),
    )


def _tiles(report: Report) -> list[Tile]:
    now, earlier = report.whole.now, report.whole.earlier
    return [
        Tile("images", f"{now.images:,}", f"{earlier.images:,}"),
        Tile("alerts", f"{now.alerts:,}", f"{earlier.alerts:,}"),
        *([Tile("to review", f"{now.warned:,}", f"{earlier.warned:,}")] if now.warned or earlier.warned else []),
        Tile("defect rate", percent(now.rate.share), percent(earlier.rate.share)),
        *([parts_tile(report.parts)] if report.parts else []),
        Tile("without a score", f"{now.images - now.scored:,}", f"{earlier.images - earlier.scored:,}"),
    ]


def _columns(report: Report) -> list[ColumnSection]:
    sections = []
    for number, (column, groups) in enumerate(grouped(report).items()):
        chart, key = by_column(column, _most_alerts(groups), report.whole, f"column{number}")
        sections.append(ColumnSection(column, chart, key, tables.by_group(column, groups)))
    return sections


def _most_alerts(groups: Sequence[Group]) -> list[Group]:
    """The groups with the most alerts, which the chart shows as far as it has colours."""
    return sorted(groups, key=lambda group: (-group.now.alerts, group.value))


def _product(report: Report) -> Product:
    means, product = {}, Product()
    for density in report.densities[:PICTURED]:
        mean, problem = _mean_of(report.good.get(density.fingerprint, []))
        means[density.fingerprint] = mean
        if problem:
            product.problems.append(f"The mean good image of {density.detector} is left out: {problem}.")
        title = f"{density.detector}: {density.regions:,} regions"
        under = "over the mean of images that look good" if mean is not None else "on a plain ground"
        product.pictures.append(Card(title, under, {"where defects gather": data_uri(heat_map(density, mean))}))
    for place in report.recurring[:PLACES]:
        picture = marked_place(place, means.get(place.fingerprint))
        if picture is not None:
            title = f"{group_name(place.column, place.value)}: recurs since {place.since}"
            source = f"in {percent(place.rates.now.share)} of the images, {place.place}"
            product.pictures.append(Card(title, source, {"recurring place": data_uri(picture)}))
    return product


def _mean_of(images: Sequence[tuple[str, int, int]]) -> MeanImage:
    """The mean of images of one size, each with URI, width and height."""
    size = images[0][1:] if images else (0, 0)
    return mean_image([uri for uri, *_ in images], size, LONGEST_SIDE)


def _galleries(report: Report) -> dict[str, list[Card]]:
    """Cards of images by the titles of their groups, without empty ones."""
    examples = report.examples
    galleries = {"The worst images": cards(examples.worst, tables.WORST)}
    for place, images in zip(report.recurring, examples.places, strict=False):
        title = f"Recurring on {group_name(place.column, place.value)}, {place.place}"
        galleries[title] = cards(images, tables.OF_A_CHANGE)
    for kind, images in zip(report.kinds, examples.kinds, strict=False):
        galleries[kind_title(kind, len(report.detectors) > 1)] = cards(images, tables.OF_A_CHANGE)
    for name, images in examples.named.items():
        galleries[f"New kind of defect, as people called it: {name}"] = cards(images, tables.OF_A_CHANGE)
    for change, images in zip(report.changes, examples.groups, strict=False):
        galleries[f"Alerts of {group_name(change.column, change.value)}"] = cards(images, tables.OF_A_CHANGE)
    return {title: shown for title, shown in galleries.items() if shown}
