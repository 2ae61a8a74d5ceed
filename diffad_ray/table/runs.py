"""The runs of a table: the plan of each run, and the record of what it did."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from diffad_ray import storage
from diffad_ray.errors import UserError
from diffad_ray.table.documents import document, parsed, refuse_newer, refuse_unreleased, schema_of
from diffad_ray.table.gates import GateCheck, PlannedGate
from diffad_ray.table.parts import shard_file

PLAN_SUFFIX, PLANNING_SUFFIX = ".plan.json", ".planning"


@dataclass(frozen=True)
class PlannedDetector:
    """A detector of a run, and the number of images that it is to score. An empty location stands for no detector, for
    images that no route leads to one."""

    location: str
    name: str
    fingerprint: str
    images: int


@dataclass(frozen=True)
class Plan:
    """The plan of a run.

    Attributes:
        run_id: name of the run; names sort by the time of start.
        run_date: date of the partition that gets the run's rows.
        table, archive: locations.
        detectors: the detectors that score the images.
        images: number of images to score; `skipped`: number of images that the table has already; `other_files`: number
            of files that are no images.
        shards: number of manifest files.
        checks_versions: whether the versions are those of the store, so that a fetch notices a replaced object.
        columns: names of the columns that not every table has; the manifests hold their values.
        notes: what the user should know about the archive, in sentences.
        work: hash of everything that was asked for; the same command has the same hash.
        settings: resolved settings.
        gates: the gates that take a first look; none in a run without them.
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
    gates: list[PlannedGate] = field(default_factory=list)

    def __post_init__(self) -> None:
        # Detectors that were read from JSON are dictionaries.
        detectors = [d if isinstance(d, PlannedDetector) else PlannedDetector(**d) for d in self.detectors]
        object.__setattr__(self, "detectors", detectors)
        gates = [gate if isinstance(gate, PlannedGate) else PlannedGate(**gate) for gate in self.gates]
        object.__setattr__(self, "gates", gates)

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
    """The record of what a run did, which is stored beside its plan. A run without a record is in progress, or was
    interrupted.

    Attributes:
        state: `finished`, or `abandoned` if a run of other work found it interrupted. The missing shards of an
            abandoned run are never written, and the next run that plans their images scores them.
        images: number of rows written; `skipped`: number of images that the table had already; `other_files`: number of
            files that are no images.
        by_status: number of rows by status.
        anomalous: number of images whose score reaches the threshold.
        modes: memory formats and precisions in which the networks ran.
        seconds: duration of the last call, without earlier calls that were interrupted.
        resumed: whether the last call finished an interrupted run.
        processor_seconds: processor time of the stages in all workers during the last call.
        cpus, gpus, machines: number of those that the last call worked on.
        findings: what the user should know about the rows, in sentences.
        gates: what the audit of each gate found.
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
    gates: list[GateCheck] = field(default_factory=list)

    def __post_init__(self) -> None:
        gates = [gate if isinstance(gate, GateCheck) else GateCheck(**gate) for gate in self.gates]
        object.__setattr__(self, "gates", gates)


class Run(NamedTuple):
    """A run of a table. A run without a record is in progress, or was interrupted."""

    plan: Plan
    record: RunRecord | None


def run_files(table: str) -> list[str]:
    """Return the files of all runs in sorted order: plans, records, and marks of plans that are being made.

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
    """Return all runs of a table, the oldest first.

    Raises:
        UserError: the table can't be read, or is of a newer schema version than this code knows.
    """
    files = run_files(table)
    with_record = {uri for uri in files if not uri.endswith((PLAN_SUFFIX, PLANNING_SUFFIX))}

    def run(uri: str) -> Run:
        # The stored location may be wrong, because a table can be moved, or be reached by another path.
        plan = parsed(Plan, storage.read(uri), uri, table=table)
        if plan.record_file not in with_record:
            return Run(plan, None)
        return Run(plan, parsed(RunRecord, storage.read(plan.record_file), plan.record_file))

    return [run(uri) for uri in files if uri.endswith(PLAN_SUFFIX)]


def refuse_other_table(table: str) -> None:
    """Raise UserError if code of an unknown schema version planned the newest run of a table.

    It suffices to check the newest run. Code that writes to a table reads all runs first, so older code never writes
    after newer code.
    """
    plans = [uri for uri in run_files(table) if uri.endswith(PLAN_SUFFIX)]
    if plans:
        schema = schema_of(storage.read(plans[-1]))
        refuse_newer(schema, f"the table {table}")
        refuse_unreleased(schema, f"the table {table}")


def ended_runs(table: str) -> set[str]:
    """Return the names of the runs that have a record."""
    names = [uri.rpartition("/")[2] for uri in run_files(table)]
    return {name.removesuffix(".json") for name in names if not name.endswith((PLAN_SUFFIX, PLANNING_SUFFIX))}


def write_plan(plan: Plan) -> None:
    """Write the plan of a run. The run exists from this moment on."""
    storage.write(plan.plan_file, document(plan))


def write_record(plan: Plan, record: RunRecord) -> None:
    """Write the record of a run. The run has ended from this moment on."""
    storage.write(plan.record_file, document(record))
