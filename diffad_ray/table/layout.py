"""Writes rows and masks as files of a table. `parts` declares the columns and the names of these files:

    TABLE/scores/run_date=2026-11-21/<run>-00012.parquet     one row for each image
    TABLE/regions/run_date=2026-11-21/<run>-00012.parquet    one row for each connected region
    TABLE/masks/<fingerprint>/<xx>/<image_id>.png            masks, as the setting `masks` says
    TABLE/manifests/<run>/00012.parquet                      the images that a run planned to score
    TABLE/superseded/<run>.parquet                           rows of earlier runs that this run replaces
    TABLE/dropped/<run>.parquet                              such rows that compaction has removed
    TABLE/verdicts/<time>-<id>.parquet                       what people say of images, a file a save
    TABLE/samples/<sample>.parquet                           a random sample of images for review
    TABLE/schema.json                                        the columns of all rows
    TABLE/runs/<run>.planning                                exists while the manifests of a run are written
    TABLE/runs/<run>.plan.json                               the plan of a run
    TABLE/runs/<run>.json                                    the record of a run, written last
    TABLE/requests/<fingerprint>/<request>.parquet           rows that `serve` has not appended yet
    TABLE/leases/00000007.json                               which process writes to the table, or wrote last
    TABLE/retention/rule.json                                days before which masks and manifests are not kept

A shard is done once its file of scores exists. All other files of a shard are therefore written before it.
"""

from __future__ import annotations

import hashlib
import io
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from diffad_ray.sql import quoted as quoted
from diffad_ray.table import parts
from diffad_ray.table.parts import shard_file as shard_file
from diffad_ray.versions import TABLE_SCHEMA

SCORES, REGIONS, MANIFEST = (part.columns for part in (parts.SCORES, parts.REGIONS, parts.MANIFESTS))
"Columns of the Parquet files. Columns from path templates and manifests follow those of `SCORES` and `MANIFEST`."
TABLE_SCHEMA_KEY = b"diffad_ray.table_schema"
"Key in the metadata of a Parquet file, whose value is the schema version of the code that wrote the file."
TABLE_METADATA = f"KV_METADATA {{{quoted(TABLE_SCHEMA_KEY.decode())}: '{TABLE_SCHEMA}'}}"
"The option of DuckDB's COPY that writes this metadata."


def image_id(uri: str, version: str) -> int:
    """Return the number that identifies a version of an image: a signed 64-bit hash of its URI and version.

    The hash is MD5, because DuckDB computes MD5 too, for millions of images in a second. It makes equal numbers of
    different images improbable, but an attacker could make such images.
    """
    digest = hashlib.md5(f"{uri}\n{version}".encode(), usedforsecurity=False).digest()
    return int.from_bytes(digest[8:], "little", signed=True)


def image_id_sql(uri: str, version: str) -> str:
    """Return an SQL expression for the `image_id` of two columns with URI and version."""
    unsigned = f"md5_number_lower({uri} || chr(10) || {version})::HUGEINT"
    return f"(({unsigned} + 9223372036854775808) % 18446744073709551616 - 9223372036854775808)::BIGINT"


def parquet_bytes(table: pa.Table) -> bytes:
    """Return a table as a Parquet file. It is made in memory, so that one atomic write can publish it."""
    buffer = io.BytesIO()
    metadata = {**(table.schema.metadata or {}), TABLE_SCHEMA_KEY: str(TABLE_SCHEMA).encode()}
    pq.write_table(table.replace_schema_metadata(metadata), buffer, compression="zstd")
    return buffer.getvalue()


def mask_file(table: str, fingerprint: str, image: int) -> str:
    """Return the location of an image's mask. It is made of numbers alone, so that no image name can change the
    folder."""
    name = f"{image & (2**64 - 1):016x}"
    return f"{table}/masks/{fingerprint}/{name[:2]}/{name}.png"


def to_table(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    """Return rows as an Arrow table. A column that a row lacks is null in this row."""
    return pa.Table.from_pylist(rows, schema=schema)
