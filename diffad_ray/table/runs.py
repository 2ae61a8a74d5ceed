"""The runs of a table: what each set out to do, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from diffad_ray import storage
from diffad_ray.errors import UserError
from diffad_ray.table.documents import document, parsed, refuse_newer, refuse_unreleased, schema_of
from diffad_ray.table.parts import shard_file

PLAN_SUFFIX, PLANNING_SUFFIX = ".plan.json", ".planning"


@dataclass(frozen=True)
class PlannedDetector:
    """A detector of a run, and how many images it is to score; an empty location is no detector: no route led there."""

    location: str
    name: str
    fingerprint: str
    images: int


@dataclass(frozen=True)
class Plan:
    """What a run sets out to do.

    Attributes:
        run_id: sorts by time of start.
        run_date: partition of the run's rows.
        table, archive: locations.
        detectors: what scores the images.
        images: to score; `skipped`: the table has them already; `other_files`: files that are no images.
        shards: number of manifest files.
        checks_versions: whether versions are the store's, so that a fetch can tell that an object was replaced.
        columns: names of the columns beyond those of every table; the manifests hold them.
        notes: what the user should know of the archive, in sentences.
        work: hash of everything that was asked for: the same command has the same one.
        settings: resolved settings.
    """

    run_id: str
    run_date: str
    table: str
    archive: str
    detectors: list[PlannedDetector]
    images: int
    skipped: int
    other_files: int
    shards: int
    checks_versions: bool
    columns: list[str]
    notes: list[str]
    work: str
    settings: dict[str, Any]

    def __post_init__(self) -> None:
        # Read back from JSON, they are dictionaries.
        detectors = [d if isinstance(d, PlannedDetector) else PlannedDetector(**d) for d in self.detectors]
        object.__setattr__(self, "detectors", detectors)

    @property
    def plan_file(self) -> str:
        return f"{self.table}/runs/{self.run_id}{PLAN_SUFFIX}"

    @property
    def record_file(self) -> str:
        return f"{self.table}/runs/{self.run_id}.json"

    def manifest_file(self, shard: int) -> str:
        return shard_file(self.table, "manifests", self.run_date, self.run_id, shard)


@dataclass(frozen=True)
class RunRecord:
    """What a run did; kept beside its plan. A run without a record goes on, or was interrupted.

    Attributes:
        state: `finished`, or `abandoned` where a run of other work found it interrupted: its missing shards will never
            be written, and the images in them belong to whichever run plans them next.
        images: rows written; `skipped`: images that the table had already; `other_files`: files that are no images.
        by_status: rows by status.
        anomalous: images at or over the threshold.
        modes: memory formats and precisions that the networks ran in, as their detectors say.
        seconds: of the last call; earlier, interrupted ones are not counted.
        resumed: whether an interrupted run was finished.
        processor_seconds: that the stages took in all workers, of the last call.
        cpus, gpus, machines: that the last call worked on.
        findings: what the user should know of the rows, in sentences.
    """

    run_id: str
    state: Literal["finished", "abandoned"]
    images: int
    skipped: int
    other_files: int
    by_status: dict[str, int]
    anomalous: int
    modes: list[str]
    seconds: float
    resumed: bool
    finished_at: str
    processor_seconds: float = 0.0
    cpus: int = 0
    gpus: int = 0
    machines: int = 0
    findings: list[str] = field(default_factory=list)


class Run(NamedTuple):
    """A run of a table; without a record it goes on or was interrupted."""

    plan: Plan
    record: RunRecord | None


def run_files(table: str) -> list[str]:
    """The files of all runs, sorted: plans, records, and marks of plans that are being made.

    Raises:
        UserError: the table can't be read.
    """
    try:
        return [file.uri for file in storage.walk(f"{table}/runs")]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"the table {table} can't be read: {error}") from error


def read_runs(table: str) -> list[Run]:
    """All runs of a table, the oldest first.

    Raises:
        UserError: the table can't be read, or is of a newer schema version than this code knows.
    """
    files = run_files(table)
    with_record = {uri for uri in files if not uri.endswith((PLAN_SUFFIX, PLANNING_SUFFIX))}

    def run(uri: str) -> Run:
        # A table may have been moved, or be reached by another path than when the run wrote it.
        plan = parsed(Plan, storage.read(uri), uri, table=table)
        if plan.record_file not in with_record:
            return Run(plan, None)
        return Run(plan, parsed(RunRecord, storage.read(plan.record_file), plan.record_file))

    return [run(uri) for uri in files if uri.endswith(PLAN_SUFFIX)]


def refuse_other_table(table: str) -> None:
    """Raise UserError if the newest run of a table was planned by code of a schema version that this code knows not.

    The newest one is enough: who writes to a table reads all of its runs first, so no older code follows newer code.
    """
    plans = [uri for uri in run_files(table) if uri.endswith(PLAN_SUFFIX)]
    if plans:
        schema = schema_of(storage.read(plans[-1]))
        refuse_newer(schema, f"the table {table}")
        refuse_unreleased(schema, f"the table {table}")


def ended_runs(table: str) -> set[str]:
    """Names of the runs that have a record."""
    names = [uri.rpartition("/")[2] for uri in run_files(table)]
    return {name.removesuffix(".json") for name in names if not name.endswith((PLAN_SUFFIX, PLANNING_SUFFIX))}


def write_plan(plan: Plan) -> None:
    """From this moment on the run exists."""
    storage.write(plan.plan_file, document(plan))


def write_record(plan: Plan, record: RunRecord) -> None:
    """From this moment on the run is over."""
    storage.write(plan.record_file, document(record))
