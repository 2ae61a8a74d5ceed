"""The page: what was evaluated, all figures, charts of each product, and the images worth a look."""

from __future__ import annotations

import base64
from html import escape

import cv2
import numpy as np

from diffad_ray import storage
from diffad_ray.evaluation.figures import METRICS, Figures
from diffad_ray.evaluation.result import Evaluation
from diffad_ray.reports.evaluation_page.charts import charts
from diffad_ray.reports.evaluation_page.examples import Example, chosen, detected, marked_by_table
from diffad_ray.reports.evaluation_page.style import STYLE

COLUMNS = {
    "image_auroc": "AUROC",
    "image_ap": "AP",
    "image_f1_max": "F1-max*",
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
    "false_alarm_rate": "false alarms",
    "pixel_auroc": "AUROC",
    "pixel_ap": "AP",
    "pixel_f1_max": "F1-max*",
    "aupro": "AUPRO",
}


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
    title = f"{evaluation.detector.rsplit('/', 1)[-1]} on {(evaluation.table or evaluation.dataset).rsplit('/', 1)[-1]}"
    body = [
        f"<h1>{escape(title)}</h1>",
        _facts(evaluation),
        "<h2>Figures</h2>",
        _figures(evaluation),
        '<p class="pale">* F1-max is an oracle: the F1 at the threshold that the labels themselves would choose. The '
        "threshold in use comes from normal images alone, unless one was given; precision, recall, F1 and false alarms "
        "are taken there. Precision and F1 depend on how many of the test images are defective. The small numbers are "
        "95 % of resamples of the images; where every image is right, they can't show what a larger set would. AUPRO: "
        'the mean covered share of the defective regions, over false-positive rates of pixels up to 0.3. "-": '
        "undefined.</p>",
    ]
    for name, product in evaluation.products.items():
        mine = [image for image in evaluation.images if image.product == name]
        body += [f"<h2>{escape(name)}</h2>", f'<div class="charts">{"".join(charts(mine, product))}</div>']
    body.append(
        '<p class="pale key"><i class="normal"></i>good<i class="defective"></i>defective<i class="threshold"></i>'
        "threshold</p>"
        '<p class="pale">The last chart shows whether tail probabilities hold: over each predicted one, the share of '
        "good images with at most that. On the dashed line they hold; above it there are more false alarms than "
        "promised. The band holds 95 % of what chance does to so many images.</p>"
    )
    for group, images in chosen(evaluation).items():
        body.append(f"<h2>{group}</h2>")
        if not images:
            body.append('<p class="pale">None.</p>')
            continue
        if detector is None:
            examples = marked_by_table(images, evaluation.table or "")
        else:
            examples = detected(images, detector, evaluation.table)
        body.append(f'<div class="examples">{"".join(map(_example, examples))}</div>')
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head>\n<body>'
        + "\n".join(body)
        + "</body></html>\n"
    )


def _facts(evaluation: Evaluation) -> str:
    """What was evaluated on what, and what a reader should know."""
    threshold = "each image's own" if evaluation.threshold is None else f"{evaluation.threshold:.4f}"
    size = {
        "whole": f", pixels at {evaluation.image_size} &times; {evaluation.image_size}",
        "tiles": ", pixels at the size of the images",
    }.get(evaluation.view or "", "")
    used, left_out = evaluation.images, evaluation.unreadable
    source = f"table <code>{escape(evaluation.table)}</code>, " if evaluation.table else ""
    lines = [
        f"Detector <code>{escape(evaluation.detector)}</code> ({escape(evaluation.fingerprint)})",
        f"{source}labels of <code>{escape(evaluation.dataset)}</code> ({escape(evaluation.layout)})",
        f"{evaluation.good} good and {len(used) - evaluation.good} defective images; threshold {threshold}{size}",
        *(f"Note: {escape(note)}" for note in evaluation.notes),
    ]
    if left_out:
        reasons = "".join(f"<li>{escape(uri)}: {escape(why)}</li>" for uri, why in left_out.items())
        lines.append(f"<details><summary>Images left out: {len(left_out)}</summary><ul>{reasons}</ul></details>")
    return "<ul>" + "".join(f"<li>{line}</li>" for line in lines) + "</ul>"


def _figures(evaluation: Evaluation) -> str:
    """The table of all figures."""
    heads = "".join(f"<th{_first(name)}>{title}</th>" for name, title in COLUMNS.items())
    rows = []
    for name, figures in evaluation.rows():
        whole = name in ("overall", "mean of products", *evaluation.products)
        cells = "".join(f"<td{_first(metric)}>{_cell(figures, metric)}</td>" for metric in METRICS)
        style = ' class="whole"' if whole else ""
        rows.append(f"<tr{style}><td>{escape(name)}</td><td>{figures.images}</td>{cells}</tr>")
    return (
        '<div class="wide"><table><tr><th></th><th></th><th colspan="7" class="first group">images</th>'
        f'<th colspan="4" class="first group">pixels</th></tr><tr><th></th><th>defective</th>{heads}</tr>'
        f"{''.join(rows)}</table></div>"
    )


def _first(metric: str) -> str:
    return ' class="first"' if metric in ("image_auroc", "pixel_auroc") else ""


def _cell(figures: Figures, metric: str) -> str:
    value = getattr(figures, metric)
    if value is None:
        return "-"
    bounds = figures.intervals.get(metric)
    return f"{value:.4f}" + (f"<small>{bounds[0]:.3f} - {bounds[1]:.3f}</small>" if bounds else "")


def _example(example: Example) -> str:
    """An image's pictures beside each other, with what is known of it."""
    image = example.image
    pictures = "".join(
        f'<span><img src="{_data(picture)}" alt="{escape(title)}">{escape(title)}</span>'
        for title, picture in example.pictures.items()
    )
    if example.problem:
        pictures = f"<span>can't be shown: {escape(example.problem)}</span>"
    caption = f"{image.product}, {image.kind}: score {image.score:.4f}, tail {image.tail_probability:.2g}"
    return (
        f"<figure><div>{pictures}</div><figcaption>{escape(caption)}<br>"
        f'<span class="pale">{escape(image.uri)}</span></figcaption></figure>'
    )


def _data(picture: np.ndarray) -> str:
    """A picture [H,W,3] within the page."""
    encoded, data = cv2.imencode(".jpg", np.ascontiguousarray(picture[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, 88])
    assert encoded, "8-bit colour pictures of a small size can be written"
    return f"data:image/jpeg;base64,{base64.b64encode(data.tobytes()).decode()}"
