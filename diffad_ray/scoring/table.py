"""The table: its columns, its files, and the DuckDB connection that reads them.

    TABLE/scores/run_date=2026-11-21/<run>-00012.parquet     a row an image
    TABLE/regions/run_date=2026-11-21/<run>-00012.parquet    a row a connected region
    TABLE/masks/<fingerprint>/<xx>/<image_id>.png            masks, by policy
    TABLE/manifests/<run>/00012.parquet                      what a run set out to score
    TABLE/runs/<run>.plan.json                               its plan
    TABLE/runs/<run>.json                                    its record, written last

A shard's scores file is the mark that the shard is done, so everything else of the shard is written before it.
"""

from __future__ import annotations

import hashlib
import io
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from diffad_ray import storage
from diffad_ray.errors import UserError

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
MANIFEST = pa.schema([SCORES.field(name) for name in SCORES.names[:5]])


def image_id(uri: str, version: str) -> int:
    """Identity of an image's content at a place: a signed 64-bit hash of URI and version."""
    digest = hashlib.blake2b(f"{uri}\n{version}".encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


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


def connect(table: str) -> duckdb.DuckDBPyConnection:
    """A DuckDB connection that can read and write at the table's location."""
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    if not storage.is_local(table):
        import fsspec

        scheme = table.partition("://")[0]
        connection.register_filesystem(fsspec.filesystem(scheme))
    return connection


def has_rows(table: str) -> bool:
    """Whether any run has written scores."""
    return storage.has_files(f"{table}/scores")


def quoted(text: str) -> str:
    """A text as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"


def rows_of(table: str, kind: str) -> str:
    """SQL for all rows of `scores` or `regions`, whatever run wrote them; `run_date` is a column."""
    pattern = quoted(f"{table}/{kind}/run_date=*/*.parquet")
    return f"read_parquet({pattern}, hive_partitioning = true, union_by_name = true)"


def open_table(table: str) -> duckdb.DuckDBPyConnection:
    """Connect, with the views `scores` and `regions`.

    An image that failed and was scored again by a later run shows its last row only.

    Raises:
        UserError: there is no table.
    """
    table = storage.normalised(table)
    try:
        found = has_rows(table)
    except OSError as error:
        raise UserError(f"the table {table} can't be read: {error}") from error
    if not found:
        raise UserError(
            f"no table at {table}: it has no scores. Make one with "
            f"`diffad-ray score ARCHIVE --detector DETECTOR --table {table}`"
        )
    connection = connect(table)
    connection.execute(
        f"CREATE VIEW scores AS SELECT * FROM {rows_of(table, 'scores')} "
        "QUALIFY row_number() OVER (PARTITION BY image_id, detector_fingerprint ORDER BY scored_at DESC, run_id) = 1"
    )
    connection.execute(f"CREATE VIEW regions AS SELECT * FROM {rows_of(table, 'regions')}")
    return connection


def to_table(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    """Rows as a table; a column that a row lacks is null there."""
    return pa.Table.from_pylist(rows, schema=schema)
