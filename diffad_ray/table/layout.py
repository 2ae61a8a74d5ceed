"""The table's columns and files.

    TABLE/scores/run_date=2026-11-21/<run>-00012.parquet     a row an image
    TABLE/regions/run_date=2026-11-21/<run>-00012.parquet    a row a connected region
    TABLE/masks/<fingerprint>/<xx>/<image_id>.png            masks, by policy
    TABLE/manifests/<run>/00012.parquet                      what a run set out to score
    TABLE/runs/<run>.planning                                while its manifests are written
    TABLE/runs/<run>.plan.json                               its plan
    TABLE/runs/<run>.json                                    its record, written last
    TABLE/leases/00000007.json                               who writes, or wrote last

A shard's scores file is the mark that the shard is done, so everything else of the shard is written before it.
"""

from __future__ import annotations

import hashlib
import io
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from diffad_ray.sql import quoted as quoted

SCORES = pa.schema(
    [
        ("image_id", pa.int64()),
        ("image_uri", pa.string()),
        ("image_version", pa.string()),
        ("image_bytes", pa.int64()),
        ("image_modified", pa.timestamp("us", "UTC")),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("mode", pa.string()),
        ("status", pa.string()),
        ("error", pa.string()),
        ("score", pa.float32()),
        ("tail_probability", pa.float64()),
        ("threshold", pa.float32()),
        ("is_anomalous", pa.bool_()),
        ("anomalous_fraction", pa.float32()),
        ("region_count", pa.int32()),
        ("mask_uri", pa.string()),
        ("detector", pa.string()),
        ("detector_fingerprint", pa.string()),
        ("run_id", pa.string()),
        ("scored_at", pa.timestamp("us", "UTC")),
    ]
)
REGIONS = pa.schema(
    [
        ("image_id", pa.int64()),
        ("region", pa.int32()),
        ("x", pa.int32()),
        ("y", pa.int32()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("area", pa.int64()),
        ("peak", pa.float32()),
        ("mean", pa.float32()),
        ("centroid_x", pa.float32()),
        ("centroid_y", pa.float32()),
        ("mask_runs", pa.list_(pa.int32())),
        ("detector_fingerprint", pa.string()),
        ("run_id", pa.string()),
    ]
)
IMAGE = pa.schema([SCORES.field(name) for name in SCORES.names[:5]])
"What a listing says of an image."
MANIFEST = IMAGE.append(pa.field("detector_fingerprint", pa.string()))
"What a run sets out to score; columns from path templates and manifests follow."


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
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def shard_file(table: str, kind: str, run_date: str, run_id: str, shard: int) -> str:
    """Location of a shard's file; `kind` is `scores` or `regions`."""
    return f"{table}/{kind}/run_date={run_date}/{run_id}-{shard:05d}.parquet"


def mask_file(table: str, fingerprint: str, image: int) -> str:
    """Location of an image's mask: made of numbers alone, so that no image's name can lead it astray."""
    name = f"{image & (2**64 - 1):016x}"
    return f"{table}/masks/{fingerprint}/{name[:2]}/{name}.png"


def to_table(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    """Rows as a table; a column that a row lacks is null there."""
    return pa.Table.from_pylist(rows, schema=schema)
