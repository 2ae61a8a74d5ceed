"""The result of an evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter

from diffad_ray.evaluation.figures import OVERALL, Figures, ProductFigures, ScoredImage, figures_of
from diffad_ray.evaluation.pixels import PixelCounts


@dataclass(frozen=True)
class Subject:
    """What was evaluated on what.

    Attributes:
        detector, fingerprint: name and fingerprint of the detector; several in a table are separated by commas.
        dataset, layout: location of the labels, and the recognised layout.
        table: the scored table, if its scores were used.
        image_size, view: settings of the detector. Pixel figures are computed at the size of the maps: image_size x
            image_size in the view `whole`, the size of the (shrunk) image, up to 4 megapixels, in the view `tiles`.
            Masks are resized to this size by area means and binarised at 0.5; a region that would be lost keeps the
            pixels that it covers most. None for a table, which has no pixel figures.
    """

    detector: str
    fingerprint: str
    dataset: str
    layout: str
    table: str | None = None
    image_size: int | None = None
    view: str | None = None


@dataclass(frozen=True, kw_only=True)
class Evaluation(Subject):
    """Figures and scores of a detector on labelled images.

    Attributes:
        threshold: an image is called anomalous if its score is at least this; None if images have different thresholds.
        good: number of good images.
        figures: `overall`, the mean over products, and figures by kind of defect if there is one product.
        products: figures by name of the product.
        unreadable: reasons by URI of the images that could not be used.
        notes: sentences that qualify the figures.
        images: scored images, highest score first.
    """

    threshold: float | None
    good: int
    figures: dict[str, Figures]
    products: dict[str, ProductFigures]
    unreadable: dict[str, str]
    notes: list[str]
    images: list[ScoredImage] = field(repr=False)

    def rows(self) -> Iterator[tuple[str, Figures]]:
        """Yield titles and figures in the order of a report: products with their kinds, and the mean."""
        if len(self.products) == 1:
            yield from self.figures.items()
            return
        for name, product in self.products.items():
            for kind, figures in product.figures.items():
                yield (name if kind == OVERALL else f"{name}, {kind}"), figures
        yield "mean of products", self.figures[OVERALL]


def conclude(
    subject: Subject,
    images: Sequence[ScoredImage],
    pixels: Mapping[tuple[str, str], PixelCounts | None],
    unreadable: dict[str, str],
    notes: list[str],
) -> Evaluation:
    """Compute the evaluation of one or more scored images; see `Evaluation` and `figures_of`."""
    products, mean, more_notes = figures_of(images, pixels)
    thresholds = {image.threshold for image in images}
    return Evaluation(
        **vars(subject),
        threshold=thresholds.pop() if len(thresholds) == 1 else None,
        good=sum(product.good for product in products.values()),
        figures=next(iter(products.values())).figures if len(products) == 1 else {OVERALL: mean},
        products=products,
        unreadable=unreadable,
        notes=[*notes, *more_notes],
        images=sorted(images, key=attrgetter("score"), reverse=True),
    )
