"""The files of a table that are read together, so that each row is read once while others write and compact.

The order of the listings matters, and each step says why. If a file is removed between listing and reading, the query
fails and `views.read_views` repeats it.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from diffad_ray import storage
from diffad_ray.table.documents import document, parsed
from diffad_ray.table.parts import NO_RUN, PARQUET_PARTS, REGIONS, SCORES, SUPERSEDED, VERDICTS, part_of, run_of
from diffad_ray.table.runs import ended_runs

READERS = 8
"Number of journals that are read at the same time."


@dataclass(frozen=True)
class Merger:
    """A merger of files. Paths are relative to the table, because tables are moved.

    Attributes:
        kind: name of the part.
        sources, target: the merged files and the file that replaces them.
        rows: number of rows of the target.
        superseded: files with the rows that the target leaves out.
    """

    kind: str
    sources: list[str]
    target: str
    rows: int
    superseded: list[str]

    @property
    def journal(self) -> str:
        return f"compactions/{self.target.rpartition('/')[2].removesuffix('.parquet')}.json"

    def to_bytes(self) -> bytes:
        return document(self)


@dataclass(frozen=True)
class Snapshot:
    """Files of a table that are consistent with each other. Paths are relative to the table.

    Attributes:
        files: by part, for the parts that are divided by date and for verdicts.
        superseded: entries of ended runs, which are all in force.
        perhaps_superseded: entries of runs without a record, which are in force if the new row exists.
        unended: files of scores of runs without a record.
    """

    table: str
    files: dict[str, list[str]]
    superseded: list[str]
    perhaps_superseded: list[str]
    unended: list[str]


def take_snapshot(table: str) -> Snapshot:
    """List the files of a table that are to be read together.

    Raises:
        UserError: the table can't be read.
        FileNotFoundError: files were merged while they were listed.
    """
    # Records are listed before the files, so all files of an ended run are listed.
    ended = ended_runs(table)

    def has_ended(path: str) -> bool:
        return (run := run_of(path)) is None or run in ended

    listed = {SCORES.name: _paths(table, SCORES.name)}
    # The other parts are listed after the scores, because the scores of a shard are written last.
    listed |= {
        name: _paths(table, name)
        for name, part in PARQUET_PARTS.items()
        if (part.divided_by == "run_date" or part is VERDICTS) and part is not SCORES
    }
    superseded = [path for path in _paths(table, SUPERSEDED.name) if run_of(path) != NO_RUN]
    # Journals are listed last, because a journal is deleted after the files that it names. If a source was listed and
    # its journal is deleted, the source is deleted too.
    moved = _moved(table, listed)
    files = {name: [path for path in paths if path not in moved] for name, paths in listed.items()}
    done = {path.removeprefix(SCORES.name) for path in files[SCORES.name]}
    files[REGIONS.name] = [
        path for path in files[REGIONS.name] if has_ended(path) or path.removeprefix(REGIONS.name) in done
    ]
    return Snapshot(
        table,
        files,
        superseded=[path for path in superseded if has_ended(path)],
        perhaps_superseded=[path for path in superseded if not has_ended(path)],
        unended=[path for path in files[SCORES.name] if not has_ended(path)],
    )


def pending_mergers(table: str) -> list[Merger]:
    """Return the mergers that a running or killed compaction has not finished."""

    def read(path: str) -> Merger | None:
        try:
            return parsed(Merger, storage.read(f"{table}/{path}"), f"{table}/{path}")
        except FileNotFoundError:
            return None  # it was finished after the listing

    with ThreadPoolExecutor(READERS) as pool:
        return [merger for merger in pool.map(read, paths_below(table, "compactions")) if merger]


def paths_below(table: str, folder: str) -> list[str]:
    """Return the sorted paths, relative to the table, of the files below a folder."""
    try:
        return sorted(file.uri.removeprefix(f"{table}/") for file in storage.walk(f"{table}/{folder}"))
    except FileNotFoundError:
        return []


def _paths(table: str, name: str) -> list[str]:
    return [path for path in paths_below(table, name) if part_of(path) is PARQUET_PARTS[name]]


def _moved(table: str, listed: Mapping[str, list[str]]) -> set[str]:
    """Return the listed files whose rows are in another listed file, of the files that are listed by part."""
    moved: set[str] = set()
    for merger in pending_mergers(table):
        if merger.kind not in listed:
            continue
        there = set(listed[merger.kind])
        if merger.target in there:
            moved |= there & set(merger.sources)
        elif set(merger.sources) - there and storage.exists(f"{table}/{merger.target}"):
            raise FileNotFoundError(f"files of {table} were merged into {merger.target} while they were listed")
    return moved
