"""Appends the rows that were kept of requests to their table, by runs of their own; see `recording.py`."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import asdict, replace
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq

from diffad_ray import storage
from diffad_ray.bundles.calibration import Calibration
from diffad_ray.errors import UserError
from diffad_ray.scoring.commit import CommitShard, Judge
from diffad_ray.scoring.pipeline import abandon, count_run
from diffad_ray.scoring.plan import remove_half_plans
from diffad_ray.scoring.settings import PASSING, ScoringSettings
from diffad_ray.serving.recording import BLOCK
from diffad_ray.sql import quoted
from diffad_ray.table.compact import finish_compactions
from diffad_ray.table.detectors import KnownDetector, read_detectors, write_detector
from diffad_ray.table.layout import MANIFEST, SCORES, parquet_bytes
from diffad_ray.table.lease import Lease
from diffad_ray.table.reading import connect_bounded, has_rows, no_rows, rows_of
from diffad_ray.table.runs import Plan, PlannedDetector, read_runs, write_plan, write_record
from diffad_ray.table.schema import extend_schema, scores_schema
from diffad_ray.table.superseded import write_superseded

log = logging.getLogger(__name__)
WORK = "serve"
MOST_ROWS = 5000
"Rows of a run; more wait for the next one."


def append_requests(table: str) -> int:
    """Append the rows that were kept to the table; how many there were.

    Raises:
        UserError: another process writes to the table, which is tried again later.
        OSError: the table can't be read or written.
    """
    files = _kept(table)
    if not files:
        return 0
    with Lease(table, "score") as lease:
        finish_compactions(table)
        remove_half_plans(table)
        for run in read_runs(table):
            if run.record is None and run.plan.work == WORK:
                abandon(run.plan)
        blocks, skipped = _new_rows(table, files)
        if blocks:
            # Every file of a table has all of its columns; a request brings no values for those of users.
            users = [field for field in scores_schema(table) if field.name not in SCORES.names]
            blocks = [_with_nulls(block, users) for block in blocks]
            plan = replace(_plan(table, blocks, skipped), columns=[field.name for field in users])
            columns = pa.schema([*MANIFEST, *users])
            _make_known(table, {_detector_of(block) for block in blocks})
            _announce(plan, [block.select(columns.names).cast(columns) for block in blocks])
            lease.confirm()
            for block in blocks:
                judges = {_detector_of(block): _judge(table, block)}
                CommitShard(plan, ScoringSettings(), storage.settings(), judges)(block)
            modes = {mode for block in blocks for mode in block["network_mode"].to_pylist() if mode}
            write_record(plan, replace(count_run(plan, "finished"), modes=sorted(modes)))
        for file in files:
            storage.delete(file)
    return len(files)


def _kept(table: str) -> list[str]:
    try:
        files = [file.uri for file in storage.walk(f"{table}/requests") if file.uri.endswith(".parquet")]
    except FileNotFoundError:
        return []
    return files[:MOST_ROWS]


def _new_rows(table: str, files: Iterable[str]) -> tuple[list[pa.Table], int]:
    """Return the rows that the table lacks, a block for each detector and threshold, and the number of other rows."""
    kept = [pq.read_table(pa.BufferReader(storage.read(file))) for file in files]
    # Servers of earlier versions wrote fewer columns, such as no threshold, since they judged by the detector's own.
    rows = pa.concat_tables([no_rows(BLOCK), *kept], promote_options="default").select(BLOCK.names).cast(BLOCK)
    with connect_bounded(table) as connection:
        connection.register("kept", rows)
        known = ""
        if has_rows(table):
            passing = ", ".join(map(quoted, PASSING))
            scored = f"SELECT * FROM {rows_of(table, 'scores')} WHERE status NOT IN ({passing})"
            known = f"ANTI JOIN ({scored}) USING (image_id, detector_fingerprint)"
        once = "QUALIFY row_number() OVER (PARTITION BY image_id, detector_fingerprint ORDER BY status) = 1"
        new = connection.sql(f"SELECT kept.* FROM kept {known} {once} ORDER BY image_uri").to_arrow_table().cast(BLOCK)
    judged_alike: defaultdict[tuple[str, float | None], list[int]] = defaultdict(list)
    judged_by = zip(new["detector_fingerprint"].to_pylist(), new["threshold"].to_pylist(), strict=True)
    for place, key in enumerate(judged_by):
        judged_alike[key].append(place)
    blocks = []
    for shard, places in enumerate(judged_alike.values()):
        block = new.take(places)
        numbers = pa.array([shard] * len(block), pa.int32())
        blocks.append(block.set_column(block.column_names.index("shard"), "shard", numbers))
    return blocks, len(rows) - len(new)


def _detector_of(block: pa.Table) -> str:
    fingerprint: str = block["detector_fingerprint"][0].as_py()
    return fingerprint


def _with_nulls(block: pa.Table, fields: Iterable[pa.Field]) -> pa.Table:
    for field in fields:
        block = block.append_column(field, pa.nulls(len(block), field.type))
    return block


def _announce(plan: Plan, manifests: list[pa.Table]) -> None:
    """Write the manifests of a run, the rows that it supersedes, the columns of the table, and last the plan."""
    for shard, manifest in enumerate(manifests):
        storage.write(plan.manifest_file(shard), parquet_bytes(manifest))
    with connect_bounded(plan.table) as connection:
        connection.register("images", pa.concat_tables(manifests))
        write_superseded(connection, "images", plan.table, plan.run_id)
    extend_schema(plan.table, pa.schema([]))
    write_plan(plan)


def _described(table: str, fingerprint: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(storage.read(f"{table}/requests/{fingerprint}/detector.json"))
    return found


def _make_known(table: str, fingerprints: Iterable[str]) -> None:
    """Write the detectors that the table does not know. A server does not tell the table where they are."""
    for key in set(fingerprints) - read_detectors(table).keys():
        described, calibration = _described(table, key), _calibration(table, key)
        # Servers of earlier versions did not write the kind.
        kind = str(described.get("kind", ""))
        known = KnownDetector(key, str(described["name"]), "", kind, calibration.threshold, calibration)
        write_detector(table, known)


def _calibration(table: str, fingerprint: str) -> Calibration:
    return Calibration(**_described(table, fingerprint)["calibration"])  # type: ignore[arg-type]


def _judge(table: str, block: pa.Table) -> Judge:
    """Return what judges a block: the threshold by which its answers were judged. Images without a score have none."""
    key, threshold = _detector_of(block), block["threshold"][0].as_py()
    calibration = _calibration(table, key)
    own = calibration.threshold
    return Judge(str(_described(table, key)["name"]), calibration, own if threshold is None else threshold)


def _plan(table: str, blocks: list[pa.Table], skipped: int) -> Plan:
    now = datetime.now(UTC)
    images: Counter[str] = Counter()
    for block in blocks:
        images[_detector_of(block)] += len(block)
    return Plan(
        run_id=f"{now:%Y%m%dT%H%M%S}-{secrets.token_hex(3)}",
        run_date=f"{now:%Y-%m-%d}",
        table=table,
        archive=f"{table}/requests",
        detectors=[
            PlannedDetector("", str(_described(table, key)["name"]), key, count) for key, count in images.items()
        ],
        images=sum(map(len, blocks)),
        skipped=skipped,
        other_files=0,
        shards=len(blocks),
        checks_versions=False,
        columns=[],
        notes=[],
        work=WORK,
        settings=asdict(ScoringSettings()),
    )


async def keep_appending(table: str, seconds: float) -> None:
    """Append the rows that were kept, again and again."""
    while True:
        await asyncio.sleep(seconds)
        try:
            if count := await asyncio.to_thread(append_requests, table):
                log.info("%d rows of requests appended to %s", count, table)
        except (UserError, OSError) as error:
            log.warning("rows of requests wait for %s: %s", table, error)
