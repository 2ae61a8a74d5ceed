"""The charts of a product: ROC, precision over recall, the scores, and whether tail probabilities hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, NullLocator

from diffad_ray.evaluation.figures import OVERALL, ProductFigures, ScoredImage
from diffad_ray.evaluation.ranking import Ranking, ranking
from diffad_ray.labels.datasets import GOOD
from diffad_ray.reports.pages import Chart
from diffad_ray.reports.svg import COLOURS, inline_svg, new_chart

MOST_BINS = 40
SMALLEST_TAIL = 1e-3
LINE = 2.0
"Width of a curve in pixels."


class Drawn(NamedTuple):
    """A chart before it becomes part of a page."""

    title: str
    figure: Figure


def charts(images: Sequence[ScoredImage], product: ProductFigures, identifier: str) -> list[Chart]:
    """The charts; those are left out that good and defective images only have together, where either is lacking.

    Args:
        images: of the product.
        identifier: no other product of the page has it.
    """
    scores = np.array([image.score for image in images])
    labels = np.array([image.kind != GOOD for image in images])
    found, overall = ranking(scores, labels), product.figures[OVERALL]
    drawn = []
    if found is not None:
        drawn += [
            _roc(found, overall.false_alarm_rate, overall.recall),
            _precision_recall(found, overall.recall, overall.precision),
        ]
    drawn.append(_histogram(scores, labels, sorted({image.threshold for image in images})))
    if not labels.all():
        drawn.append(_reliability(np.array([image.tail_probability for image in images])[~labels]))
    return [
        Chart(one.title, inline_svg(one.figure, f"{identifier}-{number}", one.title))
        for number, one in enumerate(drawn)
    ]


def _roc(found: Ranking, false_alarms: float | None, recall: float | None) -> Drawn:
    positives, normals = found.found[-1], float(found.normals)
    # Ties of both kinds are a slope, everything else goes straight up or to the right.
    x = np.stack([found.before, found.after], axis=1).ravel() / normals
    y = np.stack([found.found - found.hits, found.found], axis=1).ravel() / positives
    figure, axes = new_chart("false alarms", "recall")
    _chance(axes, [0, 1], [0, 1])
    _curve(axes, np.concatenate([[0], x, [1]]), np.concatenate([[0], y, [1]]), "defective")
    _in_use(axes, false_alarms, recall)
    axes.set(xlim=(0, 1), ylim=(0, 1))
    return Drawn(f"ROC, area {float(found.auroc()):.4f}", figure)


def _precision_recall(found: Ranking, recall: float | None, precision: float | None) -> Drawn:
    positives = found.found[-1]
    share = positives / (positives + float(found.normals))
    at = found.found / positives
    values = found.found / (found.found + found.after)
    figure, axes = new_chart("recall", "precision")
    _chance(axes, [0, 1], [share, share])
    # Steps, as average precision counts them.
    _curve(axes, np.stack([np.append(0, at[:-1]), at], axis=1).ravel(), np.repeat(values, 2), "defective")
    _in_use(axes, recall, precision)
    axes.set(xlim=(0, 1), ylim=(0, 1))
    return Drawn(f"Precision over recall, AP {float(found.average_precision()):.4f}", figure)


def _histogram(scores: np.ndarray, labels: np.ndarray, thresholds: list[float]) -> Drawn:
    """Shares of the good and of the defective images, each of their own total, for these are rarely equally many."""
    low, high = min(scores.min(), thresholds[0]), max(scores.max(), thresholds[-1])
    pad = max(0.02 * (high - low), abs(high) * 1e-6, 1e-9)
    bins = int(np.clip(2 * np.sqrt(len(scores)), 8, MOST_BINS))
    edges = np.linspace(low - pad, high + pad, bins + 1)
    figure, axes = new_chart("score", "share of images")
    for name, part in {"good": scores[~labels], "defective": scores[labels]}.items():
        if len(part):
            heights = np.histogram(part, edges)[0] / len(part)
            axes.stairs(heights, edges, fill=True, color=COLOURS[name], alpha=0.5)
    # Images with their own thresholds would make a wall of lines.
    if len(thresholds) == 1:
        axes.axvline(thresholds[0], color=COLOURS["mark"], linewidth=LINE)
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(bottom=0)
    return Drawn("Scores", figure)


def _reliability(tails: np.ndarray) -> Drawn:
    """The share of good images [N] whose tail probability is at most p, over p; the dashed line is what p promises."""
    figure, axes = new_chart("predicted", "observed share")
    p = np.geomspace(SMALLEST_TAIL, 1.0, 60)
    spread = 1.96 * np.sqrt(p * (1 - p) / len(tails))
    axes.fill_between(p, _shown(p - spread), _shown(p + spread), color=COLOURS["pale"], alpha=0.15, linewidth=0)
    _chance(axes, [SMALLEST_TAIL, 1], [SMALLEST_TAIL, 1])
    predicted, counts = np.unique(tails, return_counts=True)
    share = np.append(0, np.cumsum(counts)) / len(tails)
    x = np.concatenate([[SMALLEST_TAIL], np.repeat(predicted, 2), [1]])
    y = np.concatenate([[0], np.stack([share[:-1], share[1:]], axis=1).ravel(), [1]])
    _curve(axes, _shown(x), _shown(y), "good")
    axes.set(xscale="log", yscale="log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FormatStrFormatter("%g"))
        axis.set_minor_locator(NullLocator())
    axes.set(xlim=(SMALLEST_TAIL, 1), ylim=(SMALLEST_TAIL, 1))
    return Drawn("Tail probabilities of good images", figure)


def _shown(shares: np.ndarray) -> np.ndarray:
    """Shares, moved onto axes that have no 0."""
    return shares.clip(SMALLEST_TAIL, 1)


def _chance(axes: Axes, x: Sequence[float], y: Sequence[float]) -> None:
    axes.plot(x, y, color=COLOURS["pale"], linewidth=1, dashes=(4, 3))


def _curve(axes: Axes, x: np.ndarray, y: np.ndarray, colour: str) -> None:
    # Much of a good curve lies on the border of the axes; clipped there, it would be half as wide.
    axes.plot(x, y, color=COLOURS[colour], linewidth=LINE, clip_on=False)


def _in_use(axes: Axes, x: float | None, y: float | None) -> None:
    """The point of the threshold in use, where it is defined."""
    if x is not None and y is not None:
        axes.plot(x, y, "o", color=COLOURS["mark"], markersize=8, clip_on=False, zorder=3)
