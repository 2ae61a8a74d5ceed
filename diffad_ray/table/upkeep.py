"""When a table is worth compacting."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from diffad_ray import storage
from diffad_ray.table.parts import SCORES, VERDICTS, part_of, run_of
from diffad_ray.table.runs import ended_runs
from diffad_ray.table.schema import read_schema
from diffad_ray.table.snapshot import take_snapshot

SMALL_BYTES = 2_000_000
"Size of a file with about 50,000 rows. Queries over smaller files spend most of their time on opening them."
MANY_FILES = 64
"Number of small files that take a third of a second to open on an object store."


def reasons_to_compact(table: str, many_files: int = MANY_FILES) -> list[str]:
    """Return what a compaction would correct, in words that follow "the table has"; empty if it does not pay.

    Args:
        many_files: number of small files from which on they are a reason.

    Raises:
        OSError: the table can't be listed.
    """
    ended = ended_runs(table)
    small: Counter[str] = Counter()
    for path, size in _files(table):
        is_ended = part_of(path) in (SCORES, VERDICTS) and ((run := run_of(path)) is None or run in ended)
        if is_ended and size < SMALL_BYTES:
            small[path.rpartition("/")[0]] += 1
    mergeable = sum(count for count in small.values() if count > 1)
    reasons = [f"{mergeable} small files"] if mergeable >= many_files else []
    if take_snapshot(table).superseded:
        reasons.append("rows that a later run has superseded, which engines other than `query` read too")
    schema = read_schema(table)
    if schema is not None and not schema.is_uniform:
        reasons.append("files that lack some columns, which engines other than `query` overlook or refuse")
    return reasons


def _files(table: str) -> Iterator[tuple[str, int]]:
    """Yield paths within the table, and sizes, of the files that queries open one by one."""
    for part in (SCORES, VERDICTS):
        if part is SCORES or storage.has_files(f"{table}/{part.name}"):
            for file in storage.walk(f"{table}/{part.name}"):
                yield file.uri.removeprefix(f"{table}/"), file.bytes
