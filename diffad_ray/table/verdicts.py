"""What people say of images: the files of `TABLE/verdicts/`, and the view `verdicts` over them.

A save is one small file that is never changed, and its name is made of the time and the id of the save. A save that is
repeated, because its acknowledgement was lost, finds its own file and changes nothing. Two reviewers never write the
same file. A reviewer's last word about an image counts; a null verdict withdraws what the reviewer said before.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Literal, TypeAlias, get_args

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from diffad_ray import storage
from diffad_ray.errors import UserError
from diffad_ray.table.layout import parquet_bytes
from diffad_ray.table.parts import VERDICTS, part_of
from diffad_ray.table.reading import file_list
from diffad_ray.table.snapshot import paths_below

Word: TypeAlias = Literal["defect", "good", "unsure"]
WORDS: tuple[str, ...] = get_args(Word)
SAVE_ID = re.compile(r"[0-9a-f]{8}")
LONGEST = {"kind": 100, "note": 2000, "reviewer": 100, "detector_fingerprint": 100, "image_uri": 4096}
"Characters of the texts of a verdict."

VIEW = """WITH last_words AS (
    FROM {rows}
    QUALIFY row_number() OVER (PARTITION BY image_id, reviewer ORDER BY reviewed_at DESC, verdict, kind, note) = 1
), told AS (
    SELECT *, count(*) OVER (PARTITION BY image_id) AS verdict_count,
        min(verdict) OVER (PARTITION BY image_id) <> max(verdict) OVER (PARTITION BY image_id) AS is_disputed
    FROM last_words WHERE verdict IS NOT NULL
)
SELECT image_id, image_uri, verdict, kind, note, reviewer, reviewed_at, sample, verdict_count, is_disputed FROM told
QUALIFY row_number() OVER (PARTITION BY image_id ORDER BY reviewed_at DESC, reviewer) = 1"""
"The last verdict of each image; `rows` are those of all files."


@dataclass(frozen=True)
class Verdict:
    """What a person said of an image.

    Attributes:
        detector_fingerprint: of the detector whose findings were shown, if any were.
        verdict: None withdraws the reviewer's earlier verdict.
        kind: of the defect, such as `scratch`.
        sample: id of the random sample that the image was shown for.
        reviewed_at: with a time zone.

    Raises:
        UserError: a value is not one that a verdict can have.
    """

    image_id: int
    image_uri: str
    detector_fingerprint: str | None
    verdict: Word | None
    reviewer: str
    reviewed_at: datetime
    kind: str | None = None
    note: str | None = None
    sample: str | None = None

    def __post_init__(self) -> None:
        if self.verdict is not None and self.verdict not in WORDS:
            raise UserError(f"{self.verdict!r} is no verdict: take {', '.join(WORDS)}, or null to withdraw one")
        if not self.reviewer.strip():
            raise UserError("a verdict needs the name of its reviewer")
        if not -(2**63) <= self.image_id < 2**63:
            raise UserError(f"{self.image_id} is no image_id: take it from the table's row")
        if self.reviewed_at.tzinfo is None:
            raise UserError(f"the time {self.reviewed_at.isoformat()} of a verdict needs a time zone, such as Z")
        for name, most in LONGEST.items():
            text = getattr(self, name) or ""
            if len(text) > most:
                raise UserError(f"the {name} of a verdict has {len(text)} characters; {most} are allowed")


def add_verdicts(table: str, verdicts: Sequence[Verdict], save_id: str | None = None) -> bool:
    """Store verdicts as one file; return whether they are new. When this returns, they are stored.

    Args:
        table: the normalised location.
        verdicts: at least one.
        save_id: 8 hexadecimal digits that the client chose for this save; by default a hash of the verdicts.

    Raises:
        UserError: the id has another form, or another save has the same id and time.
    """
    assert verdicts, "a save without verdicts"
    rows = pa.Table.from_pylist([asdict(verdict) for verdict in verdicts], VERDICTS.columns)
    if save_id is None:
        save_id = hashlib.sha256(repr(rows.to_pylist()).encode()).hexdigest()[:8]
    if not SAVE_ID.fullmatch(save_id):
        raise UserError(f"{save_id!r} is no id of a save: it needs 8 hexadecimal digits")
    at = max(verdict.reviewed_at for verdict in verdicts).astimezone(UTC)
    file = f"{table}/{VERDICTS.name}/{at:%Y%m%dT%H%M%S.%fZ}-{save_id}.parquet"
    if storage.create(file, parquet_bytes(rows)):
        return True
    if pq.read_table(pa.BufferReader(storage.read(file))).to_pylist() != rows.to_pylist():
        raise UserError(f"{file} is the save of something else: save the verdict again with another id")
    return False


def verdict_files(table: str) -> list[str]:
    """Return the locations of all saves, the oldest first."""
    paths = paths_below(table, VERDICTS.name)
    return [f"{table}/{path}" for path in paths if part_of(path) is VERDICTS]


def verdict_rows(connection: duckdb.DuckDBPyConnection, table: str) -> str:
    """Return SQL, to follow FROM, of the rows of all saves, also of those that later ones replace."""
    files = verdict_files(table)
    if not files:
        connection.register("no_verdicts", VERDICTS.columns.empty_table())
        return "no_verdicts"
    # All versions of this code wrote the same columns, so the footers of all files need not be read beforehand.
    return f"read_parquet({file_list(files)}, hive_partitioning = false)"


def judged_for_sample(connection: duckdb.DuckDBPyConnection, table: str) -> str:
    """Return SQL of the `image_id` that were judged for a sample, whose id is the parameter of the query.

    An image that was judged as an alert alone is not among them: alerts are chosen by severity, not at random.
    """
    return (
        f"SELECT DISTINCT image_id FROM (FROM {verdict_rows(connection, table)} WHERE sample = ? "
        "QUALIFY row_number() OVER (PARTITION BY image_id, reviewer ORDER BY reviewed_at DESC) = 1) "
        "WHERE verdict IS NOT NULL"
    )


def create_verdicts(connection: duckdb.DuckDBPyConnection, table: str) -> None:
    """Create the view `verdicts`: the last verdict of each image that has one.

    `verdict_count` is the number of reviewers whose word stands, and `is_disputed` is true where their words differ.
    """
    connection.execute(f"CREATE VIEW verdicts AS {VIEW.format(rows=verdict_rows(connection, table))}")
