"""Verification: whether a table holds what its runs set out to write and say that they wrote.

DuckDB joins what was planned, the rows, the regions and the masks, so that memory stays bounded, whatever the table's
size. Nothing is written, and no lease is taken: a run that goes on is left out.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import duckdb
import pyarrow as pa

from diffad_ray import storage
from diffad_ray.errors import TryLater
from diffad_ray.images import ImageError, decode_image
from diffad_ray.table.checks import CHECKS, ENTRIES, IMAGE_OF_RUN, SHOWN, UNUSED_MASKS
from diffad_ray.table.contents import READERS, list_contents, unreadable
from diffad_ray.table.layout import quoted
from diffad_ray.table.lease import holder_of
from diffad_ray.table.parts import PARQUET_PARTS, REGIONS, SCORES
from diffad_ray.table.reading import connect_bounded, count_rows, declared_rows, existing, file_list, rows_in
from diffad_ray.table.retention import Rule, first_run_of, read_rule
from diffad_ray.table.runs import Run, read_runs
from diffad_ray.table.schema import read_schema
from diffad_ray.table.snapshot import pending_mergers
from diffad_ray.table.views import lacks_file

MASKS = 1000
"Masks that are opened, unless more are asked for; whether it is there is looked up for every one."
DOING = {"compact": "compacted", "prune": "pruned"}


@dataclass(frozen=True)
class Finding:
    """Something found `count` times; the message has an example."""

    kind: str
    message: str
    count: int


@dataclass
class Verification:
    """What was looked at and found; the table is sound if there are no problems, whatever the notes say.

    Attributes:
        runs: finished and abandoned ones, and interrupted ones as far as they got.
        files: Parquet files, all read; `rows`: of scores; `masks`: that are there; `masks_opened`: of these.
        problems: what should not be; `notes`: what is no harm, such as interrupted runs and files left behind.
    """

    table: str
    runs: int = field(init=False)
    rows: int = field(init=False)
    masks: int = field(init=False)
    files: int = 0
    masks_opened: int = 0
    problems: list[Finding] = field(default_factory=list)
    notes: list[Finding] = field(default_factory=list)


def verify(table: str | Path, masks: int | None = MASKS) -> Verification:
    """Compare a table's plans, rows, regions, masks and records with each other; all its Parquet files are read.

    Args:
        masks: how many masks to open at most, spread evenly; None opens all.

    Raises:
        TryLater: it is being compacted or pruned, or was while it was read.
        UserError: there is no table.
    """
    location = existing(str(table))
    holder = holder_of(location)
    if holder and holder.work != "score":
        raise TryLater(
            f"{location} is being {DOING[holder.work]} since {holder.since}: wait for that to end, and verify again"
        )
    found = Verification(location)
    # Before the files are listed, so that all that a finished run wrote is among them.
    runs = read_runs(location)
    for plan, record in runs:
        state = record.state if record else "running" if holder else "interrupted"
        if state != "finished":
            found.notes.append(Finding(f"{state} run", f"run {plan.run_id} of {plan.archive} is {state}", 1))
    rule = read_rule(location)
    for kind, day in (("masks", rule.masks_before), ("manifests", rule.manifests_before)):
        if day:
            found.notes.append(Finding("pruned", f"{kind} of runs before {day} are not kept", 1))
    still = [run for run in runs if run.record or not holder]
    found.runs = len(still)
    try:
        with connect_bounded(location, listed=[f"{location}/{name}" for name in PARQUET_PARTS]) as connection:
            files = _look_through(location, still, connection, found)
            pruned = _pruned(rule, still)
            _fill(location, files, still, connection)
            _compare_columns(location, files, connection, found)
            kept = [run.plan.run_id for run in still if run.plan.run_id not in pruned]
            connection.register("with_manifests", pa.table({"run_id": pa.array(kept, pa.string())}))
            connection.execute(f"SET VARIABLE masks_kept_since = {quoted(first_run_of(rule.masks_before))}")
            for kind, (message, sql) in CHECKS.items():
                _note(found.problems, kind, message, *_count(sql, connection))
            if holder is None:
                _note(found.notes, "unused mask", "masks belong to no row", *_count(UNUSED_MASKS, connection))
            _compare_records(still, pruned, connection, found)
            _open_masks(masks, connection, found)
    except (duckdb.Error, FileNotFoundError) as error:
        if isinstance(error, duckdb.Error) and not lacks_file(location, error):
            raise
        raise TryLater(f"{location} changed while it was read, so verify it again: {error}") from error
    return found


def _look_through(
    table: str, runs: list[Run], connection: duckdb.DuckDBPyConnection, found: Verification
) -> dict[str, list[str]]:
    """Readable Parquet files of these runs by kind; what else lies in the table is noted."""
    mergers = pending_mergers(table)
    if mergers:
        message = f"{len(mergers)} steps of a compaction are left; `diffad-ray compact {table}` takes them"
        found.notes.append(Finding("interrupted compaction", message, len(mergers)))
    contents = list_contents(table, {run.plan.run_id for run in runs}, mergers, connection)
    for findings, kind, message, paths in (
        (found.problems, "unknown file", "files that queries read are of no run", contents.unknown),
        (found.notes, "foreign file", "files are no part of a table", contents.foreign),
        (found.notes, "temporary file", "files were left behind by writers that were killed", contents.parts),
    ):
        _note(findings, kind, message, len(paths), min(paths, default=None))
    readable = {}
    for kind, paths in contents.parquet.items():
        broken = dict(unreadable(table, paths))
        for path, reason in broken.items():
            found.problems.append(Finding("unreadable file", f"{path} can't be read: {reason}", 1))
        readable[kind] = [path for path in paths if path not in broken]
        found.files += len(paths)
    return readable


def _note(findings: list[Finding], kind: str, message: str, count: int, example: str | None) -> None:
    if count:
        findings.append(Finding(kind, f"{count} {message}, such as {example}", count))


def _count(sql: str, connection: duckdb.DuckDBPyConnection) -> tuple[int, str | None]:
    ((count, example),) = connection.execute(f"SELECT count(*), min(example) FROM ({sql})").fetchall()
    return count, example


def _fill(table: str, files: dict[str, list[str]], runs: list[Run], connection: duckdb.DuckDBPyConnection) -> None:
    """Make a view of each part, called as it is, for the checks to join."""
    for name, part in PARQUET_PARTS.items():
        source = rows_in(f"{table}/{path}" for path in files[name])
        schema = part.columns
        if part.divided_by == "run":
            schema = schema.append(pa.field("run_id", pa.string()))
            of_run = "regexp_extract(file_of_run, '/([^/]+)/[^/]+$', 1) AS run_id"
            source = source.removesuffix(")") + ", filename = 'file_of_run')"
            source = f"(SELECT * EXCLUDE (file_of_run), {of_run} FROM {source})"
        if not files[name]:
            source = f"no_{name}"
            connection.register(source, schema.empty_table())
        source = declared_rows(connection, schema, source)
        columns = "*"
        if "detector_fingerprint" in part.columns.names:
            # Equal where no detector was found for an image, so that such rows join too.
            columns = "* REPLACE (coalesce(detector_fingerprint, '') AS detector_fingerprint)"
        connection.execute(f"CREATE VIEW {name} AS SELECT {columns} FROM {source}")
    for name, states in (("finished", {"finished"}), ("ended", {"finished", "abandoned"})):
        of_state = [run.plan.run_id for run in runs if run.record and run.record.state in states]
        connection.register(name, pa.table({"run_id": pa.array(of_state, pa.string())}))
    connection.execute(f"CREATE VIEW entries AS {ENTRIES}")
    connection.execute(f"CREATE VIEW shown AS {SHOWN}")
    connection.execute(f"SET VARIABLE masks = {quoted(f'{table}/masks/')}")


def _compare_columns(
    table: str, files: dict[str, list[str]], connection: duckdb.DuckDBPyConnection, found: Verification
) -> None:
    """Columns of the files, against those of the table; views rely on a table that calls itself uniform."""
    schema = read_schema(table)
    if schema is None:
        return
    wanted = {SCORES.name: list(schema.columns), REGIONS.name: schema.regions}
    for name, columns in wanted.items():
        if not files[name]:
            continue
        listed = file_list(f"{table}/{path}" for path in files[name])
        lacking = (
            f"SELECT file_name AS example FROM parquet_schema({listed}) GROUP BY 1 "
            f"HAVING NOT list_has_all(list(name), {columns})"
        )
        count, example = _count(lacking, connection)
        message = f"files of {name} lack columns of the table; `diffad-ray compact {table}` adds them"
        _note(found.problems if schema.is_uniform else found.notes, "lacking columns", message, count, example)


def _pruned(rule: Rule, runs: list[Run]) -> set[str]:
    """The runs whose manifests are no longer kept."""
    return {run.plan.run_id for run in runs if run.record and run.plan.run_date < rule.manifests_before}


def _compare_records(
    runs: list[Run], pruned: set[str], connection: duckdb.DuckDBPyConnection, found: Verification
) -> None:
    """Numbers that plans and records tell, against the rows themselves."""
    planned = dict(connection.execute("SELECT run_id, count(*) FROM manifests GROUP BY 1").fetchall())
    ((found.rows,),) = connection.execute("SELECT count(*) FROM scores").fetchall()
    # As the run wrote them: with the rows that compaction has removed since.
    removed = f"FROM entries ANTI JOIN scores USING ({IMAGE_OF_RUN})"
    counts = count_rows(connection, f"(FROM scores UNION ALL BY NAME {removed})")
    for plan, record in runs:
        run_id, of_run = plan.run_id, counts[plan.run_id]
        figures: list[tuple[str, str, object, object]] = []
        if run_id not in pruned:
            figures.append(("plan", "images", plan.images, planned.get(run_id, 0)))
        if record:
            figures += [
                ("record", "rows", record.images, of_run.rows),
                ("record", "statuses", record.by_status, of_run.by_status),
                ("record", "anomalous images", record.anomalous, of_run.anomalous),
            ]
        for kind, of_what, said, counted in figures:
            if said != counted:
                message = f"the {kind} of run {run_id} says {said} {of_what}, the table has {counted}"
                found.problems.append(Finding(kind, message, 1))


def _open_masks(most: int | None, connection: duckdb.DuckDBPyConnection, found: Verification) -> None:
    """Decode masks that are there and compare their sizes with their images'."""
    ((found.masks,),) = connection.execute("SELECT count(*) FROM mask_files").fetchall()
    limit = "" if most is None else f"LIMIT {most}"
    # In the order of a hash, the first ones are spread evenly over all.
    sample = connection.execute(
        "SELECT mask_uri, any_value(width), any_value(height) FROM scores SEMI JOIN mask_files USING (mask_uri) "
        f"GROUP BY 1 ORDER BY hash(mask_uri) {limit}"
    )
    with ThreadPoolExecutor(READERS) as pool:
        while rows := sample.fetchmany(1000):
            found.masks_opened += len(rows)
            for (uri, _, _), problem in zip(rows, pool.map(_mask_problem, *zip(*rows, strict=True)), strict=True):
                if problem:
                    found.problems.append(Finding("mask damaged", f"the mask {uri} {problem}", 1))


def _mask_problem(uri: str, width: int, height: int) -> str:
    try:
        mask = decode_image(storage.read(uri), max_pixels=width * height).pixels
    except ImageError as error:
        return f"can't be read: {error}"
    size = (mask.shape[1], mask.shape[0])
    return "" if size == (width, height) else f"has {size[0]} x {size[1]} pixels, its image {width} x {height}"
