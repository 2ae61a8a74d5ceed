"""Charts within a page: nothing of them leaves the page or counts for another chart, and no text is markup."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path
from xml.etree import ElementTree

from diffad_ray.reports import pages
from diffad_ray.reports.svg import COLOURS, inline_svg, new_chart

HOSTILE = "</text><script>alert(1)</script>&\"'"


def drawn(identifier: str = "one", label: str = "score") -> str:
    figure, axes = new_chart(label, "share")
    axes.plot([-12, 20], [0, 1], "o-", color=COLOURS["good"])
    axes.fill_between([-12, 20], [0, 1], color=COLOURS["mark"], alpha=0.5)
    return inline_svg(figure, identifier, label)


def test_the_same_chart_gives_the_same_bytes() -> None:
    assert drawn() == drawn()


def test_ids_are_a_charts_own() -> None:
    one, other = (ElementTree.fromstring(drawn(name)) for name in ("one", "other"))
    for chart, name in ((one, "one"), (other, "other")):
        ids = [element.get("id") for element in chart.iter() if "id" in element.attrib]
        text = ElementTree.tostring(chart, encoding="unicode")
        referred = re.findall(r'url\(#([^)]*)\)|href="#([^"]*)"', text)
        assert referred
        assert {a or b for a, b in referred} <= set(ids)
        assert all(str(identifier).startswith(f"{name}-") for identifier in ids)
        assert len(ids) == len(set(ids))


def test_it_is_part_of_its_page() -> None:
    text = drawn()
    assert text.startswith('<svg class="chart" role="img" aria-label="score" viewBox="0 0 300 225">')
    for foreign in ("<?xml", "<!DOCTYPE", "metadata", "<style", "http", "xmlns", "font-family", "#2a6f97"):
        assert foreign not in text
    assert "stroke: var(--good)" in text
    assert "fill: var(--mark)" in text


def test_texts_are_texts() -> None:
    chart = ElementTree.fromstring(drawn(label=HOSTILE))
    assert chart.get("aria-label") == HOSTILE
    assert HOSTILE in [unescape(element.text or "") for element in chart.iter("text")]
    assert not list(chart.iter("script"))
    # An odd number of dollars, or a formula that Matplotlib does not know, is a text too.
    for label in ("$5", "$\\nothing$"):
        assert label in [element.text for element in ElementTree.fromstring(drawn(label=label)).iter("text")]


def test_the_page_has_its_colours_for_light_and_dark() -> None:
    style = (Path(pages.__file__).parent / "templates" / "colours.css").read_text()
    for name, number in COLOURS.items():
        assert f"--{name}: {number};" in style
        assert style.count(f"--{name}:") == 2
