"""`evaluate_table`: compares the scores of a table with a table of labels, without opening images."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from diffad_ray import storage
from diffad_ray.bundles.bundle import load_bundle
from diffad_ray.errors import UserError
from diffad_ray.evaluation.evaluate import check_threshold, supervision
from diffad_ray.evaluation.figures import ScoredImage
from diffad_ray.evaluation.result import Evaluation, Subject, conclude
from diffad_ray.evaluation.verdict_labels import VERDICTS, verdict_labels
from diffad_ray.labels.tables import Label, read_labels
from diffad_ray.labels.words import check_kinds
from diffad_ray.table.views import ask_views

NO_MAPS = "a table keeps scores and no anomaly maps: figures of pixels need the detector and a dataset with masks"


def evaluate_table(
    table: str | Path, labels: str | Path, *, detector: str | Path | None = None, threshold: float | None = None
) -> Evaluation:
    """Compare the scores of a table with labels; pixel figures are undefined.

    The URI of a label, if relative, starts at the folder of the labels. If no image of the table has this URI, the
    label belongs to the single image whose URI ends with a slash and the label's URI.

    Args:
        table: folder or URI of the table.
        labels: file of labels, see `read_labels`, or `verdicts` for what people said in a review of the table.
        detector: folder or URI of the detector whose scores count, if several have scored the images.
        threshold: replaces the thresholds stored in the table.

    Raises:
        UserError: the table or the labels are missing, no label matches, or one matches several images or detectors.
    """
    check_threshold(threshold)
    wanted, location, told = _labels(str(table), str(labels))
    bundle = None if detector is None else load_bundle(str(detector))
    fingerprint = None if bundle is None else bundle.fingerprint
    rows = _rows(str(table), wanted, location, fingerprint)
    if not rows:
        wrong = "" if detector is None else f" of the detector {detector} ({fingerprint})"
        raise _no_match(str(table), str(labels), wanted, wrong)
    images: dict[str, ScoredImage] = {}
    unreadable, names = {}, {}
    scorers: dict[str, set[str]] = defaultdict(set)
    named_by: dict[str, str] = {}
    for number, found in sorted(rows.items()):
        label, row = wanted[number], _only(found, wanted[number])
        uri = row["image_uri"]
        if uri in named_by:
            raise UserError(f"{labels} labels the image {uri} twice, as {named_by[uri]} and as {label.uri}")
        named_by[uri] = label.uri
        if row["status"] != "ok":
            unreadable[uri] = f"{row['status']}: {row['error']}"
            continue
        names[row["detector_fingerprint"]] = row["detector"]
        scorers[label.product].add(row["detector_fingerprint"])
        limit = row["threshold"] if threshold is None else threshold
        mask = label.resolved(location).mask_uri
        images[uri] = ScoredImage(uri, label.product, label.kind, row["score"], limit, row["tail_probability"], mask)
    if not images:
        raise UserError(f"none of the {len(rows)} labelled images of the table {table} has a score: {unreadable}")
    subject = Subject(
        ", ".join(names.values()) if detector is None else storage.normalised(detector),
        ", ".join(names),
        location,
        "verdicts of people" if str(labels) == VERDICTS else "table of labels",
        storage.normalised(table),
    )
    notes = [NO_MAPS, *told, *_notes(wanted, set(rows), scorers)]
    if bundle is not None:
        notes += supervision(bundle, list(images))
    return conclude(subject, list(images.values()), {}, unreadable, notes)


def _labels(table: str, labels: str) -> tuple[list[Label], str, list[str]]:
    """Return the labels, where they are, and what the user should know of them."""
    if labels == VERDICTS:
        wanted, told = verdict_labels(table)
        return wanted, f"{storage.normalised(table)}/{VERDICTS}", told
    wanted, location = read_labels(labels), storage.normalised(labels)
    check_kinds((label.kind for label in wanted), location)
    return wanted, location, []


def _no_match(table: str, labels: str, wanted: list[Label], wrong: str) -> UserError:
    """The error of labels that name no scored image, with an example of either side."""
    sql = "SELECT min(image_uri), list(DISTINCT detector || ' (' || detector_fingerprint || ')') FROM scores"
    ((example, scorers_there),) = ask_views(table, lambda views: views.execute(sql).fetchall())
    return UserError(
        f"none of the {len(wanted)} labels of {labels} names an image of the table {table} with a score{wrong}: "
        f"the first label is {wanted[0].uri}, the table's first image is {example}, and it has scores of "
        f"{', '.join(sorted(scorers_there))}"
    )


def _notes(wanted: list[Label], found: set[int], scorers: dict[str, set[str]]) -> list[str]:
    """Say which labels name no image, and which products several detectors have scored."""
    notes = []
    if missing := len(wanted) - len(found):
        first = next(label.uri for number, label in enumerate(wanted) if number not in found)
        notes.append(f"{missing} of {len(wanted)} labels name no image of the table, such as {first}")
    return notes + [
        f"{product} was scored by {len(several)} detectors, whose scores do not compare: give each a product of its own"
        for product, several in scorers.items()
        if len(several) > 1
    ]


def _rows(table: str, labels: list[Label], location: str, fingerprint: str | None) -> dict[int, list[dict[str, Any]]]:
    """Return the table rows that match each label, by the label's index; the last scored row is first."""
    places = pa.table(
        {
            "number": range(len(labels)),
            "given": [label.uri.removeprefix("./") for label in labels],
            "uri": [label.resolved(location).uri for label in labels],
            "name": [label.uri.rpartition("/")[2] for label in labels],
        }
    )
    # The join is on the file name, because a join on ends_with alone would compare each label with each image.
    sql = (
        "SELECT number, image_uri, status, error, score, threshold, tail_probability, detector, detector_fingerprint, "
        "image_uri = uri AS is_exact FROM scores JOIN places ON regexp_extract(image_uri, '[^/]*$') = name "
        "WHERE (image_uri = uri OR ends_with(image_uri, '/' || given)) AND (?1 IS NULL OR detector_fingerprint = ?1) "
        "ORDER BY scored_at DESC"
    )

    def use(views: duckdb.DuckDBPyConnection) -> list[dict[str, Any]]:
        views.register("places", places)
        return views.sql(sql, params=[fingerprint]).to_arrow_table().to_pylist()

    found: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for row in ask_views(table, use):
        found[row["number"]].append(row)
    return found


def _only(rows: list[dict[str, Any]], label: Label) -> dict[str, Any]:
    """Return the last scored row that matches a label; raises UserError for several images or detectors."""
    rows = [row for row in rows if row["is_exact"]] or rows
    uris = sorted({row["image_uri"] for row in rows})
    if len(uris) > 1:
        raise UserError(f"{len(uris)} images of the table are called {label.uri}, such as {uris[0]} and {uris[1]}")
    detectors = sorted({f"{row['detector']} ({row['detector_fingerprint']})" for row in rows})
    if len(detectors) > 1:
        raise UserError(
            f"{uris[0]} has scores of {' and '.join(detectors)}: name the detector's folder, as in "
            "`diffad-ray evaluate DETECTOR --table TABLE --labels FILE`"
        )
    return rows[0]
