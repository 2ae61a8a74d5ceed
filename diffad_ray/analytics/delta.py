"""A table as two Delta tables, scores and regions: an export by runs. Plain Parquet files remain the table itself."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import duckdb
import pyarrow as pa

from diffad_ray import storage
from diffad_ray.errors import UserError
from diffad_ray.sql import quoted
from diffad_ray.table.parts import DROPPED, REGIONS, SCORES, SUPERSEDED, run_file
from diffad_ray.table.reading import existing
from diffad_ray.table.runs import read_runs
from diffad_ray.table.views import REGION_DATE, ask_views

if TYPE_CHECKING:
    from deltalake import CommitProperties, DeltaTable

_VERSION = 1
"Of a run's transaction: a run is exported once, and then does not change."
_SAME_IMAGE = "old.image_id = new.image_id AND old.detector_fingerprint = new.detector_fingerprint"
_EMPTIED = "SELECT image_id, detector_fingerprint FROM scores WHERE run_id = {run}"
"The images of a run, whose older regions go. As rows of regions their column `region` is null."


class _Exported(NamedTuple):
    """A view that becomes a Delta table.

    Attributes:
        view: name of the view.
        divided_by: the column by which the Delta table is partitioned.
        location: of the Delta table.
    """

    view: str
    divided_by: str
    location: str


def regions_beside(output: str) -> str:
    """Return the location of the Delta table of regions. It can't lie below the other, whose vacuum would delete it.

    Example:
        >>> regions_beside("s3://lake/scores/")
        's3://lake/scores-regions'
    """
    return f"{output.rstrip('/')}-{REGIONS.name}"


def export_delta(table: str | Path, output: str | Path) -> list[str]:
    """Add the scores and regions of the ended runs that two Delta tables lack, and return the names of these runs.

    Each run is one commit of each Delta table, scores first. The commit carries the name of the run as its transaction,
    so that a repeated call adds nothing, and a killed one goes on. Rows that a run supersedes are replaced, with their
    regions.

    Args:
        table: folder or URI of the table.
        output: folder or URI of the Delta table of scores; that of the regions is at `regions_beside(output)`.

    Raises:
        UserError: there is no table, or the package `deltalake` is not installed.
    """
    try:
        from deltalake import CommitProperties, DeltaTable, Transaction
    except ImportError as error:
        raise UserError("Delta tables need a package more: pip install 'diffad-ray[delta]'") from error
    location, exported = existing(str(table)), []
    targets = (
        _Exported(SCORES.name, "run_date", str(output)),
        _Exported(REGIONS.name, REGION_DATE, regions_beside(str(output))),
    )
    for run_id in [run.plan.run_id for run in read_runs(location) if run.record]:
        replaces = any(storage.exists(run_file(location, part.name, run_id)) for part in (SUPERSEDED, DROPPED))
        commit = CommitProperties(app_transactions=[Transaction(run_id, _VERSION)])
        for target in targets:
            there = DeltaTable(target.location) if DeltaTable.is_deltatable(target.location) else None
            if there is not None and there.transaction_version(run_id) is not None:
                continue
            if there is None or not replaces:
                _append(target, _rows_of_run(location, target.view, run_id), there is not None, commit)
            elif target.view == SCORES.name:
                _replace_scores(there, _rows_of_run(location, target.view, run_id), commit)
            else:
                _replace_regions(there, _rows_of_run(location, target.view, run_id, emptied=True), commit)
            if run_id not in exported:
                exported.append(run_id)
    return exported


def _append(target: _Exported, rows: pa.Table, exists: bool, commit: CommitProperties) -> None:
    from deltalake import write_deltalake

    write_deltalake(
        target.location,
        rows,
        mode="append",
        partition_by=[target.divided_by],
        schema_mode="merge" if exists else None,
        commit_properties=commit,
    )


def _replace_scores(there: DeltaTable, rows: pa.Table, commit: CommitProperties) -> None:
    merger = there.merge(
        rows, _SAME_IMAGE, source_alias="new", target_alias="old", merge_schema=True, commit_properties=commit
    )
    merger.when_matched_update_all().when_not_matched_insert_all().execute()


def _replace_regions(there: DeltaTable, rows: pa.Table, commit: CommitProperties) -> None:
    """Delete the older regions of the images of a run, and insert its own, in one commit.

    Args:
        there: the Delta table of regions.
        rows: the regions of the run, and one row without a number of a region for each of its images.
        commit: carries the transaction of the run.
    """
    merger = there.merge(
        rows,
        f"{_SAME_IMAGE} AND new.region IS NULL",
        source_alias="new",
        target_alias="old",
        merge_schema=True,
        commit_properties=commit,
    )
    merger.when_matched_delete().when_not_matched_insert_all(predicate="new.region IS NOT NULL").execute()


def _rows_of_run(table: str, view: str, run_id: str, emptied: bool = False) -> pa.Table:
    sql = f"FROM {view} WHERE run_id = {quoted(run_id)}"
    if emptied:
        sql += f" UNION ALL BY NAME {_EMPTIED.format(run=quoted(run_id))}"

    def rows(connection: duckdb.DuckDBPyConnection) -> pa.Table:
        return connection.sql(sql).to_arrow_table()

    found: pa.Table = ask_views(table, rows)
    return found
