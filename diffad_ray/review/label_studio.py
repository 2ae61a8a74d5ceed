"""Label Studio's JSON: tasks with the regions of a table as predictions, and the annotations that people made of them.

The labelling configuration needs a RectangleLabels tag called `label` and a Choices tag called `verdict`, both for an
Image tag called `image`; docs/review.md shows it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from diffad_ray.errors import UserError
from diffad_ray.review.found import FoundVerdict
from diffad_ray.review.queue import ReviewImage
from diffad_ray.table.verdicts import WORDS

REGION = "anomaly"
"Label of the boxes that a table's regions become; it is no kind of defect."


def tasks(images: Iterable[tuple[ReviewImage, Sequence[Mapping[str, Any]]]]) -> list[dict[str, Any]]:
    """Return a task for each image with its rows of `regions`; boxes are in percent of the image."""
    return [
        {
            "data": {
                "image": image.image_uri,
                "image_id": str(image.image_id),
                "detector_fingerprint": image.detector_fingerprint,
                "decision": image.decision,
                "score": image.score,
            },
            "predictions": [
                {
                    "model_version": image.detector_fingerprint,
                    "score": image.score,
                    "result": [_box(image, region, number) for number, region in enumerate(regions)],
                }
            ],
        }
        for image, regions in images
    ]


def _box(image: ReviewImage, region: Mapping[str, Any], number: int) -> dict[str, Any]:
    across, down = 100 / image.width, 100 / image.height
    return {
        "id": f"region{number}",
        "type": "rectanglelabels",
        "from_name": "label",
        "to_name": "image",
        "original_width": image.width,
        "original_height": image.height,
        "image_rotation": 0,
        "score": region["peak"],
        "value": {
            "x": region["x"] * across,
            "y": region["y"] * down,
            "width": region["width"] * across,
            "height": region["height"] * down,
            "rotation": 0,
            "rectanglelabels": [REGION],
        },
    }


def is_label_studio(document: object) -> bool:
    return isinstance(document, list) and all(isinstance(task, Mapping) and "data" in task for task in document)


def verdicts_of(document: list[Mapping[str, Any]]) -> Iterable[FoundVerdict]:
    """Yield the verdict of each annotation that was not cancelled.

    A choice decides. Without one, boxes mean a defect, of the kind that the first box is labelled with, and an
    annotation without boxes means good. A task without annotations has no verdict.

    Raises:
        UserError: a task is not as Label Studio writes it.
    """
    for number, task in enumerate(document, 1):
        try:
            data = task["data"]
            for annotation in task.get("annotations", ()):
                if annotation.get("was_cancelled"):
                    continue
                word, kind = _said(annotation.get("result") or ())
                yield FoundVerdict(
                    f"task {number}",
                    data.get("image_id"),
                    str(data["image"]),
                    word,
                    kind,
                    fingerprint=data.get("detector_fingerprint"),
                    reviewer=_reviewer(annotation.get("completed_by")),
                    at=annotation.get("updated_at") or annotation.get("created_at"),
                )
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"task {number} is not as Label Studio exports it ({type(error).__name__}: {error}): export as JSON"
            ) from error


def _said(results: Iterable[Mapping[str, Any]]) -> tuple[str, str | None]:
    chosen: str | None = None
    kinds: list[str] = []
    has_boxes = False
    for result in results:
        value = result["value"]
        words = [word.lower() for word in value.get("choices", ()) if word.lower() in WORDS]
        chosen = words[0] if words else chosen
        has_boxes |= "choices" not in value
        for name, labels in value.items():
            if name.endswith("labels"):
                kinds += [label for label in labels if label.lower() not in (REGION, *WORDS)]
    word = chosen or ("defect" if has_boxes else "good")
    return word, kinds[0] if kinds and word == "defect" else None


def _reviewer(completed_by: object) -> str | None:
    """Return who made an annotation, which is a number, or an object with an address."""
    if isinstance(completed_by, Mapping):
        completed_by = completed_by.get("email") or completed_by.get("id")
    return None if completed_by is None else f"label-studio {completed_by}"
