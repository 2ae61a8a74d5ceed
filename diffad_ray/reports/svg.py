"""Charts that Matplotlib draws, as elements of an HTML page that may be light or dark."""

from __future__ import annotations

import io
import re
from xml.etree import ElementTree

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLOURS = {
    "ink": "#1d2429",
    "pale": "#5d6972",
    "rule": "#dfe4e8",
    "good": "#2a6f97",
    "defective": "#c0392b",
    "mark": "#b97f00",
}
"Colours by the names that colours.css gives them. A chart is drawn in these, and shown in those of the page's theme."
WIDTH, HEIGHT = 300, 225
"Of a chart in pixels of the page."
FONT_SIZE = 11
"The size that page.css gives the texts of charts."
OWN_FONT = re.compile(r"font(-[a-z]+)?:[^;]*;?\s*")
REFERENCE = re.compile(r"url\(#")


def new_chart(x: str, y: str) -> tuple[Figure, Axes]:
    """A chart without content, and its axes, of which these are the names. Its title is up to the page."""
    # 72 dots an inch make the units of the SVG pixels of the page.
    figure = Figure(figsize=(WIDTH / 72, HEIGHT / 72), dpi=72, layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel(x, fontsize=FONT_SIZE, color=COLOURS["pale"], parse_math=False)
    axes.set_ylabel(y, fontsize=FONT_SIZE, color=COLOURS["pale"], parse_math=False)
    axes.tick_params(length=0, pad=6, labelsize=FONT_SIZE, labelcolor=COLOURS["pale"])
    axes.grid(color=COLOURS["rule"], linewidth=1)
    axes.set_axisbelow(True)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return figure, axes


def inline_svg(figure: Figure, identifier: str, description: str) -> Markup:
    """A chart as an <svg> element, the same bytes for the same chart.

    Args:
        identifier: no other chart of the page has it; all ids in the element begin with it.
        description: what a screen reader says of the chart.
    """
    written = io.BytesIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": identifier}):
        figure.savefig(written, format="svg", transparent=True, metadata={"Date": None})
    root = ElementTree.fromstring(written.getvalue())
    # The metadata name places on the web, and the style sheet of a chart would count for the whole page.
    for child in list(root):
        if child.tag.endswith("}metadata") or child.find("{*}style") is not None:
            root.remove(child)
    for element in root.iter():
        element.tag = _local(element.tag)
        element.attrib = {_local(name): _inline(_local(name), v, identifier) for name, v in element.attrib.items()}
    root.attrib = {"class": "chart", "role": "img", "aria-label": description, "viewBox": root.attrib["viewBox"]}
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _local(name: str) -> str:
    """A name without its namespace: within HTML, <svg> alone says what its elements are."""
    return name.rpartition("}")[2]


def _inline(name: str, value: str, identifier: str) -> str:
    """The value of an attribute, as it must be on a page that has other charts and a style sheet."""
    if name == "id":
        return f"{identifier}-{value}"
    if name == "href":
        return f"#{identifier}-{value.removeprefix('#')}"
    if name == "style":
        value = OWN_FONT.sub("", value)
        for colour, number in COLOURS.items():
            value = value.replace(number, f"var(--{colour})")
    return REFERENCE.sub(f"url(#{identifier}-", value)
