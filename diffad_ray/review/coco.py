"""COCO's JSON: images, boxes and categories, from a table's regions and back to verdicts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from diffad_ray.errors import UserError
from diffad_ray.review.found import FoundVerdict
from diffad_ray.review.queue import ReviewImage
from diffad_ray.table.verdicts import WORDS

REGION = "anomaly"
OWN = "detector_fingerprint"
"Annotations with this entry are the table's own, and no person's."


def document(images: Iterable[tuple[ReviewImage, Sequence[Mapping[str, Any]]]]) -> dict[str, Any]:
    """Return images with their rows of `regions` as boxes of the category `anomaly`, in pixels."""
    found: dict[str, Any] = {"images": [], "annotations": [], "categories": [{"id": 1, "name": REGION}]}
    for number, (image, regions) in enumerate(images, 1):
        found["images"].append(
            {
                "id": number,
                "file_name": image.image_uri,
                "width": image.width,
                "height": image.height,
                "diffad_image_id": str(image.image_id),
                "diffad_decision": image.decision,
            }
        )
        for region in regions:
            box = [region[side] for side in ("x", "y", "width", "height")]
            found["annotations"].append(
                {
                    "id": len(found["annotations"]) + 1,
                    "image_id": number,
                    "category_id": 1,
                    "bbox": box,
                    "area": region["area"],
                    "iscrowd": 0,
                    "score": region["peak"],
                    OWN: image.detector_fingerprint,
                }
            )
    return found


def is_coco(found: object) -> bool:
    return isinstance(found, Mapping) and {"images", "annotations", "categories"} <= found.keys()


def verdicts_of(found: Mapping[str, Any]) -> Iterable[FoundVerdict]:
    """Yield the verdict of each image.

    An entry `verdict` of an image decides. Without one, annotations that a person made mean a defect, of the kind of
    the first one's category, and an image without annotations is good. An image with none but the table's own
    annotations, unchanged, has no verdict.

    Raises:
        UserError: the document is not as COCO's format says.
    """
    try:
        names = {category["id"]: str(category["name"]) for category in found["categories"]}
        by_image: dict[Any, list[Mapping[str, Any]]] = {}
        for annotation in found["annotations"]:
            by_image.setdefault(annotation["image_id"], []).append(annotation)
        for image in found["images"]:
            marks = by_image.get(image["id"], [])
            own = [mark for mark in marks if OWN in mark and names[mark["category_id"]] == REGION]
            word = image.get("verdict")
            if word is None and marks and len(own) == len(marks):
                continue
            kinds = [names[mark["category_id"]] for mark in marks]
            kinds = [kind for kind in kinds if kind.lower() not in (REGION, *WORDS)]
            word = word or ("defect" if marks else "good")
            yield FoundVerdict(
                f"image {image['id']}",
                image.get("diffad_image_id"),
                str(image["file_name"]),
                word,
                kinds[0] if kinds and word == "defect" else None,
            )
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"the file is not as COCO's format says ({type(error).__name__}: {error})") from error
