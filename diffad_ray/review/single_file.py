"""The review page as one file with its images, for those who may not open a port."""

from __future__ import annotations

import base64
import secrets
from typing import Any

from diffad_ray import storage
from diffad_ray.errors import UserError
from diffad_ray.reports.review_page.page import review_page
from diffad_ray.reports.review_page.pictures import mean_jpeg, original_jpeg, outlines
from diffad_ray.review.queue import ReviewImage
from diffad_ray.review.session import Review, mean_key

MOST_IMAGES = 500
MOST_BYTES = 100_000_000
"Of all pictures together, as JPEG; the file is a third larger."
LONGEST_SIDE = 1200


def write_single_file(review: Review, out: str, most_bytes: int = MOST_BYTES) -> list[str]:
    """Write the page with the images of a review; return what was left out, in sentences.

    The page hands back a JSON file, which `import_verdicts` takes.

    Raises:
        UserError: no image can be shown, or the file can't be written.
    """
    content = _Content(review, most_bytes)
    for image in review.queue.images[:MOST_IMAGES]:
        content.add(image)
    if not content.pictures:
        raise UserError(f"no image of this review can be shown: {content.example or 'there is none to review'}")
    data = review.data()
    left_out = len(review.queue.images) - len(content.pictures) + review.queue.left_out
    data |= {
        # Another file of the same table is another review: what was said in one is not handed back by the other.
        "store": f"{review.store}-{secrets.token_hex(4)}",
        "images": [image for image in data["images"] if image["id"] in content.pictures],
        "pictures": content.pictures,
        "outlines": content.outlines,
        "means": content.means,
        "left_out": left_out,
    }
    try:
        storage.write(out, review_page(data).text.encode())
    except OSError as error:
        raise UserError(f"the page can't be written: {error}") from error
    return content.notes(left_out)


class _Content:
    """Pictures, outlines and means of a file, within its bytes."""

    def __init__(self, review: Review, most_bytes: int):
        self._review = review
        self._left = most_bytes
        self._regions = review.rows.regions_of(review.queue.images[:MOST_IMAGES])
        self.pictures: dict[str, str] = {}
        self.outlines: dict[str, list[dict[str, Any]]] = {}
        self.means: dict[str, str | None] = {}
        self.too_many = 0
        self.unreadable = 0
        self.example = ""

    def add(self, image: ReviewImage) -> None:
        size = (image.width, image.height)
        if self._left <= 0:
            self.too_many += 1
            return
        try:
            picture = original_jpeg(image.image_uri, size, LONGEST_SIDE)
        except UserError as error:
            self.unreadable += 1
            self.example = self.example or str(error)
            return
        if not self._has_room(picture):
            self.too_many += 1
            return
        key, regions = mean_key(image), self._regions.get((image.image_id, image.detector_fingerprint), [])
        self.pictures[str(image.image_id)] = _uri(picture)
        self.outlines[str(image.image_id)] = outlines(regions)
        if key not in self.means:
            mean = mean_jpeg([one.image_uri for one in self._review.rows.good_ones(image)], size)
            self.means[key] = _uri(mean) if mean is not None and self._has_room(mean) else None

    def _has_room(self, picture: bytes) -> bool:
        fits = len(picture) <= self._left
        # Once something did not fit, nothing smaller takes its place: the order is that of severity, or random.
        self._left = self._left - len(picture) if fits else 0
        return fits

    def notes(self, left_out: int) -> list[str]:
        """Return what was left out, and why."""
        if not left_out:
            return []
        notes = [f"{len(self.pictures)} images are in the file, {left_out} are left out"]
        if self.too_many:
            notes.append(f"{self.too_many} of them because a file holds {MOST_BYTES:,} bytes of pictures at most")
        if self.unreadable:
            notes.append(f"{self.unreadable} of them can't be shown, such as: {self.example}")
        return notes


def _uri(picture: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(picture).decode()}"
