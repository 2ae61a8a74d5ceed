"""Makes the plan of a run: its images, each with its detector, in fixed shards. It is written before scoring begins."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from typing import NamedTuple

import duckdb
import pyarrow as pa

from diffad_ray import storage
from diffad_ray.bundles.bundle import Bundle
from diffad_ray.errors import UserError
from diffad_ray.scoring.columns import fit_columns
from diffad_ray.scoring.manifest import refuse_absent
from diffad_ray.scoring.selection import Routed, Selection
from diffad_ray.scoring.settings import PASSING, ScoringSettings
from diffad_ray.sql import quoted, why
from diffad_ray.table.detectors import write_detector
from diffad_ray.table.layout import MANIFEST, parquet_bytes, shard_file
from diffad_ray.table.parts import SUPERSEDED, run_file
from diffad_ray.table.reading import has_rows, rows_of
from diffad_ray.table.runs import PLAN_SUFFIX, PLANNING_SUFFIX, Plan, PlannedDetector, run_files, write_plan
from diffad_ray.table.schema import extend_schema, new_columns
from diffad_ray.table.superseded import write_superseded

READ_ROWS = 50_000
SHARD_BYTES = 48_000_000
"Most bytes of a shard's pixels, or files if the next stage decodes them; a shard is one undivided block of Ray Data."
SMALLEST_SHARD, WANTED_SHARDS = 16, 64
MOST_LARGE_IMAGES, UNKNOWN_BYTES = 64, 4_000_000
"""Most images of a shard for detectors that see tiles, and the bytes that are assumed for an image of unknown size."""
WRITERS = 16


def make_plan(
    archive: str,
    table: str,
    selection: Selection,
    detectors: Sequence[Routed],
    settings: ScoringSettings,
    work: str,
    force: bool,
    finished: str = "",
) -> Plan:
    """Write the images of a selection that the table lacks as manifest shards and a plan file.

    The plan exists once its file exists. Neither the selection nor the table is held in memory as a whole.

    Args:
        archive: location of the archive.
        work: hash of the task.
        force: score all images, also those that the table has.
        finished: a run that this call has just finished; the next call tries its failed images again.

    Raises:
        UserError: the table can't be read or written, or its columns have other types.
    """
    now = datetime.now(UTC)
    run_id, run_date = f"{now:%Y%m%dT%H%M%S}-{secrets.token_hex(3)}", f"{now:%Y-%m-%d}"
    selection, pending, counts = compare(archive, table, selection, settings, force, finished)
    planned = _planned(detectors, counts)
    gates = {d.bundle.fingerprint: d.gate.planned for d in detectors if d.gate and d.bundle.fingerprint in counts}
    total = sum(counts.values())
    name_of = partial(shard_file, table, "manifests", run_date, run_id)
    try:
        storage.write(f"{table}/runs/{run_id}{PLANNING_SUFFIX}", b"")
        shards = _write_manifests(selection, pending, name_of, planned, _limits(total, detectors, settings))
        plan = Plan(
            run_id=run_id,
            run_date=run_date,
            table=table,
            archive=archive,
            detectors=planned,
            images=total,
            skipped=selection.images - total,
            other_files=selection.archive.other_files,
            shards=shards,
            checks_versions=selection.archive.is_listed,
            columns=selection.columns.names,
            notes=selection.notes,
            work=work,
            settings=asdict(settings),
            gates=list(gates.values()),
        )
        for detector in detectors:
            write_detector(table, detector.known)
        if total:
            # Before the plan: another process may finish a run whose plan exists, and it writes neither of them.
            write_superseded(selection.connection, pending, table, run_id)
            extend_schema(table, selection.columns)
            write_plan(plan)
        storage.delete(f"{table}/runs/{run_id}{PLANNING_SUFFIX}")
    except (OSError, duckdb.Error) as error:
        reason = why(error) if isinstance(error, duckdb.Error) else error
        raise UserError(f"the plan can't be written to the table {table}: {reason}") from error
    return plan


def _limits(total: int, detectors: Sequence[Routed], settings: ScoringSettings) -> dict[str, ShardLimits]:
    """Return the limits of shards by fingerprint; the empty one is that of images without a detector."""
    limits = {d.bundle.fingerprint: shard_limits(total, d.bundle, settings.shard_images) for d in detectors}
    return limits | {"": ShardLimits(settings.shard_images or READ_ROWS, None)}


def _planned(detectors: Sequence[Routed], counts: Mapping[str, int]) -> list[PlannedDetector]:
    """Return the detectors that have images to score; the last one stands for images without a route to a detector."""
    places = {d.bundle.fingerprint: (d.location, d.bundle.name) for d in detectors} | {"": ("", "")}
    return [
        PlannedDetector(location, name, fingerprint, counts[fingerprint])
        for fingerprint, (location, name) in places.items()
        if fingerprint in counts
    ]


class Pending(NamedTuple):
    """The images of a selection that a table lacks.

    Attributes:
        selection: the selection, with columns of the types that the table has.
        rows: SQL of the images that are to be scored.
        counts: the number of these images by the fingerprint of the detector, which is empty without a route to one.
    """

    selection: Selection
    rows: str
    counts: dict[str, int]


def compare(
    archive: str, table: str, selection: Selection, settings: ScoringSettings, force: bool = False, finished: str = ""
) -> Pending:
    """Find the images of a selection that the table lacks, and write nothing. The arguments are those of `make_plan`.

    Raises:
        UserError: the table can't be read, or its columns have other types.
    """
    try:
        selection = _fitted(selection, table)
        pending = selection.rows
        if not force:
            pending += f" ANTI JOIN {_done(table, settings, finished)} USING {_KEY}"
        if not selection.archive.is_listed and not _knows_any(selection, table):
            refuse_absent(selection.connection, selection.rows, archive)
        found = selection.connection.execute(f"SELECT detector_fingerprint, count(*) FROM {pending} GROUP BY ALL")
        return Pending(selection, pending, dict(found.fetchall()))
    except duckdb.Error as error:
        raise UserError(f"the table {table} can't be compared with {archive}: {why(error)}") from error


def _knows_any(selection: Selection, table: str) -> bool:
    """Return whether the table has a row of any of the images: then their places are right, even if they are gone."""
    if not has_rows(table):
        return False
    known = f"SELECT 1 FROM {selection.rows} SEMI JOIN {rows_of(table, 'scores')} USING (image_id) LIMIT 1"
    return selection.connection.execute(known).fetchone() is not None


def _fitted(selection: Selection, table: str) -> Selection:
    """Return the selection with columns of the types that the table has."""
    archive = selection.archive
    rows, columns, notes = fit_columns(
        selection.connection, selection.rows, selection.columns, archive.columns.keys(), archive.untyped, table
    )
    if new := new_columns(table, columns):
        names = f"the column {new[0]} is" if len(new) == 1 else f"the columns {', '.join(new)} are"
        notes = [
            *notes,
            f"{names} new, and older files of the table lack what is new: engines that read the files overlook or "
            f"refuse it until `diffad-ray compact {table}` has added it to them",
        ]
    return selection._replace(rows=rows, columns=columns, notes=[*selection.notes, *notes])


_KEY = "(image_id, detector_fingerprint)"


def _done(table: str, settings: ScoringSettings, finished: str) -> str:
    """Return SQL of the images that need not be scored again, by image and detector."""
    if not has_rows(table):
        return "(SELECT 0::BIGINT AS image_id, '' AS detector_fingerprint WHERE false)"
    retried = ", ".join(map(quoted, {*PASSING, *settings.retry}))
    rows = rows_of(table, "scores")
    is_done = f"status NOT IN ({retried}) OR run_id = {quoted(finished)}"
    last = f"SELECT image_id, detector_fingerprint, arg_max({is_done}, scored_at) AS is_done FROM {rows} GROUP BY ALL"
    return f"(SELECT image_id, detector_fingerprint FROM ({last}) WHERE is_done)"


class ShardLimits(NamedTuple):
    """The most images of a shard, and the most bytes of its files."""

    images: int
    file_bytes: int | None


def shard_limits(images: int, bundle: Bundle, wanted: int | None) -> ShardLimits:
    """Return limits with which a shard fits a block, is worth a file of its own, and gives all workers equal work.

    Args:
        images: number of images of the run.
        wanted: number of images of a shard that the user asks for, if any.
    """
    settings = bundle.detector.settings
    even = wanted or max(SMALLEST_SHARD, -(-images // WANTED_SHARDS))
    if settings.view == "tiles":
        # The files of large images pass undecoded; the next stage decodes them one by one.
        return ShardLimits(min(even, MOST_LARGE_IMAGES), SHARD_BYTES)
    fitting = max(SMALLEST_SHARD, SHARD_BYTES // (settings.image_size**2 * 3))
    return ShardLimits(min(fitting, even), None)


def _write_manifests(
    selection: Selection,
    pending: str,
    name_of: Callable[[int], str],
    detectors: Sequence[PlannedDetector],
    limits: Mapping[str, ShardLimits],
) -> int:
    """Write the shards, each with images of one detector, and return their number. The shards of a detector follow each
    other, so that each worker loads a detector about once."""
    schema = pa.schema([*MANIFEST, *selection.columns])
    shards = 0
    with ThreadPoolExecutor(WRITERS) as pool:
        for detector in detectors:
            rows = f"SELECT * FROM {pending} WHERE detector_fingerprint = {quoted(detector.fingerprint)}"
            reader = selection.connection.sql(f"{rows} ORDER BY image_uri").to_arrow_reader(READ_ROWS)
            limit = limits[detector.fingerprint]
            numbered = enumerate(_shards(reader, limit), shards)
            # Writing a few shards at a time avoids waiting for the store after each, and bounds the memory.
            while chunk := list(islice(numbered, 4 * WRITERS)):
                writes = [(name_of(k), parquet_bytes(rows.cast(schema))) for k, rows in chunk]
                list(pool.map(lambda write: storage.write(*write), writes))
                shards += len(chunk)
    return shards


def _shards(reader: pa.RecordBatchReader, limits: ShardLimits) -> Iterator[pa.Table]:
    """Yield the rows of a reader as shards. A shard ends where the next row would exceed a limit."""
    waiting = reader.schema.empty_table()
    for batch in reader:
        waiting = pa.concat_tables([waiting, pa.Table.from_batches([batch])])
        while len(waiting) > (count := _fitting(waiting, limits)):
            yield waiting.slice(0, count)
            waiting = waiting.slice(count)
    if len(waiting):
        yield waiting


def _fitting(rows: pa.Table, limits: ShardLimits) -> int:
    """Return how many of the rows make the next shard, at least one."""
    head = rows.slice(0, limits.images)
    if limits.file_bytes is None:
        return len(head)
    total = 0
    for count, size in enumerate(head["image_bytes"].to_pylist()):
        total += size or UNKNOWN_BYTES
        if total > limits.file_bytes and count:
            return count
    return len(head)


def remove_half_plans(table: str) -> None:
    """Remove the manifests of plans that were never finished. The caller holds the lease, so no plan is being made.

    The plan file of a run is written after its manifests. Then the file that marks the planning is removed.
    """
    files = run_files(table)
    for mark in [uri for uri in files if uri.endswith(PLANNING_SUFFIX)]:
        run = mark.removesuffix(PLANNING_SUFFIX)
        if f"{run}{PLAN_SUFFIX}" not in files:
            with suppress(FileNotFoundError):  # the run had no manifest yet
                for file in list(storage.walk(f"{table}/manifests/{run.rsplit('/', 1)[-1]}")):
                    storage.delete(file.uri)
            storage.delete(run_file(table, SUPERSEDED.name, run.rsplit("/", 1)[-1]))
        storage.delete(mark)


def pending_shards(plan: Plan) -> list[int]:
    """Return the numbers of the shards whose scores are not written yet."""
    prefix = f"{plan.run_id}-"
    done = set()
    try:
        for file in storage.walk(f"{plan.table}/scores/run_date={plan.run_date}"):
            name = file.uri.rsplit("/", 1)[-1]
            if name.startswith(prefix) and name.endswith(".parquet"):
                done.add(int(name.removeprefix(prefix).removesuffix(".parquet")))
    except FileNotFoundError:
        return list(range(plan.shards))
    return [shard for shard in range(plan.shards) if shard not in done]
