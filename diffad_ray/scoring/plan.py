"""The plan: which images a run scores, cut into fixed shards, written down before anything is scored."""

from __future__ import annotations

import json
import secrets
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from diffad_ray import storage
from diffad_ray.errors import UserError
from diffad_ray.images import is_named_image
from diffad_ray.scoring.table import MANIFEST, connect, has_rows, image_id, parquet_bytes, quoted, rows_of, to_table

LISTING_ROWS = 50_000
PLAN_SUFFIX = ".plan.json"
SHARD_BYTES = 48_000_000
"Largest size of a shard's pixels: as one Ray Data block it must stay well under the size at which blocks are cut."
SMALLEST_SHARD, WANTED_SHARDS = 16, 64
RETRIED = ("timeout", "failed", "denied")
"Statuses that may pass: the next run tries these images again."


@dataclass(frozen=True)
class Plan:
    """What a run sets out to do.

    Attributes:
        run_id: sorts by time of start.
        run_date: partition of the run's rows.
        table, archive, detector: locations.
        fingerprint: of the detector.
        images, skipped, other_files: images to score, images the table has already, files that are no images.
        shards: number of manifest files.
        settings: resolved settings of the run.
    """

    run_id: str
    run_date: str
    table: str
    archive: str
    detector: str
    fingerprint: str
    images: int
    skipped: int
    other_files: int
    shards: int
    settings: dict[str, Any]

    @property
    def plan_file(self) -> str:
        return f"{self.table}/runs/{self.run_id}{PLAN_SUFFIX}"

    @property
    def record_file(self) -> str:
        return f"{self.table}/runs/{self.run_id}.json"

    def manifest_file(self, shard: int) -> str:
        return f"{self.table}/manifests/{self.run_id}/{shard:05d}.parquet"


def rows_a_shard(images: int, image_size: int) -> int:
    """Images in a shard: few enough to fit a block, many enough to be worth a file, for even work over workers."""
    fitting = max(SMALLEST_SHARD, SHARD_BYTES // (image_size**2 * 3))
    return min(fitting, max(SMALLEST_SHARD, -(-images // WANTED_SHARDS)))


def make_plan(
    archive: str, table: str, detector: str, fingerprint: str, image_size: int, settings: dict[str, Any], force: bool
) -> Plan:
    """List an archive, leave out what the table has, and write the rest as manifest shards and a plan file.

    The plan exists once its file does. Neither the listing nor the table is ever held in memory as a whole.

    Args:
        force: score everything, whatever the table has.

    Raises:
        UserError: the archive can't be listed or holds no image, or the table can't be written.
    """
    now = datetime.now(UTC)
    run_id = f"{now:%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"
    with tempfile.TemporaryDirectory(prefix="diffad-plan-") as scratch:
        listing = Path(scratch) / "listing.parquet"
        images, other_files = _list_archive(archive, listing)
        if images == 0:
            raise UserError(
                f"{archive} holds no images ({other_files} other files): give a folder or prefix of files ending in "
                ".png, .jpg, .tif or alike"
            )
        connection = connect(table)
        # Spilling to disk keeps a sort of millions of rows within bounds.
        connection.execute(f"SET temp_directory = {quoted(scratch)}")
        done = ""
        if not force and has_rows(table):
            retried = ", ".join(map(quoted, RETRIED))
            done = (
                f"WHERE image_id NOT IN (SELECT image_id FROM {rows_of(table, 'scores')} WHERE "
                f"detector_fingerprint = {quoted(fingerprint)} AND status NOT IN ({retried}))"
            )
        selected = f"FROM read_parquet({quoted(str(listing))}) {done}"
        ((planned,),) = connection.execute(f"SELECT count(*) {selected}").fetchall()
        size = rows_a_shard(planned, image_size)
        plan = Plan(
            run_id=run_id,
            run_date=f"{now:%Y-%m-%d}",
            table=table,
            archive=archive,
            detector=detector,
            fingerprint=fingerprint,
            images=planned,
            skipped=images - planned,
            other_files=other_files,
            shards=-(-planned // size),
            settings=settings,
        )
        if planned:
            reader = connection.sql(f"SELECT * {selected} ORDER BY image_uri").to_arrow_reader(LISTING_ROWS)
            try:
                for shard, rows in enumerate(_chunks(reader, size)):
                    storage.write(plan.manifest_file(shard), parquet_bytes(rows.cast(MANIFEST)))
                storage.write(plan.plan_file, json.dumps(asdict(plan), indent=1).encode())
            except OSError as error:
                raise UserError(f"the table {table} can't be written: {error}") from error
    return plan


def _list_archive(archive: str, listing: Path) -> tuple[int, int]:
    """Write the archive's images to a local Parquet file; the numbers of images and of other files."""
    images = other_files = 0
    rows: list[dict[str, Any]] = []
    try:
        with pq.ParquetWriter(listing, MANIFEST, compression="zstd") as writer:
            for file in storage.walk(archive):
                if not is_named_image(file.uri):
                    other_files += 1
                    continue
                images += 1
                rows.append(
                    {
                        "image_id": image_id(file.uri, file.version),
                        "image_uri": file.uri,
                        "image_version": file.version,
                        "image_bytes": file.bytes,
                        "image_modified": file.modified,
                    }
                )
                if len(rows) == LISTING_ROWS:
                    writer.write_table(to_table(rows, MANIFEST))
                    rows.clear()
            writer.write_table(to_table(rows, MANIFEST))
    except FileNotFoundError as error:
        raise UserError(f"no archive at {archive}: check the path or URI ({error})") from error
    except PermissionError as error:
        raise UserError(f"{archive} can't be listed: {error}. Check the credentials in the environment") from error
    except OSError as error:
        raise UserError(f"{archive} can't be listed: {error}") from error
    return images, other_files


def _chunks(reader: pa.RecordBatchReader, size: int) -> Iterator[pa.Table]:
    """The rows of a reader in tables of `size` rows, the last one shorter."""
    waiting = reader.schema.empty_table()
    for batch in reader:
        waiting = pa.concat_tables([waiting, pa.Table.from_batches([batch])])
        while len(waiting) >= size:
            yield waiting.slice(0, size)
            waiting = waiting.slice(size)
    if len(waiting):
        yield waiting


def unfinished_plan(table: str, archive: str, fingerprint: str, settings: dict[str, Any]) -> Plan | None:
    """The last plan for the same work that was never completed, or None."""
    try:
        files = {file.uri for file in storage.walk(f"{table}/runs")}
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"the table {table} can't be read: {error}") from error
    for uri in sorted((uri for uri in files if uri.endswith(PLAN_SUFFIX)), reverse=True):
        if uri.removesuffix(PLAN_SUFFIX) + ".json" in files:
            continue
        plan = Plan(**json.loads(storage.read(uri)))
        if (plan.archive, plan.fingerprint, plan.settings) == (archive, fingerprint, settings):
            return plan
    return None


def done_shards(plan: Plan) -> set[int]:
    """Numbers of the shards whose scores are written."""
    prefix = f"{plan.run_id}-"
    done = set()
    try:
        for file in storage.walk(f"{plan.table}/scores/run_date={plan.run_date}"):
            name = file.uri.rsplit("/", 1)[-1]
            if name.startswith(prefix) and name.endswith(".parquet"):
                done.add(int(name.removeprefix(prefix).removesuffix(".parquet")))
    except FileNotFoundError:
        return set()
    return done
