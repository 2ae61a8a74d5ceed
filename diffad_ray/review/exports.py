"""Exports of a review's images with their regions, for tools in which people label."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from diffad_ray import storage
from diffad_ray.errors import UserError
from diffad_ray.review import coco, label_studio
from diffad_ray.review.queue import ReviewImage
from diffad_ray.review.session import Review

Marked: TypeAlias = Iterable[tuple[ReviewImage, Sequence[Mapping[str, Any]]]]
"Images with their rows of `regions`."
FORMATS: dict[str, Callable[[Marked], Any]] = {"label-studio": label_studio.tasks, "coco": coco.document}


def export(review: Review, to: str, file: str) -> int:
    """Write the images of a review with their regions; return their number.

    Args:
        to: `label-studio` or `coco`.
        file: or URI.

    Raises:
        UserError: another format, or a file that can't be written.
    """
    if to not in FORMATS:
        raise UserError(f"unknown format {to!r}: take one of {', '.join(FORMATS)}")

    def images() -> Iterator[tuple[ReviewImage, list[dict[str, Any]]]]:
        regions = review.rows.regions_of(review.queue.images)
        for image in review.queue.images:
            yield image, regions.get((image.image_id, image.detector_fingerprint), [])

    try:
        storage.write(file, json.dumps(FORMATS[to](images()), indent=1).encode())
    except OSError as error:
        raise UserError(f"{file} can't be written: {error}") from error
    return len(review.queue.images)
