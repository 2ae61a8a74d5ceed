"""Rows of requests with `record=1`: kept one by one at once, and appended to the table by runs of their own.

A row is kept as `TABLE/requests/<fingerprint>/<request>.parquet` before its request is answered, so that none is lost
with its replica. From time to time, a replica appends all that are there as a run with plan, manifests and record, by
the code that commits the shards of scoring. The kept rows are deleted last. Should the replica die in between, the next
run finds them again, and leaves out those that the table has: an image has one row under a detector.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import secrets
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, replace
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq

from diffad_ray import storage
from diffad_ray.bundles.calibration import Calibration
from diffad_ray.errors import UserError
from diffad_ray.inference.verdict import MAP_TYPE
from diffad_ray.scoring.commit import CommitShard, Judge
from diffad_ray.scoring.detect import ADDED
from diffad_ray.scoring.load import FOUND
from diffad_ray.scoring.pipeline import abandon, count_run
from diffad_ray.scoring.plan import remove_half_plans
from diffad_ray.scoring.settings import PASSING, ScoringSettings
from diffad_ray.serving.detectors import LoadedDetector
from diffad_ray.serving.judging import Answer
from diffad_ray.serving.refusals import Refused
from diffad_ray.serving.requests import GivenImage
from diffad_ray.sql import quoted
from diffad_ray.storage import FileInfo
from diffad_ray.table.compact import finish_compactions
from diffad_ray.table.detectors import KnownDetector, read_detectors, write_detector
from diffad_ray.table.gates import BY_DETECTOR
from diffad_ray.table.layout import MANIFEST, SCORES, image_id, parquet_bytes
from diffad_ray.table.lease import Lease
from diffad_ray.table.reading import connect_bounded, has_rows, rows_of
from diffad_ray.table.runs import Plan, PlannedDetector, read_runs, write_plan, write_record
from diffad_ray.table.schema import extend_schema, scores_schema
from diffad_ray.table.superseded import write_superseded

log = logging.getLogger(__name__)
WORK = "serve"
MOST_ROWS = 5000
"Rows of a run; more wait for the next one."
BLOCK = pa.schema(
    [
        *MANIFEST,
        *FOUND,
        *ADDED,
        ("seconds", pa.float64()),
        ("shard", pa.int32()),
    ]
)
"What `CommitShard` takes; a kept row is a table of these columns with one row."
SUFFIXES = {b"\xff\xd8\xff": ".jpg", b"\x89PNG": ".png", b"II": ".tif", b"MM": ".tif"}


class Recorder:
    """Keeps the rows of requests.

    Args:
        table: its location.
        images: prefix for images that came in the body of a request; None refuses to record these.
    """

    def __init__(self, table: str, images: str | None):
        self.table = storage.normalised(table)
        self.images = None if images is None else storage.normalised(images)
        self._described: set[str] = set()

    async def record(self, given: GivenImage, answer: Answer | Refused, detector: LoadedDetector) -> bool:
        """Keep the row of an answer, or of an image that gives none; true once it can't be lost any more.

        Raises:
            Refused: 400 if nothing says where the image is to be kept, 503 if the table can't be written.
        """
        if given.info is None and self.images is None:
            raise Refused(400, "this server records images that are named by URI: it has no record_images")
        try:
            await asyncio.to_thread(self._keep, given, answer, detector)
        except OSError as error:
            log.warning("a row can't be kept in %s: %s", self.table, error)
            raise Refused(503, "the table can't be written now", retry_after=10) from error
        return True

    def _keep(self, given: GivenImage, answer: Answer | Refused, detector: LoadedDetector) -> None:
        fingerprint = detector.bundle.fingerprint
        folder = f"{self.table}/requests/{fingerprint}"
        if fingerprint not in self._described:
            calibration = detector.bundle.calibration
            kind = detector.bundle.detector.kind
            described = {"name": detector.name, "kind": kind, "calibration": asdict(calibration)}
            storage.create(f"{folder}/detector.json", json.dumps(described).encode())
            self._described.add(fingerprint)
        info = given.info or self._kept_image(given.data)
        row = {
            "image_id": image_id(info.uri, info.version),
            "image_uri": info.uri,
            "image_version": info.version,
            "image_bytes": info.bytes,
            "image_modified": info.modified,
            "detector_fingerprint": fingerprint,
            "seconds": 0.0,
        } | _found(answer, detector)
        data = parquet_bytes(pa.Table.from_pylist([row], schema=BLOCK))
        storage.write(f"{folder}/{secrets.token_hex(16)}.parquet", data)

    def _kept_image(self, data: bytes) -> FileInfo:
        """Keep an image under the hash of its bytes."""
        suffix = next((suffix for begin, suffix in SUFFIXES.items() if data.startswith(begin)), ".img")
        location = f"{self.images}/{hashlib.sha256(data).hexdigest()[:32]}{suffix}"
        storage.create(location, data)
        store, key = storage.open_store(location)
        return store.info(key)


def _found(answer: Answer | Refused, detector: LoadedDetector) -> dict[str, object]:
    """Return the columns of a row that scoring an image fills in."""
    if isinstance(answer, Refused):
        return {"status": answer.status, "error": str(answer)}
    image, detection = answer.image, answer.detection
    found = {"status": "ok", "width": image.width, "height": image.height, "mode": image.mode}
    found |= {"score": answer.verdict.score, "scored_by": BY_DETECTOR}
    found |= {"network_mode": str(detector.engine.runtime)}
    found |= image.quality._asdict()
    if answer.verdict.is_anomalous:
        found["anomaly_map"] = detection.anomaly_map.astype(MAP_TYPE).tobytes()
        found["map_width"] = detection.anomaly_map.shape[1]
    return found


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
        blocks, fingerprints, skipped = _new_rows(table, files)
        if blocks:
            # Every file of a table has all of its columns; a request brings no values for those of users.
            users = [field for field in scores_schema(table) if field.name not in SCORES.names]
            blocks = [_with_nulls(block, users) for block in blocks]
            plan = replace(_plan(table, blocks, fingerprints, skipped), columns=[field.name for field in users])
            columns = pa.schema([*MANIFEST, *users])
            _make_known(table, fingerprints)
            _announce(plan, [block.select(columns.names).cast(columns) for block in blocks])
            lease.confirm()
            judges = {key: _judge(table, key) for key in fingerprints}
            commit = CommitShard(plan, ScoringSettings(), storage.settings(), judges)
            for block in blocks:
                commit(block)
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


def _new_rows(table: str, files: Iterable[str]) -> tuple[list[pa.Table], list[str], int]:
    """Return the rows that the table lacks by fingerprint, the fingerprints, and the number of other rows."""
    rows = pa.concat_tables([pq.read_table(pa.BufferReader(storage.read(file))).cast(BLOCK) for file in files])
    with connect_bounded(table) as connection:
        connection.register("kept", rows)
        known = ""
        if has_rows(table):
            passing = ", ".join(map(quoted, PASSING))
            scored = f"SELECT * FROM {rows_of(table, 'scores')} WHERE status NOT IN ({passing})"
            known = f"ANTI JOIN ({scored}) USING (image_id, detector_fingerprint)"
        once = "QUALIFY row_number() OVER (PARTITION BY image_id, detector_fingerprint ORDER BY status) = 1"
        new = connection.sql(f"SELECT kept.* FROM kept {known} {once} ORDER BY image_uri").to_arrow_table().cast(BLOCK)
    by_detector: defaultdict[str, list[int]] = defaultdict(list)
    for place, fingerprint in enumerate(new["detector_fingerprint"].to_pylist()):
        by_detector[fingerprint].append(place)
    blocks = []
    for shard, places in enumerate(by_detector.values()):
        block = new.take(places)
        numbers = pa.array([shard] * len(block), pa.int32())
        blocks.append(block.set_column(block.column_names.index("shard"), "shard", numbers))
    return blocks, list(by_detector), len(rows) - len(new)


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
        judge = _judge(table, key)
        # Servers of earlier versions did not write the kind.
        kind = str(_described(table, key).get("kind", ""))
        write_detector(table, KnownDetector(key, judge.name, "", kind, judge.threshold, judge.calibration))


def _judge(table: str, fingerprint: str) -> Judge:
    described = _described(table, fingerprint)
    calibration = Calibration(**described["calibration"])  # type: ignore[arg-type]
    return Judge(str(described["name"]), calibration, calibration.threshold)


def _plan(table: str, blocks: list[pa.Table], fingerprints: list[str], skipped: int) -> Plan:
    now = datetime.now(UTC)
    counted = zip(fingerprints, blocks, strict=True)
    return Plan(
        run_id=f"{now:%Y%m%dT%H%M%S}-{secrets.token_hex(3)}",
        run_date=f"{now:%Y-%m-%d}",
        table=table,
        archive=f"{table}/requests",
        detectors=[PlannedDetector("", str(_described(table, key)["name"]), key, len(block)) for key, block in counted],
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
