"""What people say of images: the files of `TABLE/verdicts/`, and the view `verdicts` over them.

A save is one small file, whose name is made of the time and the id of the save. A save that is repeated, because its
acknowledgement was lost, finds its own file and changes nothing. Two reviewers never write the same file. Compaction
copies the rows of many saves into one file. A save that is repeated after that leaves the same row again, which the
views show once. A reviewer's last word about an image counts; a null verdict withdraws what the reviewer said before.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
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
from diffad_ray.table.reading import file_list, no_rows
from diffad_ray.table.snapshot import paths_below

Word: TypeAlias = Literal["defect", "good", "unsure"]
WORDS: tuple[str, ...] = get_args(Word)
SAVE_ID = re.compile(r"[0-9a-f]{8}")
LONGEST = {"kind": 100, "note": 2000, "reviewer": 100, "detector_fingerprint": 100, "image_uri": 4096}
"Characters of the texts of a verdict."

COLUMNS = ", ".join(VERDICTS.columns.names)
LAST_WORDS = """SELECT image_id, image_uri, verdict, kind, note, reviewer, reviewed_at, sample, verdict_count,
    is_disputed
FROM (
    SELECT word.*, count(*) OVER (PARTITION BY image_id) AS verdict_count,
        min(verdict) OVER (PARTITION BY image_id) <> max(verdict) OVER (PARTITION BY image_id) AS is_disputed,
        row_number() OVER (PARTITION BY image_id ORDER BY reviewed_at DESC, reviewer) AS last_of_image
    FROM (
        SELECT said.*, row_number() OVER (
            PARTITION BY image_id, reviewer ORDER BY reviewed_at DESC, verdict, kind, note
        ) AS last_of_reviewer
        FROM {rows} said
    ) word
    WHERE last_of_reviewer = 1 AND verdict IS NOT NULL
) told WHERE last_of_image = 1"""
"""The last verdict of each image; `rows` is the name of a table or view with all that was said. Every engine that
`analytics/ddl.py` knows understands it. A row that is there twice changes nothing."""
JUDGED_FOR_SAMPLE = """SELECT DISTINCT image_id FROM (
    FROM all_verdicts WHERE sample = ?
    QUALIFY row_number() OVER (PARTITION BY image_id, reviewer ORDER BY reviewed_at DESC) = 1
) WHERE verdict IS NOT NULL"""
"""The images that were judged for a sample, whose id is the parameter of the query. An image that was judged as an
alert alone is not among them: alerts are chosen by severity, not at random."""


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
    """Return the locations of all files of verdicts, the oldest save first."""
    paths = paths_below(table, VERDICTS.name)
    return [f"{table}/{path}" for path in paths if part_of(path) is VERDICTS]


def create_verdicts(connection: duckdb.DuckDBPyConnection, files: Iterable[str]) -> None:
    """Create the views `all_verdicts`, all that reviewers said, and `verdicts`, the last verdict of each image.

    `all_verdicts` has what later verdicts replace or withdraw, too. In `verdicts`, `verdict_count` is the number of
    reviewers whose word stands, and `is_disputed` is true where their words differ.

    Args:
        files: locations of the files of verdicts, of a snapshot.
    """
    listed = list(files)
    if listed:
        # All versions of this code wrote the same columns, so the footers of all files need not be read beforehand.
        rows = f"read_parquet({file_list(listed)}, hive_partitioning = false)"
    else:
        rows = "no_verdicts"
        connection.register(rows, no_rows(VERDICTS.columns))
    connection.execute(f"CREATE VIEW all_verdicts AS SELECT DISTINCT {COLUMNS} FROM {rows}")
    connection.execute(f"CREATE VIEW verdicts AS {LAST_WORDS.format(rows='all_verdicts')}")
