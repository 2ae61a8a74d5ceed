"""A comparison of two detectors as one HTML page: figures, groups, scores, and the images that change most."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import duckdb

from diffad_ray import storage
from diffad_ray.analytics.compare import DECISIONS
from diffad_ray.analytics.comparison import Change, Comparison, Group
from diffad_ray.analytics.paired import Agreement
from diffad_ray.errors import UserError
from diffad_ray.images import for_display
from diffad_ray.intervals import wilson
from diffad_ray.reports.comparison_text import (
    PER,
    agreement_lines,
    alert_lines,
    figure,
    lost_line,
    name_of,
    promotion,
)
from diffad_ray.reports.originals import read_original
from diffad_ray.reports.overlay import draw_regions
from diffad_ray.reports.pages import Card, Cell, Chart, FigureTable, Row, data_uri, rendered
from diffad_ray.reports.svg import COLOURS, inline_svg, new_chart
from diffad_ray.table.views import ask_views

LONGEST_SIDE = 256
"Of a picture in pixels."
DOTS = (2, 3, 4, 5, 6)
"Sizes of the dots of a chart in pixels; each stands for four times as many images as the one before."

DRAWN_GROUPS = 12
"Groups of a column in its chart; the table has all of them."

Regions = dict[tuple[int, str], list[dict[str, Any]]]


class GroupSection(NamedTuple):
    """The groups of a column: a chart and a table."""

    subject: str
    chart: Chart
    table: FigureTable


def write_page(found: Comparison, output: str) -> None:
    """Write the page of a comparison to a file or object.

    Raises:
        UserError: the table can't be read any more.
        OSError: the page can't be written.
    """
    storage.write(output, page(found).encode())


def page(found: Comparison) -> str:
    """The page as text; see `write_page`."""
    changes = {"lost": found.defects.examples, "rises": found.rises, "falls": found.falls}
    regions = _regions(found, [one for group in changes.values() for one in group])
    old, new = name_of(found, "old"), name_of(found, "new")
    sections = [
        _section(f"Alerts by {column}", column, groups, f"groups{number}")
        for number, (column, groups) in enumerate(found.groups.items())
    ]
    if found.verdicts:
        sections.append(_section("Alerts by what people said of the images", "verdict", found.verdicts, "verdicts"))
    return rendered(
        "comparison.html",
        title=f"{new} instead of {old}",
        command="diffad-ray compare",
        found=found,
        things="images" if found.unit == "image" else f"values of {found.unit}",
        lines=[*alert_lines(found), *agreement_lines(found)],
        lost=lost_line(found),
        promotion=promotion(found),
        decisions=_decisions(found, old, new),
        sections=sections,
        chart=_scores(found, old, new),
        cards={name: [_card(found, one, regions) for one in group] for name, group in changes.items()},
        names=(old, new),
    )


def _decisions(found: Comparison, old: str, new: str) -> FigureTable:
    rows = [
        Row(before, [Cell(f"{images:,}") for images in counts.values()]) for before, counts in found.decisions.items()
    ]
    return FigureTable(f"Decisions of {old}, by row, and of {new}, by column", old, {new: list(DECISIONS)}, rows)


def _section(caption: str, subject: str, groups: Sequence[Group], identifier: str) -> GroupSection:
    return GroupSection(subject, _groups_chart(subject, groups, identifier), _groups(caption, subject, groups))


def _groups_chart(subject: str, groups: Sequence[Group], identifier: str) -> Chart:
    """The alert rates of both detectors in each group, with 95 % intervals; those that changed most come first."""
    shown = [group for group in groups if group.agreement.images][:DRAWN_GROUPS]
    drawn, axes = new_chart(f"alerts per {PER:,}", "")
    drawn.set_size_inches(drawn.get_size_inches()[0], 0.42 * len(shown) + 0.8)
    for offset, colour, counts in (
        (-0.16, "good", [group.agreement.old_alerts for group in shown]),
        (0.16, "defective", [group.agreement.new_alerts for group in shown]),
    ):
        rates = [wilson(count, group.agreement.images) for count, group in zip(counts, shown, strict=True)]
        places = [number + offset for number in range(len(shown))]
        lows, highs = [PER * rate.low for rate in rates], [PER * rate.high for rate in rates]
        axes.hlines(places, lows, highs, color=COLOURS[colour], linewidth=2)
        axes.plot([PER * rate.value for rate in rates], places, "o", color=COLOURS[colour], markersize=5)
    axes.set_yticks(range(len(shown)), [group.value for group in shown], parse_math=False)
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.set_xlim(left=0)
    title = f"Alert rate by {subject}"
    return Chart(title, inline_svg(drawn, identifier, title))


def _groups(caption: str, subject: str, groups: Sequence[Group]) -> FigureTable:
    columns = {
        "": ["compared"],
        f"alerts, and per {PER:,}": ["old", "new"],
        "alerts that": ["come", "go"],
        "agreement": ["kappa", "rank correlation"],
    }
    rows = [
        Row(
            value,
            [
                Cell(f"{agreement.images:,}"),
                _alerts(agreement, agreement.old_alerts),
                _alerts(agreement, agreement.new_alerts),
                Cell(f"{agreement.came:,}"),
                Cell(f"{agreement.went:,}"),
                Cell(figure(agreement.kappa)),
                Cell(figure(rho)),
            ],
        )
        for value, agreement, rho in groups
    ]
    return FigureTable(caption, subject, columns, rows)


def _alerts(agreement: Agreement, count: int) -> Cell:
    rate = wilson(count, agreement.images)
    return Cell(f"{count:,}", f"{PER * rate.value:.1f} ({PER * rate.low:.1f} – {PER * rate.high:.1f})")


def _scores(found: Comparison, old: str, new: str) -> Chart:
    """The scores of both detectors against each other, with their thresholds."""
    drawn, axes = new_chart(f"score of {old}", f"score of {new}")
    for level, size in enumerate(DOTS):
        # Each dot is a cell of the grid that SQL counted.
        cells = [cell for cell in found.cells if min(int(math.log(cell.images, 4)), len(DOTS) - 1) == level]
        x, y = [cell.old_score for cell in cells], [cell.new_score for cell in cells]
        axes.plot(x, y, "s", color=COLOURS["good"], markersize=size, markeredgewidth=0)
    for line, threshold in ((axes.axvline, found.old.threshold), (axes.axhline, found.new_threshold)):
        if threshold is not None:
            line(threshold, color=COLOURS["mark"], linewidth=1.5)
    return Chart("Scores", inline_svg(drawn, "scores", f"scores of {new} over those of {old}"))


def _regions(found: Comparison, changes: Sequence[Change]) -> Regions:
    """The regions of all images that are shown, by image and detector, the highest peak first."""
    wanted = list({one.image_id for one in changes})

    def use(connection: duckdb.DuckDBPyConnection) -> list[dict[str, Any]]:
        sql = (
            "SELECT image_id, detector_fingerprint, x, y, width, height, peak, mask_runs FROM regions "
            "WHERE image_id IN (SELECT unnest($1)) AND detector_fingerprint IN ($2, $3) ORDER BY region"
        )
        values = [wanted, found.old.fingerprint, found.new.fingerprint]
        return connection.sql(sql, params=values).to_arrow_table().to_pylist()

    regions: Regions = {}
    for row in ask_views(found.table, use):
        regions.setdefault((row["image_id"], row["detector_fingerprint"]), []).append(row)
    return regions


def _card(found: Comparison, change: Change, regions: Regions) -> Card:
    """An image with what each detector marks in it, and their scores."""
    pictures: dict[str, str] = {}
    problem = ""
    try:
        pixels = read_original(change.image_uri, (change.width, change.height))
        for which, scorer, judged in (("old", found.old, change.old), ("new", found.new, change.new)):
            drawn = draw_regions(pixels, regions.get((change.image_id, scorer.fingerprint), []))
            title = f"{name_of(found, which)}: {judged.decision}, {judged.score:.4g}"
            pictures[title] = data_uri(for_display(drawn, LONGEST_SIDE))
    except UserError as error:
        problem = str(error)
    tails = " to ".join(
        "unknown" if judged.tail_probability is None else f"{judged.tail_probability:.2g}"
        for judged in (change.old, change.new)
    )
    said = f", people say: {change.verdict}" if change.verdict else ""
    part = f"{found.unit} {change.part}: " if change.part is not None else ""
    scores = f"{change.old.score:.4g} ({change.old.decision}) to {change.new.score:.4g} ({change.new.decision})"
    return Card(f"{part}score {scores}, tail probability {tails}{said}", change.image_uri, pictures, problem)
