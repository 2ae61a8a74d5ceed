"""Which images are reviewed, in which order, and which other images help to judge one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import duckdb

from diffad_ray.errors import UserError
from diffad_ray.sql import identifier
from diffad_ray.table.samples import Sample
from diffad_ray.table.views import ask_views

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NEIGHBOURS = 3
"Images before and after an image, in time, that are shown beside it."
MOST_VIEWS = 12
"Other images of a part that are shown beside one of them."
LOWEST = 24
"Images with the lowest scores, of which the mean good image is made."
FEWEST_OF_FOLDER = 8
"With fewer such images in the folder of an image, the mean is over all folders."

COLUMNS = """image_id, image_uri, detector_fingerprint, detector, score, threshold, tail_probability, decision,
    width, height, epoch_us(image_modified) AS taken_us"""
OWN_WORDS = """SELECT image_id FROM (
    FROM all_verdicts WHERE reviewer = getvariable('reviewer')
    QUALIFY row_number() OVER (PARTITION BY image_id ORDER BY reviewed_at DESC) = 1
) WHERE verdict IS NOT NULL"""
"Images that the reviewer has judged."


@dataclass(frozen=True)
class ReviewImage:
    """A row of `scores`, as far as a reviewer needs it.

    Attributes:
        taken_us: when the file was last changed, which is when its camera wrote it; in microseconds since 1970.
        part: the value of the column that tells the parts apart, such as a serial number; None without one.
    """

    image_id: int
    image_uri: str
    detector_fingerprint: str
    detector: str
    score: float
    threshold: float
    tail_probability: float | None
    decision: str
    width: int
    height: int
    taken_us: int | None
    part: str | None = None

    @property
    def taken_at(self) -> datetime | None:
        return None if self.taken_us is None else EPOCH + timedelta(microseconds=self.taken_us)

    @property
    def folder(self) -> str:
        """Location of the folder, with the slash at its end: usually a camera's."""
        return self.image_uri.rpartition("/")[0] + "/"


@dataclass(frozen=True)
class Queue:
    """The images to review in order; `left_out` is the number of further alerts."""

    images: list[ReviewImage]
    left_out: int = 0


