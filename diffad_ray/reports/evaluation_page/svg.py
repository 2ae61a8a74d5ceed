"""Small charts as inline SVG: no script, no file beside the page, colours by the classes of its style sheet."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence

WIDTH, HEIGHT = 300, 250
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 28, 42
"Margins in pixels, for title, ticks and names of the axes."
MOST_POINTS = 1000
"Of a line; more could not be told apart."


class Chart:
    """A chart to which lines and bars are added in the units of its axes.

    Args:
        x, y: names of the axes.
        x_range, y_range: what they span; the lower end above 0 where the axis is logarithmic.
        log: logarithmic axes.
    """

    def __init__(
        self,
        title: str,
        x: str,
        y: str,
        x_range: tuple[float, float] = (0, 1),
        y_range: tuple[float, float] = (0, 1),
        log: bool = False,
    ):
        self.log = log
        self.x_range, self.y_range = self._scale(x_range), self._scale(y_range)
        self.parts = [_text(LEFT, 16, title, "title")]
        for value in _ticks(x_range, log):
            at = self._place(value, y_range[0])[0]
            self.parts += [
                _line(at, TOP, at, HEIGHT - BOTTOM, "grid"),
                _text(at, HEIGHT - BOTTOM + 14, f"{value:g}", "x"),
            ]
        for value in _ticks(y_range, log):
            at = self._place(x_range[0], value)[1]
            self.parts += [_line(LEFT, at, WIDTH - RIGHT, at, "grid"), _text(LEFT - 5, at + 4, f"{value:g}", "y")]
        middle = (TOP + HEIGHT - BOTTOM) / 2
        self.parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, x, "x"))
        self.parts.append(f'<g transform="translate(12 {middle:.1f}) rotate(-90)">{_text(0, 0, y, "x")}</g>')

    def line(self, points: Sequence[tuple[float, float]], style: str) -> None:
        """A line through points; a class of the style sheet says how it looks."""
        step = max(1, math.ceil(len(points) / MOST_POINTS))
        kept = [*points[:-1:step], points[-1]]
        self.parts.append(f'<polyline class="{style}" points="{self._places(kept)}"/>')

    def area(self, points: Iterable[tuple[float, float]], style: str) -> None:
        """A filled shape."""
        self.parts.append(f'<polygon class="{style}" points="{self._places(points)}"/>')

    def bars(self, edges: Sequence[float], heights: Sequence[float], style: str) -> None:
        """Bars from 0 up, one between each two edges."""
        corners = [(edges[0], 0.0)]
        for left, right, height in zip(edges, edges[1:], heights, strict=False):
            corners += [(left, height), (right, height)]
        self.area([*corners, (edges[-1], 0.0)], style)

    def dot(self, x: float, y: float, style: str) -> None:
        """A point to look at."""
        at = self._place(x, y)
        self.parts.append(f'<circle class="{style}" cx="{at[0]:.1f}" cy="{at[1]:.1f}" r="4"/>')

    def svg(self) -> str:
        """The chart as an element of a page."""
        return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{"".join(self.parts)}</svg>'

    def _scale(self, bounds: tuple[float, float]) -> tuple[float, float]:
        return (math.log10(bounds[0]), math.log10(bounds[1])) if self.log else bounds

    def _place(self, x: float, y: float) -> tuple[float, float]:
        """Pixels of a point; one outside of the axes is moved to their end."""
        shares = []
        for value, (low, high) in ((x, self.x_range), (y, self.y_range)):
            if self.log:
                value = math.log10(value) if value > 0 else low
            shares.append(min(1.0, max(0.0, (value - low) / (high - low))))
        return LEFT + shares[0] * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - shares[1] * (HEIGHT - TOP - BOTTOM)

    def _places(self, points: Iterable[tuple[float, float]]) -> str:
        return " ".join("{:.1f},{:.1f}".format(*self._place(*point)) for point in points)


def _line(x1: float, y1: float, x2: float, y2: float, style: str) -> str:
    return f'<line class="{style}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, text: str, style: str) -> str:
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}">{html.escape(text)}</text>'


def _ticks(bounds: tuple[float, float], log: bool) -> list[float]:
    """Round numbers within the bounds, some five of them, or the powers of ten."""
    low, high = bounds
    if log:
        return [10.0**k for k in range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)]
    raw = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = power * next(factor for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    return [round(k * step, 12) for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]
