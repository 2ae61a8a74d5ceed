"""The selection: the images of an archive that a run may score, each with its detector and its columns.

DuckDB writes it to a Parquet file in a scratch folder, with bounded memory. The table is not changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import duckdb
import pyarrow as pa

from diffad_ray.bundles.bundle import Bundle
from diffad_ray.errors import UserError
from diffad_ray.scoring.archive import Archive, open_archive
from diffad_ray.scoring.first_look import OpenGate
from diffad_ray.scoring.patterns import PathTemplate, enters, glob_regex, matches_any
from diffad_ray.scoring.settings import ScoringSettings
from diffad_ray.sql import connect, identifier, quoted, why
from diffad_ray.table.detectors import KnownDetector
from diffad_ray.table.layout import image_id_sql
from diffad_ray.table.reading import bound

_UNREAD = "text of "
"Prefix of columns with the texts of a template's field that its format does not fit."
MEMORY = "1GB"
"Memory of DuckDB while it selects and sorts. It spills the rest to disk."


class Routed(NamedTuple):
    """A detector of a run with its globs. A detector without globs scores the images that no glob matches. With a gate,
    it sees only the images that the gate does not pass."""

    location: str
    bundle: Bundle
    patterns: tuple[str, ...]
    gate: OpenGate | None = None

    @property
    def known(self) -> KnownDetector:
        """What the table keeps of the detector."""
        bundle = self.bundle
        return KnownDetector(
            bundle.fingerprint,
            bundle.name,
            self.location,
            bundle.detector.kind,
            bundle.calibration.threshold,
            bundle.calibration,
        )


class Selection(NamedTuple):
    """The selected images.

    Attributes:
        connection: DuckDB connection that can read `rows` and the table.
        rows: SQL of a table with the columns of the part `manifests` and `columns`, one row an image.
        images: number of rows.
        columns: additional columns from a manifest or a template.
        archive: the archive.
        notes: sentences for the user.
    """

    connection: duckdb.DuckDBPyConnection
    rows: str
    images: int
    columns: pa.Schema
    archive: Archive
    notes: list[str]


def select_images(
    location: str, table: str, detectors: Sequence[Routed], settings: ScoringSettings, scratch: Path
) -> Selection:
    """List an archive and choose its images.

    Args:
        table: location of the table, which the same connection reads later.
        detectors: an image is scored by the first one that matches it.
        scratch: a local folder.

    Raises:
        UserError: the archive can't be listed, no image is chosen, or most paths don't fit the template.
    """
    connection = connect(table, location)
    bound(connection, MEMORY, scratch)
    template = PathTemplate.parse(settings.template) if settings.template else None
    may_hold = enters(settings.include, settings.exclude) if settings.include or settings.exclude else None
    archive = open_archive(location, connection, scratch, settings.manifest_encoding, may_hold, table)
    columns = _extra_columns(archive, template)
    selected = quoted(str(scratch / "selected.parquet"))
    sql = _selection(archive, table, template, detectors, settings, datetime.now(UTC))
    chosen = f"read_parquet({selected}, hive_partitioning = false)"
    unread = [identifier(_UNREAD + column.name) for column in template.columns if column.form] if template else []
    rows = f"(SELECT * EXCLUDE ({', '.join(unread)}) FROM {chosen})" if unread else chosen
    try:
        connection.execute(f"COPY ({sql}) TO {selected} (FORMAT parquet)")
        counts = connection.execute(f"SELECT count(*), count(DISTINCT image_id) FROM {rows}")
        ((entries, images),) = counts.fetchall()
        if images == 0:
            raise UserError("; ".join([_nothing(location, archive, settings), *archive.notes]))
        notes = [*archive.notes, *_notes(connection, chosen, template, entries)]
        if entries > images:
            notes.append(f"{entries - images} entries of the manifest name an image a second time")
    except duckdb.Error as error:
        raise UserError(f"no images can be chosen from {location}: {why(error)}") from error
    if images < entries:
        rows = f"(SELECT DISTINCT ON (image_id) * FROM {rows})"
    return Selection(connection, rows, images, columns, archive, notes)


def _extra_columns(archive: Archive, template: PathTemplate | None) -> pa.Schema:
    columns = dict(archive.columns)
    for column in template.columns if template else ():
        if column.name in columns:
            raise UserError(f"both the manifest and the template give a column {column.name!r}: rename one of them")
        columns[column.name] = column.type
    return pa.schema(list(columns.items()))


def _selection(
    archive: Archive,
    table: str,
    template: PathTemplate | None,
    detectors: Sequence[Routed],
    settings: ScoringSettings,
    now: datetime,
) -> str:
    """Return SQL of the chosen images with the columns of the part `manifests`."""
    # The table may lie in the archive, and its masks must not be scored.
    conditions = [f"NOT starts_with(uri, {quoted(table + '/')})"]
    if settings.include:
        conditions.append(matches_any("path", settings.include))
    if settings.exclude:
        conditions.append(f"NOT {matches_any('path', settings.exclude)}")
    if settings.since:
        moment = quoted(since(settings.since, now).isoformat())
        conditions.append(f"coalesce(modified >= TIMESTAMPTZ {moment}, true)")
    if settings.sample < 1:
        # The sample depends on the URI alone, so an image stays in or out of it when other images come or change.
        conditions.append(f"md5_number_lower(uri) % 1000000 < {round(settings.sample * 1_000_000)}")
    chosen = f"SELECT * FROM ({archive.query}) WHERE {' AND '.join(conditions)}"
    if settings.limit is not None:
        chosen = f"SELECT DISTINCT ON (uri, version) * FROM ({chosen}) ORDER BY uri, version LIMIT {settings.limit}"

    whens, default = [], "''"
    for detector in detectors:
        if not detector.patterns:
            default = quoted(detector.bundle.fingerprint)
        for pattern in detector.patterns:
            fits = f"regexp_full_match(path, {quoted(glob_regex(pattern))})"
            whens.append(f"WHEN {fits} THEN {quoted(detector.bundle.fingerprint)}")
    route = f"CASE {' '.join(whens)} ELSE {default} END" if whens else default
    parts = f", {template.parts_sql('path')} AS parts" if template else ""
    extras = [f'"{name}"' for name in archive.columns]
    for column in template.columns if template else ():
        extras.append(f"{column.sql} AS {identifier(column.name)}")
        if column.form:
            unread = f"CASE WHEN {column.sql} IS NULL THEN {column.text} END"
            extras.append(f"{unread} AS {identifier(_UNREAD + column.name)}")
    return (
        f"SELECT {image_id_sql('uri', 'version')} AS image_id, uri AS image_uri, version AS image_version, "
        f"coalesce(bytes, 0) AS image_bytes, modified AS image_modified, {route} AS detector_fingerprint"
        f"{''.join(', ' + extra for extra in extras)} FROM (SELECT *{parts} FROM ({chosen}))"
    )


def since(text: str, now: datetime) -> datetime:
    """Return the moment that a text means: a date, ISO 8601 (in UTC without a zone), or an age such as `36h` or `7d`.

    Raises:
        UserError: the text is none of these.
    """
    units = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
    try:
        if text[-1:] in units and text[:-1].replace(".", "", 1).isdigit():
            return now - timedelta(**{units[text[-1]]: float(text[:-1])})
        moment = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        raise UserError(f"since {text!r} is no moment: write 2026-11-20, 2026-11-20T22:00, 36h or 7d") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _nothing(location: str, archive: Archive, settings: ScoringSettings) -> str:
    if settings.include or settings.exclude or settings.since or settings.sample < 1:
        return f"no image of {location} is chosen: check include, exclude, since and sample"
    if not archive.is_listed:
        return f"the manifest {location} names no images: it has no row with a URI"
    return (
        f"{location} holds no images ({archive.other_files} other files): give a folder or prefix of files ending in "
        ".png, .jpg, .tif or alike, or a manifest of URIs"
    )


def _notes(
    connection: duckdb.DuckDBPyConnection, chosen: str, template: PathTemplate | None, entries: int
) -> list[str]:
    """Return sentences for the user about the chosen images.

    Raises:
        UserError: most paths don't fit the template, or most values of a field don't fit its format.
    """
    notes = _misfits(connection, chosen, template, entries) if template else []
    ((count, example),) = connection.execute(
        f"SELECT count(*), min(image_uri) FROM {chosen} WHERE detector_fingerprint = ''"
    ).fetchall()
    if count:
        notes.append(f"no route leads {count} images to a detector, such as {example}: they get the status unrouted")
    return notes


def _misfits(connection: duckdb.DuckDBPyConnection, chosen: str, template: PathTemplate, entries: int) -> list[str]:
    """Return sentences about paths and values that don't fit the template."""
    values = [identifier(column.name) for column in template.columns]
    texts = {column: identifier(_UNREAD + column.name) for column in template.columns if column.form}
    unfit = " AND ".join(f"{value} IS NULL" for value in [*values, *texts.values()])
    figures = [f"count(*) FILTER ({unfit}), min(image_uri) FILTER ({unfit})"]
    figures += [f"count({text}), min({text})" for text in texts.values()]
    (found,) = connection.execute(f"SELECT {', '.join(figures)} FROM {chosen}").fetchall()
    notes = []
    paths, example = found[:2]
    if paths:
        notes.append(f"{paths} paths don't fit the template, such as {example}")
    if 2 * paths > entries:
        raise UserError(
            f"{paths} of {entries} paths don't fit the template, such as {example}: each field stands for a part of "
            "the path without a slash, ** for folders of any depth, and the whole path below the archive must fit"
        )
    for column, count, example in zip(texts, found[2::2], found[3::2], strict=True):
        said = f"{count} values of {column.name} do not fit {column.form}, such as {example}"
        if 2 * count > entries - paths:
            raise UserError(f"{said}: change the format in the template, or leave it out to keep the text")
        if count:
            notes.append(f"{said}: they are null")
    return notes