class ReviewRows:
    """The rows of a table that a review asks for.

    Args:
        table: its normalised location.
        group_by: the column whose value is the same for all images of a part; None: parts are not known.

    Raises:
        UserError: the table has no such column.
    """

    def __init__(self, table: str, group_by: str | None = None):
        self.table = table
        if group_by is not None:
            columns = ask_views(table, lambda views: views.sql("FROM scores LIMIT 0").columns)
            if group_by not in columns:
                raise UserError(f"the table {table} has no column {group_by}: it has {', '.join(columns)}")
        part = "NULL" if group_by is None else identifier(group_by)
        self._select = f"SELECT {COLUMNS}, {part}::VARCHAR AS part FROM scores"

    def fingerprint(self, detector: str) -> str:
        """Return the fingerprint of a detector that is given by this, by its name, or by the folder of its bundle.

        Raises:
            UserError: no detector of the table, or several, are meant.
        """
        sql = "SELECT DISTINCT detector_fingerprint, detector FROM scores WHERE score IS NOT NULL ORDER BY ALL"
        known = ask_views(self.table, lambda views: views.execute(sql).fetchall())
        names = (detector, detector.rstrip("/").rpartition("/")[2])
        meant = [one for one, name in known if one == detector or name in names]
        if len(meant) == 1:
            return str(meant[0])
        there = ", ".join(f"{one} ({name})" for one, name in known)
        raise UserError(f"--detector {detector} means {len(meant)} detectors: give a fingerprint; there are {there}")

    def alerts(self, reviewer: str, most: int, fingerprint: str | None = None) -> Queue:
        """Return alerts and images of the review band without a verdict of this reviewer, the most severe first.

        The images of a part are together.
        """
        wanted = (
            f"({self._select} WHERE decision IN ('reject', 'review') AND "
            "(getvariable('fingerprint') IS NULL OR detector_fingerprint = getvariable('fingerprint')))"
        )

        def use(views: duckdb.DuckDBPyConnection) -> Queue:
            views.execute("SET VARIABLE reviewer = ?", [reviewer])
            views.execute("SET VARIABLE fingerprint = ?", [fingerprint])
            open_ones = f"{wanted} ANTI JOIN ({OWN_WORDS}) USING (image_id)"
            severity = "coalesce(tail_probability, 1), score - threshold DESC, image_uri"
            ((count,),) = views.execute(f"SELECT count(DISTINCT image_id) FROM {open_ones}").fetchall()
            # An image that several detectors reject is shown once, as the most severe of them sees it.
            once = f"FROM {open_ones} QUALIFY row_number() OVER (PARTITION BY image_id ORDER BY {severity}) = 1"
            worst = f"SELECT * FROM ({once}) ORDER BY {severity} LIMIT {most}"
            together = "min(coalesce(tail_probability, 1)) OVER (PARTITION BY coalesce(part, image_id::VARCHAR)), part"
            images = _images(views, f"FROM ({worst}) ORDER BY {together}, {severity}")
            return Queue(images, count - len(images))

        return ask_views(self.table, use)

    def of_sample(self, sample: Sample) -> Queue:
        """Return the images of a sample in its order; one that the table has no score of any more is left out."""
        order = {image.image_id: (place, image.detector_fingerprint) for place, image in enumerate(sample.images)}
        sql = f"{self._select} WHERE image_id IN (SELECT unnest(?)) AND score IS NOT NULL"
        rows = ask_views(self.table, lambda views: _images(views, sql, [list(order)]))
        images = [row for row in rows if order[row.image_id][1] == row.detector_fingerprint]
        return Queue(sorted(images, key=lambda image: order[image.image_id]), len(order) - len(images))

    def image(self, image_id: int, fingerprint: str | None = None) -> ReviewImage | None:
        """Return the scored row of an image, of one detector or of the one that finds it worst."""
        sql = f"{self._select} WHERE image_id = ? AND score IS NOT NULL ORDER BY tail_probability, score DESC"
        rows = ask_views(self.table, lambda views: _images(views, sql, [image_id]))
        return next((row for row in rows if fingerprint in (None, row.detector_fingerprint)), None)

    def neighbours(self, image: ReviewImage) -> list[ReviewImage]:
        """Return the images of the same folder that were taken next before and after an image, in the order of time."""
        rows = f"{self._select} WHERE {_IN_FOLDER} AND score IS NOT NULL AND detector_fingerprint = ?"
        at, own = "(coalesce(taken_us, 0), image_uri)", "(coalesce(?::BIGINT, 0), ?::VARCHAR)"
        before = f"(FROM ({rows}) WHERE {at} < {own} ORDER BY {at} DESC LIMIT {NEIGHBOURS})"
        after = f"(FROM ({rows}) WHERE {at} > {own} ORDER BY {at} LIMIT {NEIGHBOURS})"
        values = [*_folder(image), image.detector_fingerprint, image.taken_us, image.image_uri]
        sql = f"FROM ({before} UNION ALL {after}) ORDER BY {at}"
        return ask_views(self.table, lambda views: _images(views, sql, values * 2))

    def same_part(self, image: ReviewImage) -> list[ReviewImage]:
        """Return the other images of a part, the worst first."""
        if image.part is None:
            return []
        rows = f"FROM ({self._select}) WHERE part = ? AND image_id <> ? AND score IS NOT NULL"
        once = f"{rows} QUALIFY row_number() OVER (PARTITION BY image_id ORDER BY tail_probability, score DESC) = 1"
        sql = f"FROM ({once}) ORDER BY tail_probability, score DESC LIMIT {MOST_VIEWS}"
        return ask_views(self.table, lambda views: _images(views, sql, [image.part, image.image_id]))

    def good_ones(self, image: ReviewImage) -> list[ReviewImage]:
        """Return images of the same detector, size and, if it has enough, folder, with the lowest scores."""
        alike = f"{self._select} WHERE detector_fingerprint = ? AND width = ? AND height = ? AND decision = 'good'"
        values = [image.detector_fingerprint, image.width, image.height]
        lowest = f"ORDER BY score LIMIT {LOWEST}"

        def use(views: duckdb.DuckDBPyConnection) -> list[ReviewImage]:
            found = _images(views, f"{alike} AND {_IN_FOLDER} {lowest}", [*values, *_folder(image)])
            return found if len(found) >= FEWEST_OF_FOLDER else _images(views, f"{alike} {lowest}", values)

        return ask_views(self.table, use)

    def regions(self, image: ReviewImage) -> list[dict[str, Any]]:
        """Return the rows of `regions` of an image, the highest peak first."""
        return self.regions_of([image]).get((image.image_id, image.detector_fingerprint), [])

    def regions_of(self, images: Sequence[ReviewImage]) -> dict[tuple[int, str], list[dict[str, Any]]]:
        """Return the rows of `regions` by image_id and detector_fingerprint, the highest peak first."""
        columns = "image_id, detector_fingerprint, x, y, width, height, area, peak, mask_runs"
        sql = f"SELECT {columns} FROM regions WHERE image_id IN (SELECT unnest(?::BIGINT[])) ORDER BY image_id, region"
        ids = [image.image_id for image in images]
        rows = ask_views(self.table, lambda views: views.sql(sql, params=[ids]).to_arrow_table().to_pylist())
        found: dict[tuple[int, str], list[dict[str, Any]]] = {}
        for row in rows:
            found.setdefault((row["image_id"], row["detector_fingerprint"]), []).append(row)
        return found


_IN_FOLDER = "image_uri >= ? AND image_uri < ? AND NOT contains(image_uri[length(?::VARCHAR) + 1:], '/')"
"Bounds, by which whole parts of files are skipped, and then no deeper folder."


def _folder(image: ReviewImage) -> list[str]:
    """Return the values of `_IN_FOLDER`."""
    # "0" follows "/" in Unicode.
    return [image.folder, image.folder[:-1] + "0", image.folder]


def _images(views: duckdb.DuckDBPyConnection, sql: str, values: Sequence[object] = ()) -> list[ReviewImage]:
    return [ReviewImage(*row) for row in views.execute(sql, list(values)).fetchall()]
