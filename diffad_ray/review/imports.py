"""Verdicts from files: of the page in one file, of Label Studio, and of COCO; the content tells which it is."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import duckdb
import pyarrow as pa

from diffad_ray import storage
from diffad_ray.errors import UserError, counted
from diffad_ray.review import coco, label_studio
from diffad_ray.review.entries import FORMAT, VERSION, time_of
from diffad_ray.review.found import FoundVerdict
from diffad_ray.table.reading import existing
from diffad_ray.table.samples import sample_ids
from diffad_ray.table.verdicts import Verdict, add_verdicts
from diffad_ray.table.views import ask_views

MOST_BYTES = 500_000_000
OWN, LABEL_STUDIO, COCO = "the review page", "Label Studio", "COCO"

PLACES = """SELECT number, image_id, image_uri FROM (
    SELECT number, scores.image_id, scores.image_uri,
        row_number() OVER (PARTITION BY number ORDER BY scored_at DESC) AS place,
        count(DISTINCT scores.image_uri) OVER (PARTITION BY number) AS images
    FROM places JOIN scores ON {condition}
) WHERE place = 1 AND images = 1"""
BY_ID = "scores.image_id = places.id"
BY_NAME = """places.id IS NULL AND regexp_extract(scores.image_uri, '[^/]*$') = places.name
    AND (scores.image_uri = places.uri OR ends_with(scores.image_uri, '/' || places.uri))"""
"The join is on the file name, because a join on ends_with alone would compare each entry with each image."


@dataclass(frozen=True)
class Imported:
    """What an import did.

    Attributes:
        source: of the file.
        added: verdicts that the table did not have; `known`: that it had already.
        without_image: entries that name no image of the table, or several; `example`: one of them.
    """

    source: str
    added: int
    known: int
    without_image: int
    example: str = ""

    def lines(self) -> list[str]:
        told = [f"{counted(self.added, 'verdict')} of {self.source} added, {self.known} were there already"]
        if self.without_image:
            told.append(
                f"{self.without_image} left out: they name no single image of the table, such as {self.example}"
            )
        return told


def import_verdicts(table: str, file: str, reviewer: str) -> Imported:
    """Add the verdicts of a file to a table. The same file again adds nothing.

    Args:
        file: location of JSON of the page, of Label Studio or of COCO.
        reviewer: name for verdicts that have none.

    Raises:
        UserError: the file can't be read or understood, or names no image of the table. Nothing is added then.
    """
    location = existing(table)
    source, entries = _understood(_content(file), file)
    if not entries:
        raise UserError(f"{file} of {source} holds no verdict")
    samples = set(sample_ids(location))
    for entry in entries:
        if entry.sample is not None and entry.sample not in samples:
            raise UserError(f"{entry.where} of {file} belongs to the sample {entry.sample}, which {location} lacks")

    def use(views: duckdb.DuckDBPyConnection) -> tuple[dict[int, tuple[int, str]], dict[Any, Any], set[Any]]:
        words = views.execute(
            "SELECT image_id, reviewer, verdict, kind FROM all_verdicts "
            "QUALIFY row_number() OVER (PARTITION BY image_id, reviewer ORDER BY reviewed_at DESC) = 1"
        ).fetchall()
        keys = views.execute("SELECT image_id, reviewer, epoch_us(reviewed_at) FROM all_verdicts").fetchall()
        return _found_images(views, entries), {(a, b): (c, d) for a, b, c, d in words}, set(keys)

    images, words, keys = ask_views(location, use)
    missing = [entry for number, entry in enumerate(entries) if number not in images]
    if len(missing) == len(entries):
        raise UserError(
            f"none of the {len(entries)} verdicts of {file} names one image of {location}: the first is "
            f"{_named(missing[0])}"
        )
    now = datetime.now(UTC)
    new = []
    for number, (image_id, uri) in sorted(images.items()):
        verdict = _verdict(entries[number], file, reviewer, now)
        verdict = replace(verdict, image_id=image_id, image_uri=uri)
        mine = (image_id, verdict.reviewer)
        is_known = (*mine, _microseconds(verdict.reviewed_at)) in keys
        # A file without times says nothing new where the reviewer's last word is the same.
        is_known |= entries[number].at is None and words.get(mine) == (verdict.verdict, verdict.kind)
        if not is_known:
            new.append(verdict)
    if new:
        add_verdicts(location, new)
    example = _named(missing[0]) if missing else ""
    return Imported(source, len(new), len(images) - len(new), len(missing), example)


def _content(file: str) -> Any:
    try:
        data = storage.read(file)
    except OSError as error:
        raise UserError(f"the verdicts can't be read: {error}") from error
    if len(data) > MOST_BYTES:
        raise UserError(f"{file} has {len(data):,} bytes; {MOST_BYTES:,} are allowed: divide it")
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is no JSON: {error}") from error


def _understood(content: Any, file: str) -> tuple[str, list[FoundVerdict]]:
    if isinstance(content, Mapping) and content.get("format") == FORMAT:
        if content.get("version") != VERSION:
            raise UserError(
                f"{file} has the version {content.get('version')!r}; this code knows {VERSION}: update diffad-ray"
            )
        return OWN, _own(content.get("verdicts"), file)
    if coco.is_coco(content):
        return COCO, list(coco.verdicts_of(content))
    if label_studio.is_label_studio(content):
        return LABEL_STUDIO, list(label_studio.verdicts_of(content))
    raise UserError(
        f"{file} is none of the files that are known: JSON that the page in one file hands back, Label Studio's export "
        "as JSON, or COCO"
    )


def _own(entries: Any, file: str) -> list[FoundVerdict]:
    if not isinstance(entries, list):
        raise UserError(f"{file} has no list of verdicts")
    names = (
        "image_id",
        "image_uri",
        "verdict",
        "kind",
        "note",
        "detector_fingerprint",
        "reviewer",
        "reviewed_at",
        "sample",
    )
    found = []
    for number, entry in enumerate(entries, 1):
        where = f"verdict {number}"
        values = [entry.get(name) for name in names] if isinstance(entry, Mapping) else [0]
        if not all(value is None or isinstance(value, str) for value in values):
            raise UserError(f"{where} of {file} must be an object whose entries are texts")
        if lacking := [name for name in ("image_id", "image_uri", "reviewer", "reviewed_at") if not entry.get(name)]:
            raise UserError(f"{where} of {file} lacks {' and '.join(lacking)}")
        found.append(FoundVerdict(where, *values))
    return found


def _verdict(entry: FoundVerdict, file: str, reviewer: str, now: datetime) -> Verdict:
    """Return the verdict of an entry whose image is not set yet."""
    try:
        at = now if entry.at is None else time_of(entry.at)
        return Verdict(
            0,
            entry.image_uri,
            entry.fingerprint,
            entry.verdict,  # type: ignore[arg-type]  # its class checks it
            entry.reviewer or reviewer,
            at,
            entry.kind,
            entry.note,
            entry.sample,
        )
    except (ValueError, UserError) as error:
        raise UserError(f"{entry.where} of {file} can't be taken: {error}") from error


def _found_images(views: duckdb.DuckDBPyConnection, entries: Iterable[FoundVerdict]) -> dict[int, tuple[int, str]]:
    """Return image_id and URI of the table's image that each entry names, by the entry's number."""
    rows = [
        {
            "number": number,
            "id": _number(entry.image_id),
            "uri": entry.image_uri,
            "name": entry.image_uri.rpartition("/")[2],
        }
        for number, entry in enumerate(entries)
    ]
    columns = [("number", pa.int64()), ("id", pa.int64()), ("uri", pa.string()), ("name", pa.string())]
    views.register("places", pa.Table.from_pylist(rows, pa.schema(columns)))
    found = {}
    for condition in (BY_NAME, BY_ID):
        for number, image_id, uri in views.execute(PLACES.format(condition=condition)).fetchall():
            found[number] = (image_id, uri)
    return found


def _number(image_id: str | None) -> int | None:
    """Return an image_id as a number; None where there is none, or none of 64 bits."""
    try:
        number = int(image_id or "")
    except ValueError:
        return None
    return number if -(2**63) <= number < 2**63 else None


def _microseconds(at: datetime) -> int:
    return (at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def _named(entry: FoundVerdict) -> str:
    return f"{entry.image_uri or entry.image_id} ({entry.where})"
