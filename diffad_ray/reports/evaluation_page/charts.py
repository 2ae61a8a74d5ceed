"""The charts of a product: ROC, precision over recall, the scores, and whether tail probabilities hold."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from diffad_ray.evaluation.figures import OVERALL, ProductFigures, ScoredImage
from diffad_ray.evaluation.ranking import Ranking, ranking
from diffad_ray.labels.datasets import GOOD
from diffad_ray.reports.evaluation_page.svg import Chart

MOST_BINS = 40
SMALLEST_TAIL = 1e-3


def charts(images: Sequence[ScoredImage], product: ProductFigures) -> list[str]:
    """SVG elements; those are left out that good and defective images only have together, where either is lacking."""
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
    return [chart.svg() for chart in drawn]


def _roc(found: Ranking, false_alarms: float | None, recall: float | None) -> Chart:
    positives, normals = found.found[-1], float(found.normals)
    # Ties of both kinds are a slope, everything else goes straight up or to the right.
    x = np.stack([found.before, found.after], axis=1).ravel() / normals
    y = np.stack([found.found - found.hits, found.found], axis=1).ravel() / positives
    chart = Chart(f"ROC, area {float(found.auroc()):.4f}", "false alarms", "recall")
    chart.line([(0, 0), (1, 1)], "chance")
    chart.line([(0, 0), *zip(x.tolist(), y.tolist(), strict=True), (1, 1)], "curve")
    if false_alarms is not None and recall is not None:
        chart.dot(false_alarms, recall, "point")
    return chart


def _precision_recall(found: Ranking, recall: float | None, precision: float | None) -> Chart:
    positives = found.found[-1]
    share = positives / (positives + float(found.normals))
    at = found.found / positives
    values = found.found / (found.found + found.after)
    # Steps, as average precision counts them.
    x = np.stack([np.append(0, at[:-1]), at], axis=1).ravel()
    chart = Chart(f"Precision and recall, AP {float(found.average_precision()):.4f}", "recall", "precision")
    chart.line([(0, share), (1, share)], "chance")
    chart.line(list(zip(x.tolist(), np.repeat(values, 2).tolist(), strict=True)), "curve")
    if recall is not None and precision is not None:
        chart.dot(recall, precision, "point")
    return chart


def _histogram(scores: np.ndarray, labels: np.ndarray, thresholds: list[float]) -> Chart:
    """Shares of the good and of the defective images, each of their own total, for these are rarely equally many."""
    low, high = min(scores.min(), thresholds[0]), max(scores.max(), thresholds[-1])
    pad = max(0.02 * (high - low), abs(high) * 1e-6, 1e-9)
    bins = int(np.clip(2 * np.sqrt(len(scores)), 8, MOST_BINS))
    edges = np.linspace(low - pad, high + pad, bins + 1)
    groups = {"normal": scores[~labels], "defective": scores[labels]}
    shares = {name: np.histogram(part, edges)[0] / len(part) for name, part in groups.items() if len(part)}
    top = max(float(heights.max()) for heights in shares.values())
    chart = Chart("Scores", "score", "share of images", (float(edges[0]), float(edges[-1])), (0, 1.05 * top))
    for name, heights in shares.items():
        chart.bars(edges.tolist(), heights.tolist(), name)
    # Images with their own thresholds would make a wall of lines.
    if len(thresholds) == 1:
        chart.line([(thresholds[0], 0), (thresholds[0], 1.05 * top)], "threshold")
    return chart


def _reliability(tails: np.ndarray) -> Chart:
    """The share of good images [N] whose tail probability is at most p, over p; the dashed line is what p promises."""
    ends = (SMALLEST_TAIL, 1.0)
    chart = Chart("Tail probability of good images", "predicted", "observed share", ends, ends, log=True)
    p = np.geomspace(*ends, 60)
    spread = 1.96 * np.sqrt(p * (1 - p) / len(tails))
    band = [*zip(p, p + spread, strict=True), *zip(p[::-1], (p - spread)[::-1], strict=True)]
    chart.area(band, "band")
    chart.line([(ends[0], ends[0]), (1, 1)], "chance")
    predicted, counts = np.unique(tails, return_counts=True)
    share = np.append(0, np.cumsum(counts)) / len(tails)
    x = np.repeat(predicted, 2)
    y = np.stack([share[:-1], share[1:]], axis=1).ravel()
    chart.line([(ends[0], 0), *zip(x.tolist(), y.tolist(), strict=True), (1, 1)], "observed")
    return chart
