"""HTML pages from templates. A page is one file that holds its style sheet, its charts and its pictures.

The templates extend base.html and use macros.html; the classes here are what these macros show. Every text is escaped,
except what is `Markup`, such as a chart.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import NamedTuple
from urllib.parse import quote

import cv2
import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

JPEG_QUALITY = 88

templates = Environment(
    loader=PackageLoader("diffad_ray.reports"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)


class Cell(NamedTuple):
    """A cell of a table: its text, and a smaller one below it. A URI is shown whole, over several lines."""

    text: str
    detail: str = ""
    is_uri: bool = False


@dataclass(frozen=True)
class Row:
    """A row of a table; one that sums up others is printed in bold."""

    title: str
    cells: list[Cell]
    is_sum: bool = False


@dataclass(frozen=True)
class FigureTable:
    """A table of figures.

    Attributes:
        caption: what it shows.
        subject: what the titles of the rows are.
        groups: titles of groups of columns, which may be empty, each with the titles of its columns.
        rows: with as many cells as there are columns.
    """

    caption: str
    subject: str
    groups: dict[str, list[str]]
    rows: list[Row]


@dataclass(frozen=True)
class Chart:
    """A chart and its caption."""

    title: str
    svg: Markup


@dataclass(frozen=True)
class Card:
    """Pictures of one thing beside each other, as URIs by their titles, or the problem that there is with them."""

    title: str
    source: str
    pictures: dict[str, str] = field(default_factory=dict)
    problem: str = ""

    @property
    def link(self) -> str:
        """The address of the source for a browser; empty where it has none, such as for an object on S3.

        The page does not know the endpoint of a bucket or who may read it, so it shows the URI to be copied.

        No source can make it a script, because an address is a path or begins with http.
        """
        if self.source.startswith("/"):
            return quote(self.source)
        return self.source if self.source.startswith(("https://", "http://")) else ""


def rendered(template: str, **values: object) -> str:
    """The page that a template makes of values; `title` and `command`, which wrote the page, are always among them."""
    return templates.get_template(template).render(version=version("diffad-ray"), **values)


def data_uri(picture: np.ndarray) -> str:
    """A picture [H,W,3] uint8 as the URI of a JPEG that holds it."""
    blue_first = np.ascontiguousarray(picture[..., ::-1])
    encoded, data = cv2.imencode(".jpg", blue_first, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    assert encoded, "8-bit colour pictures of a small size can be written"
    return f"data:image/jpeg;base64,{base64.b64encode(data.tobytes()).decode()}"
