"""A review of a table: the images to judge, what has been said of them, and what the page shows of both."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import duckdb

from diffad_ray.analytics.estimates import estimate
from diffad_ray.analytics.sampling import continued_sample, draw_sample
from diffad_ray.errors import UserError
from diffad_ray.reports.estimates_text import estimate_lines
from diffad_ray.reports.review_page.pictures import LONGEST
from diffad_ray.review.queue import Queue, ReviewImage, ReviewRows
from diffad_ray.table.reading import existing
from diffad_ray.table.samples import Sample, read_sample
from diffad_ray.table.views import ask_views

MOST_KINDS = 50
MOST_KNOWN = 20_000
"Rows that are kept in memory because their pictures were or will be asked for."
OWN_LAST = """SELECT image_id, verdict, kind, note FROM (
    FROM all_verdicts WHERE reviewer = ? AND image_id IN (SELECT unnest(?::BIGINT[])) {of_sample}
    QUALIFY row_number() OVER (PARTITION BY image_id ORDER BY reviewed_at DESC) = 1
) WHERE verdict IS NOT NULL"""


@dataclass(frozen=True)
class Wanted:
    """What is to be reviewed.

    Attributes:
        reviewer: name under which verdicts are stored, unless the page names another.
        sample: number of images of a random sample, or the id of one; None reviews the alerts.
        fresh: draw a new sample even if one of this size is not finished.
        detector: fingerprint, name or folder of the detector whose scores count; None: all detectors.
        group_by: column that is the same for all images of a part.
        most: alerts that are taken, the most severe first.
    """

    reviewer: str
    sample: str | None = None
    fresh: bool = False
    detector: str | None = None
    group_by: str | None = None
    most: int = 1000


@dataclass(frozen=True)
class Review:
    """A review that has begun."""

    table: str
    wanted: Wanted
    rows: ReviewRows
    queue: Queue
    sample: Sample | None
    _known: dict[int, ReviewImage] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self._known.update((image.image_id, image) for image in self.queue.images)

    @property
    def store(self) -> str:
        """Name under which browsers keep verdicts of this table."""
        return hashlib.sha256(self.table.encode()).hexdigest()[:16]

    def data(self, now: datetime | None = None) -> dict[str, Any]:
        """Return what the page needs to begin, as JSON."""
        of_sample = "AND sample = ?" if self.sample else ""
        values = [self.wanted.reviewer, [image.image_id for image in self.queue.images]]
        values += [self.sample.id] if self.sample else []

        def use(views: duckdb.DuckDBPyConnection) -> tuple[list[Any], list[Any]]:
            own = views.execute(OWN_LAST.format(of_sample=of_sample), values).fetchall()
            counted = (
                f"SELECT kind FROM verdicts WHERE kind IS NOT NULL GROUP BY 1 ORDER BY count(*) DESC LIMIT {MOST_KINDS}"
            )
            return own, views.execute(counted).fetchall()

        own, kinds = ask_views(self.table, use)
        return {
            "table": self.table,
            "store": self.store,
            "reviewer": self.wanted.reviewer,
            "sample": self.sample.id if self.sample else None,
            "left_out": self.queue.left_out,
            "view_side": LONGEST["view"],
            "now": (now or datetime.now(UTC)).isoformat(),
            "kinds": [kind for (kind,) in kinds],
            "words": {str(image): {"verdict": word, "kind": kind, "note": note} for image, word, kind, note in own},
            "images": [image_data(image) for image in self.queue.images],
        }

    def image(self, image_id: int, fingerprint: str | None = None) -> ReviewImage | None:
        """Return a scored image of the table, also one that is not in the queue; None: there is none."""
        known = self._known.get(image_id)
        if known is not None and fingerprint in (None, known.detector_fingerprint):
            return known
        return self.rows.image(image_id, fingerprint)

    def around(self, image: ReviewImage) -> dict[str, Any]:
        """Return the neighbours of an image in time, and the other images of its part."""
        neighbours, part = self.rows.neighbours(image), self.rows.same_part(image)
        if len(self._known) > MOST_KNOWN:
            self._known.clear()
        # Their pictures are asked for next, by their ids; a search for an id reads the whole table.
        for one in (*neighbours, *part, *self.queue.images):
            self._known[one.image_id] = one
        return {"neighbours": [image_data(one) for one in neighbours], "part": [image_data(one) for one in part]}

    def estimate(self) -> dict[str, Any]:
        """Return the lines that the page shows once a sample is judged."""
        if self.sample is None:
            raise UserError("alerts are no random sample: review one with --sample to estimate escapes and overkill")
        return {"lines": estimate_lines(estimate(self.table, self.sample.id))}


def open_review(table: str, wanted: Wanted) -> Review:
    """Find the images that are wanted; a sample is drawn, or the newest one is continued.

    Raises:
        UserError: there is no table, detector, column, sample or image of it.
    """
    location = existing(table)
    rows = ReviewRows(location, wanted.group_by)
    fingerprint = rows.fingerprint(wanted.detector) if wanted.detector else None
    if wanted.sample is None:
        return Review(location, wanted, rows, rows.alerts(wanted.reviewer, wanted.most, fingerprint), None)
    sample = _sample(location, wanted, fingerprint)
    return Review(location, wanted, rows, rows.of_sample(sample), sample)


def _sample(table: str, wanted: Wanted, fingerprint: str | None) -> Sample:
    assert wanted.sample is not None
    if not wanted.sample.isdecimal():
        return read_sample(table, wanted.sample)
    images = int(wanted.sample)
    found = None if wanted.fresh else continued_sample(table, images, fingerprint)
    return found or draw_sample(table, images, fingerprint)


def image_data(image: ReviewImage) -> dict[str, Any]:
    """Return an image as JSON for the page; ids are texts, because numbers of 64 bits are too long for browsers."""
    return {
        "id": str(image.image_id),
        "uri": image.image_uri,
        "name": image.image_uri.rpartition("/")[2],
        "folder": image.folder,
        "detector": image.detector,
        "fingerprint": image.detector_fingerprint,
        "score": image.score,
        "threshold": image.threshold,
        "tail_probability": image.tail_probability,
        "decision": image.decision,
        "width": image.width,
        "height": image.height,
        "taken_at": image.taken_at.isoformat(timespec="seconds") if image.taken_at else None,
        "part": image.part,
        "mean": mean_key(image),
    }


def mean_key(image: ReviewImage) -> str:
    """Return a text that is the same for images which share their mean good image."""
    return f"{image.detector_fingerprint} {image.width} {image.height} {image.folder}"
