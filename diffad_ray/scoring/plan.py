"""Makes the plan of a run: its images, each with its detector, in fixed shards. It is written before scoring begins."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from typing import NamedTuple

import duckdb

from diffad_ray import storage
from diffad_ray.errors import UserError
from diffad_ray.scoring.columns import fit_columns
from diffad_ray.scoring.manifest import refuse_absent
from diffad_ray.scoring.selection import Routed, Selection
from diffad_ray.scoring.settings import PASSING, ScoringSettings
from diffad_ray.scoring.shards import limits_of, write_manifests
from diffad_ray.sql import quoted, why
from diffad_ray.table.detectors import write_detector
from diffad_ray.table.gates import PlannedGate
from diffad_ray.table.layout import shard_file
from diffad_ray.table.parts import SUPERSEDED, run_file
from diffad_ray.table.reading import has_rows, rows_of
from diffad_ray.table.runs import PLAN_SUFFIX, PLANNING_SUFFIX, Plan, PlannedDetector, run_files, write_plan
from diffad_ray.table.schema import extend_schema, new_columns
from diffad_ray.table.superseded import write_superseded


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
    planned, total = _planned(detectors, counts), sum(counts.values())
    name_of = partial(shard_file, table, "manifests", run_date, run_id)
    try:
        storage.write(f"{table}/runs/{run_id}{PLANNING_SUFFIX}", b"")
        shards = write_manifests(selection, pending, name_of, planned, limits_of(total, detectors, settings))
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
            gates=_planned_gates(detectors, counts),
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


def _planned(detectors: Sequence[Routed], counts: Mapping[str, int]) -> list[PlannedDetector]:
    """Return the detectors that have images to score; the last one stands for images without a route to a detector."""
    places = {d.bundle.fingerprint: (d.location, d.bundle.name) for d in detectors} | {"": ("", "")}
    return [
        PlannedDetector(location, name, fingerprint, counts[fingerprint])
        for fingerprint, (location, name) in places.items()
        if fingerprint in counts
    ]


def _planned_gates(detectors: Sequence[Routed], counts: Mapping[str, int]) -> list[PlannedGate]:
    """Return the gates of the detectors that have images to score, each once."""
    gates = {d.bundle.fingerprint: d.gate.planned for d in detectors if d.gate}
    return [gate for fingerprint, gate in gates.items() if fingerprint in counts]


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
        if not force and has_rows(table):
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
    """Return SQL of the images of a table that need not be scored again, by image and detector."""
    retried = ", ".join(map(quoted, {*PASSING, *settings.retry}))
    rows = rows_of(table, "scores")
    is_done = f"status NOT IN ({retried}) OR run_id = {quoted(finished)}"
    last = f"SELECT image_id, detector_fingerprint, arg_max({is_done}, scored_at) AS is_done FROM {rows} GROUP BY ALL"
    return f"(SELECT image_id, detector_fingerprint FROM ({last}) WHERE is_done)"


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
