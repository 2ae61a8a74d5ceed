"""The page: what was evaluated, all figures, charts of each product, and the images worth a look."""

from __future__ import annotations

from diffad_ray import storage
from diffad_ray.evaluation.figures import Figures
from diffad_ray.evaluation.result import Evaluation
from diffad_ray.reports.evaluation_page.charts import charts
from diffad_ray.reports.evaluation_page.examples import Example, chosen, detected, marked_by_table
from diffad_ray.reports.pages import Card, Cell, FigureTable, Row, data_uri, rendered

OF_IMAGES = {
    "image_auroc": "AUROC",
    "image_ap": "AP",
    "image_f1_max": "F1-max*",
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
    "false_alarm_rate": "false alarms",
}
OF_PIXELS = {"pixel_auroc": "AUROC", "pixel_ap": "AP", "pixel_f1_max": "F1-max*", "aupro": "AUPRO"}


def write_page(evaluation: Evaluation, output: str, detector: str | None) -> None:
    """Write the page of an evaluation to a file or object.

    Args:
        detector: folder or URI of the detector, which detects the shown images again; without it, the table that was
            evaluated tells what is marked in them.

    Raises:
        OSError: it can't be written.
    """
    storage.write(output, page(evaluation, detector).encode())


def page(evaluation: Evaluation, detector: str | None) -> str:
    """The page as text; see `write_page`."""
    has_pixels = any(getattr(figures, name) is not None for _, figures in evaluation.rows() for name in OF_PIXELS)
    sizes = {"whole": f"{evaluation.image_size} × {evaluation.image_size}", "tiles": "the size of the images"}
    return rendered(
        "evaluation.html",
        title=f"{_name(evaluation.detector)} on {_name(evaluation.table or evaluation.dataset)}",
        command="diffad-ray evaluate",
        evaluation=evaluation,
        threshold="each image has its own" if evaluation.threshold is None else f"{evaluation.threshold:.4f}",
        pixels=f"figures are taken at {sizes[evaluation.view]}" if evaluation.view and has_pixels else "",
        figures=_figures(evaluation, OF_IMAGES | (OF_PIXELS if has_pixels else {})),
        has_pixels=has_pixels,
        products={
            name: charts([image for image in evaluation.images if image.product == name], product, f"chart{number}")
            for number, (name, product) in enumerate(evaluation.products.items())
        },
        groups=_groups(evaluation, detector),
        has_maps=detector is not None,
    )


def _name(location: str) -> str:
    return location.rsplit("/", 1)[-1]


def _figures(evaluation: Evaluation, columns: dict[str, str]) -> FigureTable:
    """The table of all figures that `columns` name, with what they are called."""
    sums = ("overall", "mean of products", *evaluation.products)
    groups = {"": ["defective"], "images": list(OF_IMAGES.values())}
    if len(columns) > len(OF_IMAGES):
        groups["pixels"] = list(OF_PIXELS.values())
    rows = [
        Row(name, [Cell(str(figures.images)), *(_cell(figures, metric) for metric in columns)], name in sums)
        for name, figures in evaluation.rows()
    ]
    subject = "kind of defect" if len(evaluation.products) == 1 else "product, kind of defect"
    return FigureTable("Figures of each kind of defect against all good images of its product", subject, groups, rows)


def _cell(figures: Figures, metric: str) -> Cell:
    value = getattr(figures, metric)
    if value is None:
        return Cell("-")
    bounds = figures.intervals.get(metric)
    return Cell(f"{value:.4f}", f"{bounds[0]:.3f} – {bounds[1]:.3f}" if bounds else "")


def _groups(evaluation: Evaluation, detector: str | None) -> dict[str, list[Card]]:
    """The images worth a look, by the titles of their groups."""
    groups = chosen(evaluation)
    every = [image for images in groups.values() for image in images]
    if detector is None:
        examples = iter(marked_by_table(every, evaluation.table or ""))
    else:
        # All at once, for a detector takes long to load.
        examples = iter(detected(every, detector, evaluation.table))
    return {title: [_card(next(examples)) for _ in images] for title, images in groups.items()}


def _card(example: Example) -> Card:
    image = example.image
    return Card(
        title=f"{image.product}, {image.kind}: score {image.score:.4f}, tail probability {image.tail_probability:.2g}",
        source=image.uri,
        pictures={title: data_uri(picture) for title, picture in example.pictures.items()},
        problem=example.problem,
    )
