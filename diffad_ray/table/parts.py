"""The parts of a table, each declared once: its columns, its files, and how compaction and verification treat it.

A new part is a `Part` in `PARTS`. Listing, compaction and verification then know it, and a table that was written
before the part existed reads as one in which the part has no rows.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

from diffad_ray.sql import identifier

RESERVED_PREFIXES = ("anomal", "decision", "detector_", "diffad_", "score", "threshold", "verdict")
"""Columns of users' manifests and path templates may not begin with these. Columns that we add to `scores` or
`manifests` after version 0.1 must, because then no table and no nightly job of a user has a column of that name. What
plants call their own columns (`image_name`, `run_number`, `model_year`, `region`, `_id`) is not among them; a column of
ours about an image as it was scored can begin with `scored_`."""


@dataclass(frozen=True)
class Part:
    """A folder of a table, and the files in it.

    Attributes:
        name: of the folder.
        files: a regular expression for the paths of its files below the folder.
        schema: the columns of its Parquet files, to which `scores` and `manifests` add the user's; None where its
            files are of another kind.
        divided_by: the folders of its Parquet files. `run_date`: one a day, with files `<run>-<shard>.parquet`;
            `run`: one a run, with files `<shard>.parquet`; empty: no folders, and a file `<run>.parquet` a run.
        key: columns that tell a row from all others. A part that is divided by run does not repeat the run in it.
        order: compaction sorts by these, so that a search for an image skips most rows of a file; empty: it leaves the
            part as it is.
        since: the first schema version that has the part.
        is_of_runs: whether runs write it. People write the others, and no run has a row of them.
    """

    name: str
    files: str
    schema: pa.Schema | None = None
    divided_by: Literal["run_date", "run", ""] = ""
    key: tuple[str, ...] = ()
    order: tuple[str, ...] = ()
    since: int = 1
    is_of_runs: bool = True

    @property
    def columns(self) -> pa.Schema:
        """The declared columns of a part that is made of Parquet files."""
        assert self.schema is not None, f"{self.name} is not made of Parquet files"
        return self.schema


_BY_RUN_DATE, _BY_RUN = r"run_date=\d{4}-\d\d-\d\d/[^/]+\.parquet", r"[^/]+/[^/]+\.parquet"
_FILE_A_RUN = r"[^/]+\.parquet"

SCORES = Part(
    "scores",
    _BY_RUN_DATE,
    pa.schema(
        [
            ("image_id", pa.int64()),
            ("image_uri", pa.string()),
            ("image_version", pa.string()),
            ("image_bytes", pa.int64()),
            ("image_modified", pa.timestamp("us", "UTC")),
            ("width", pa.int32()),
            ("height", pa.int32()),
            ("mode", pa.string()),
            ("brightness", pa.float32()),
            ("contrast", pa.float32()),
            ("sharpness", pa.float32()),
            ("status", pa.string()),
            ("error", pa.string()),
            ("score", pa.float32()),
            ("scored_by", pa.string()),
            ("score_of_gate", pa.float32()),
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
    ),
    divided_by="run_date",
    key=("image_id", "detector_fingerprint", "run_id"),
    order=("image_uri",),
)
REGIONS = Part(
    "regions",
    _BY_RUN_DATE,
    pa.schema(
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
    ),
    divided_by="run_date",
    key=("image_id", "detector_fingerprint", "run_id", "region"),
    order=("image_id", "region"),
)
IMAGE = pa.schema([SCORES.columns.field(name) for name in SCORES.columns.names[:5]])
"What a listing says of an image."
MANIFESTS = Part(
    "manifests",
    _BY_RUN,
    IMAGE.append(pa.field("detector_fingerprint", pa.string())),
    divided_by="run",
    key=("image_id", "detector_fingerprint"),
    order=("image_uri",),
)
SUPERSEDED = Part(
    "superseded",
    _FILE_A_RUN,
    pa.schema(
        [
            *(SCORES.columns.field(name) for name in (*SCORES.key, "status", "is_anomalous")),
            pa.field("superseded_by", pa.string()),
        ]
    ),
    key=SCORES.key,
    since=2,
)
"""Rows of earlier runs that a run replaces: an image that was tried again, or scored again by `force`. `run_id` is the
run of the old row, `superseded_by` the run of the new one."""
DROPPED = Part("dropped", _FILE_A_RUN, SUPERSEDED.columns, key=SCORES.key, since=2)
"Superseded rows that compaction has removed from `scores`. Only verification reads them."
NO_RUN = "none"
"The name of an empty file in `superseded`. Engines whose patterns must match some file find this one."

VERDICTS = Part(
    "verdicts",
    r"(\d{8}T\d{6}\.\d{6}Z-[0-9a-f]{8}|merged-[0-9a-f]{16})\.parquet",
    pa.schema(
        [
            ("image_id", pa.int64()),
            ("image_uri", pa.string()),
            ("detector_fingerprint", pa.string()),
            ("verdict", pa.string()),
            ("kind", pa.string()),
            ("note", pa.string()),
            ("reviewer", pa.string()),
            ("sample", pa.string()),
            ("reviewed_at", pa.timestamp("us", "UTC")),
        ]
    ),
    key=("image_id", "reviewer", "reviewed_at"),
    order=("reviewed_at", "image_id", "reviewer"),
    is_of_runs=False,
)
"""What people say of images: a file a save. No row is ever changed or removed; compaction copies the rows of many saves
into one file. A null verdict withdraws what the reviewer said before."""
SAMPLES = Part(
    "samples",
    r"\d{8}T\d{6}\.\d{6}Z-[0-9a-f]{8}\.parquet",
    pa.schema(
        [
            ("image_id", pa.int64()),
            ("image_uri", pa.string()),
            ("detector_fingerprint", pa.string()),
            ("stratum", pa.string()),
            ("stratum_images", pa.int64()),
            ("sampled", pa.int64()),
            ("sampled_at", pa.timestamp("us", "UTC")),
        ]
    ),
    key=("image_id", "detector_fingerprint"),
    is_of_runs=False,
)
"Random samples of images for review: a file a sample, a row an image, with the sizes of its stratum and of its sample."

MASKS = Part("masks", r"[^/]+/[0-9a-f]{2}/[0-9a-f]{16}\.png")
RUNS = Part("runs", r"[^/]+\.(json|planning)")
REQUESTS = Part("requests", r"[0-9a-f]{16}/([0-9a-f]{32}\.parquet|detector\.json)")
"Rows of requests to a server, until a run of the server appends them."
LEASES = Part("leases", r"\d{8,}\.json")
COMPACTIONS = Part("compactions", r"merged-[0-9a-f]{16}\.json")
RETENTION = Part("retention", r"rule\.json")
DETECTORS = Part("detectors", r"[0-9a-f]{16}\.json", since=2)
THRESHOLDS = Part("thresholds", r"\d{8}T\d{6}\.\d{6}Z-[0-9a-f]{8}\.json", since=2)

SCHEMA_FILE = "schema.json"
"The columns of all rows, beside the parts."

_ALL = (
    SCORES,
    REGIONS,
    MANIFESTS,
    SUPERSEDED,
    DROPPED,
    VERDICTS,
    SAMPLES,
    MASKS,
    RUNS,
    REQUESTS,
    LEASES,
    COMPACTIONS,
    RETENTION,
    DETECTORS,
    THRESHOLDS,
)
PARTS = {part.name: part for part in _ALL}
PARQUET_PARTS = {name: part for name, part in PARTS.items() if part.schema is not None}

_SHARD = re.compile(r"(?P<run>.+)-\d{5,}\.parquet")
_MERGED = re.compile(r"merged-[0-9a-f]{16}\.parquet")
"No run is called so, so that no such file is taken for a shard that is done."


def part_of(path: str) -> Part | None:
    """The part to which a path within a table belongs; None: it is no file of a table."""
    name, _, below = path.partition("/")
    part = PARTS.get(name)
    return part if part is not None and re.fullmatch(part.files, below) else None


def run_of(path: str) -> str | None:
    """The run of a Parquet file of a part, as its path within the table tells, rightly or not; None: it has rows of
    several runs, or is written by none."""
    name, *folders, file = path.split("/")
    if not PARTS[name].is_of_runs:
        return None
    if not PARTS[name].divided_by:
        return file.removesuffix(".parquet")
    if PARTS[name].divided_by == "run":
        return folders[0]
    if _MERGED.fullmatch(file):
        return None
    shard = _SHARD.fullmatch(file)
    return shard["run"] if shard else file


def shard_file(table: str, part: str, run_date: str, run_id: str, shard: int) -> str:
    """Location of a shard's file of a part that is made of Parquet files."""
    if PARTS[part].divided_by == "run":
        return f"{table}/{part}/{run_id}/{shard:05d}.parquet"
    return f"{table}/{part}/run_date={run_date}/{run_id}-{shard:05d}.parquet"


def run_file(table: str, part: str, run_id: str) -> str:
    """Location of a run's file of a part that has one a run."""
    return f"{table}/{part}/{run_id}.parquet"


def completed(rows: str, present: Iterable[str], types: dict[str, str]) -> str:
    """SQL for rows with all columns that they should have: null where they were written before the column existed. Rows
    that lack none are left as they are, so that a scan stays one.

    Args:
        rows: what follows FROM.
        present: names of the columns that the rows have.
        types: DuckDB's types of the columns that they should have.
    """
    has = set(present)
    nulls = [f"NULL::{kind} AS {identifier(name)}" for name, kind in types.items() if name not in has]
    return f"(SELECT *, {', '.join(nulls)} FROM {rows})" if nulls else rows
