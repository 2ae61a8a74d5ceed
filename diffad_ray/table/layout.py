"""How rows and masks of a table are written. `parts` declares the columns and the names of these files:

    TABLE/scores/run_date=2026-11-21/<run>-00012.parquet     a row an image
    TABLE/regions/run_date=2026-11-21/<run>-00012.parquet    a row a connected region
    TABLE/masks/<fingerprint>/<xx>/<image_id>.png            masks, by policy
    TABLE/manifests/<run>/00012.parquet                      what a run set out to score
    TABLE/superseded/<run>.parquet                           rows of earlier runs that this run replaces
    TABLE/dropped/<run>.parquet                              such rows that compaction has removed
    TABLE/verdicts/<time>-<id>.parquet                       what people say of images, a file a save
    TABLE/samples/<sample>.parquet                           a random sample of images for review
    TABLE/schema.json                                        the columns of all rows
    TABLE/runs/<run>.planning                                while its manifests are written
    TABLE/runs/<run>.plan.json                               its plan
    TABLE/runs/<run>.json                                    its record, written last
    TABLE/requests/<fingerprint>/<request>.parquet           rows that `serve` has yet to append
    TABLE/leases/00000007.json                               who writes, or wrote last
    TABLE/retention/rule.json                                days before which masks and manifests are not kept

A shard's scores file is the mark that the shard is done, so everything else of the shard is written before it.
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
"Columns of the Parquet files; those from path templates and manifests follow in `SCORES` and `MANIFEST`."
TABLE_SCHEMA_KEY = b"diffad_ray.table_schema"
"In the metadata of a Parquet file: the version of the code that wrote it."
TABLE_METADATA = f"KV_METADATA {{{quoted(TABLE_SCHEMA_KEY.decode())}: '{TABLE_SCHEMA}'}}"
"The same as an option of DuckDB's COPY."


def image_id(uri: str, version: str) -> int:
    """Identity of an image's content at a place: a signed 64-bit hash of URI and version, here and in SQL.

    MD5 because DuckDB computes it too, millions a second; it guards against chance, not against an enemy.
    """
    digest = hashlib.md5(f"{uri}\n{version}".encode(), usedforsecurity=False).digest()
    return int.from_bytes(digest[8:], "little", signed=True)


def image_id_sql(uri: str, version: str) -> str:
    """`image_id` of two columns, as an SQL expression."""
    unsigned = f"md5_number_lower({uri} || chr(10) || {version})::HUGEINT"
    return f"(({unsigned} + 9223372036854775808) % 18446744073709551616 - 9223372036854775808)::BIGINT"


def parquet_bytes(table: pa.Table) -> bytes:
    """A whole Parquet file; made in memory, so that one atomic write can publish it."""
    buffer = io.BytesIO()
    metadata = {**(table.schema.metadata or {}), TABLE_SCHEMA_KEY: str(TABLE_SCHEMA).encode()}
    pq.write_table(table.replace_schema_metadata(metadata), buffer, compression="zstd")
    return buffer.getvalue()


def mask_file(table: str, fingerprint: str, image: int) -> str:
    """Location of an image's mask: made of numbers alone, so that no image's name can lead it astray."""
    name = f"{image & (2**64 - 1):016x}"
    return f"{table}/masks/{fingerprint}/{name[:2]}/{name}.png"


def to_table(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    """Rows as a table; a column that a row lacks is null there."""
    return pa.Table.from_pylist(rows, schema=schema)
