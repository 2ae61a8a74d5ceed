"""Stratified random samples of a table's images, stored as `TABLE/samples/<id>.parquet` before anyone looks at them.

A sample keeps the size of each stratum and the number of images that were drawn from it, so that figures of the whole
archive can be estimated from it whatever the table holds later.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq

from diffad_ray import storage
from diffad_ray.errors import UserError
from diffad_ray.table.layout import parquet_bytes
from diffad_ray.table.parts import SAMPLES, part_of
from diffad_ray.table.snapshot import paths_below


@dataclass(frozen=True)
class SampledImage:
    """An image of a sample.

    Attributes:
        stratum: name of the group of images that it was drawn from.
        stratum_images: number of images of the stratum when the sample was drawn.
        sampled: number of them that were drawn.
    """

    image_id: int
    image_uri: str
    detector_fingerprint: str
    stratum: str
    stratum_images: int
    sampled: int


@dataclass(frozen=True)
class Sample:
    """A stored sample; its images are in the order in which they are to be reviewed."""

    id: str
    sampled_at: datetime
    images: tuple[SampledImage, ...]


def write_sample(table: str, images: Sequence[SampledImage]) -> Sample:
    """Store a sample, which gets a new id."""
    now = datetime.now(UTC)
    sample = Sample(f"{now:%Y%m%dT%H%M%S.%fZ}-{secrets.token_hex(4)}", now, tuple(images))
    rows = [{**asdict(image), "sampled_at": now} for image in images]
    storage.create(sample_file(table, sample.id), parquet_bytes(pa.Table.from_pylist(rows, SAMPLES.columns)))
    return sample


def read_sample(table: str, sample_id: str) -> Sample:
    """Return a stored sample.

    Raises:
        UserError: the table has none of this id.
    """
    if sample_id not in sample_ids(table):
        raise UserError(
            f"the table {table} has no sample {sample_id}: `diffad-ray review {table} --sample N` draws one"
        )
    rows = pq.read_table(pa.BufferReader(storage.read(sample_file(table, sample_id)))).to_pylist()
    (at,) = {row.pop("sampled_at") for row in rows}
    return Sample(sample_id, at, tuple(SampledImage(**row) for row in rows))


def sample_ids(table: str) -> list[str]:
    """Return the ids of all samples of a table, the oldest first."""
    paths = paths_below(table, SAMPLES.name)
    return [path.rpartition("/")[2].removesuffix(".parquet") for path in paths if part_of(path) is SAMPLES]


def sample_file(table: str, sample_id: str) -> str:
    return f"{table}/{SAMPLES.name}/{sample_id}.parquet"
