"""The figures of an evaluation: per kind of defect, per product, and their mean over products."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields

import numpy as np

from diffad_ray.evaluation.bootstrap import interval, resampled
from diffad_ray.evaluation.metrics import at_threshold, auroc, average_precision, f1_max
from diffad_ray.evaluation.pixels import PixelCounts
from diffad_ray.labels.datasets import GOOD

OVERALL = "overall"


@dataclass(frozen=True)
class ScoredImage:
    """A labelled image with its score; the image is called anomalous if `score >= threshold`."""

    uri: str
    product: str
    kind: str
    score: float
    threshold: float
    tail_probability: float
    mask_uri: str | None


@dataclass(frozen=True)
class Figures:
    """Figures of one kind of defect, or of all kinds, against all good images of the product; None where undefined.

    Both F1-max values are oracles: their thresholds are chosen on the test labels.
    """

    images: int
    "number of defective images"
    image_auroc: float | None = None
    image_ap: float | None = None
    image_f1_max: float | None = None
    precision: float | None = None
    recall: float | None = None
    f1: float | None = None
    false_alarm_rate: float | None = None
    pixel_auroc: float | None = None
    pixel_ap: float | None = None
    pixel_f1_max: float | None = None
    aupro: float | None = None
    "area under the per-region overlap up to a false-positive rate of 0.3"
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    "95 % intervals of the image figures, by name; see `bootstrap`"


METRICS = tuple(f.name for f in fields(Figures) if f.name not in ("images", "intervals"))


@dataclass(frozen=True)
class ProductFigures:
    """Figures of a product by kind of defect; the first entry is `overall`."""

    good: int
    "number of good images"
    figures: dict[str, Figures]


def figures_of(
    images: Sequence[ScoredImage], pixels: Mapping[tuple[str, str], PixelCounts | None]
) -> tuple[dict[str, ProductFigures], Figures, list[str]]:
    """Compute the figures of each product, their mean over products, and notes on undefined or inexact figures.

    Args:
        images: scored images.
        pixels: pixel counts by product and kind; None or absent where the kind's pixel figures are undefined.
    """
    products, notes = {}, []
    replicates = []
    for product in sorted({image.product for image in images}):
        mine = [image for image in images if image.product == product]
        kinds = np.array([image.kind for image in mine])
        scores, thresholds = (np.array([getattr(i, name) for i in mine]) for name in ("score", "threshold"))
        figures = {}
        for kind in [OVERALL, *sorted(set(kinds.tolist()) - {GOOD})]:
            wanted = set(kinds.tolist()) if kind == OVERALL else {GOOD, kind} & set(kinds.tolist())
            chosen = np.isin(kinds, list(wanted))
            labels = kinds[chosen] != GOOD
            again = resampled(scores[chosen], labels, (scores >= thresholds)[chosen])
            if kind == OVERALL:
                replicates.append(again)
            parts = [pixels.get((product, k)) for k in wanted]
            known = [part for part in parts if part is not None]
            counts = PixelCounts.sum(known) if len(known) == len(parts) else None
            figures[kind] = _figures(scores[chosen], labels, thresholds[chosen], counts, again)
            if counts is not None and counts.dropped_bits:
                notes.append(f"{product}, {kind}: pixel figures are of values cut to {23 - counts.dropped_bits} bits")
        products[product] = ProductFigures(int((kinds == GOOD).sum()), figures)
        notes += _notes(product, kinds, scores, thresholds)
    mean = _mean([one.figures[OVERALL] for one in products.values()], replicates)
    if len(products) > 1:
        over: dict[int, list[str]] = {}
        for name in METRICS:
            defined = sum(getattr(one.figures[OVERALL], name) is not None for one in products.values())
            if 0 < defined < len(products):
                over.setdefault(defined, []).append(name.replace("_", " "))
        notes += [
            f"means are over the {defined} of {len(products)} products that have the figure: {', '.join(names)}"
            for defined, names in over.items()
        ]
    return products, mean, notes


def _figures(
    scores: np.ndarray,
    labels: np.ndarray,
    thresholds: np.ndarray,
    pixels: PixelCounts | None,
    again: dict[str, np.ndarray],
) -> Figures:
    """Compute the figures of images [N], with intervals from their resamples `again`."""
    judged = at_threshold(scores, labels, thresholds)
    values = {
        "image_auroc": auroc(scores, labels),
        "image_ap": average_precision(scores, labels),
        "image_f1_max": f1_max(scores, labels),
        **judged._asdict(),
    }
    if pixels is not None:
        values |= {
            "pixel_auroc": pixels.auroc(),
            "pixel_ap": pixels.average_precision(),
            "pixel_f1_max": pixels.f1_max(),
            "aupro": pixels.aupro(),
        }
    bounds = {name: interval(again[name]) for name in again if values[name] is not None}
    return Figures(int(labels.sum()), **values, intervals=bounds)


def _mean(products: list[Figures], replicates: list[dict[str, np.ndarray]]) -> Figures:
    """Average each figure over the products that have it; the interval needs resamples of all of these products."""
    means, bounds = {}, {}
    for name in METRICS:
        values = [getattr(one, name) for one in products]
        defined = [k for k, value in enumerate(values) if value is not None]
        means[name] = float(np.mean([values[k] for k in defined])) if defined else None
        if defined and all(name in replicates[k] for k in defined):
            bounds[name] = interval(np.mean([replicates[k][name] for k in defined], axis=0))
    return Figures(sum(one.images for one in products), **means, intervals=bounds)


def _notes(product: str, kinds: np.ndarray, scores: np.ndarray, thresholds: np.ndarray) -> list[str]:
    """Return notes that qualify a product's figures."""
    notes = []
    good, defective = int((kinds == GOOD).sum()), int((kinds != GOOD).sum())
    if good == 0:
        notes.append(f"{product} has no good images: of the figures of images only the recall is defined")
    elif defective == 0:
        notes.append(f"{product} has no defective images: only the false-alarm rate is defined")
    elif scores.min() == scores.max():
        notes.append(
            f"{product}: all {len(scores)} images have the score {scores[0]:.6g}, so that no figure says anything"
        )
    if defective and (scores < thresholds).all():
        notes.append(f"{product}: no image reaches the threshold, the highest score is {scores.max():.6g}")
    if min(good, defective) == 1:
        one = "good" if good == 1 else "defective"
        notes.append(f"{product} has one {one} image: figures of images have no intervals, and say little")
    return notes
