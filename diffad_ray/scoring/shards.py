"""Cuts the images of a run into shards, and writes their manifests."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import NamedTuple

import pyarrow as pa

from diffad_ray import storage
from diffad_ray.bundles.bundle import Bundle
from diffad_ray.scoring.selection import Routed, Selection
from diffad_ray.scoring.settings import ScoringSettings
from diffad_ray.sql import quoted
from diffad_ray.table.layout import MANIFEST, parquet_bytes
from diffad_ray.table.runs import PlannedDetector

READ_ROWS = 50_000
SHARD_BYTES = 48_000_000
"Most bytes of a shard's pixels, or files if the next stage decodes them; a shard is one undivided block of Ray Data."
SMALLEST_SHARD, WANTED_SHARDS = 16, 64
MOST_LARGE_IMAGES, UNKNOWN_BYTES = 64, 4_000_000
"""Most images of a shard for detectors that see tiles, and the bytes that are assumed for an image of unknown size."""
WRITERS = 16


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


def limits_of(total: int, detectors: Sequence[Routed], settings: ScoringSettings) -> dict[str, ShardLimits]:
    """Return the limits of shards by fingerprint; the empty one is that of images without a detector."""
    limits = {d.bundle.fingerprint: shard_limits(total, d.bundle, settings.shard_images) for d in detectors}
    return limits | {"": ShardLimits(settings.shard_images or READ_ROWS, None)}


def write_manifests(
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
