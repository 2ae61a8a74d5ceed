"""A table as a Delta table: an export, run by run. Plain Parquet files remain the table itself."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pyarrow as pa

from diffad_ray import storage
from diffad_ray.errors import UserError
from diffad_ray.sql import quoted
from diffad_ray.table.parts import DROPPED, SUPERSEDED, run_file
from diffad_ray.table.reading import existing
from diffad_ray.table.runs import read_runs
from diffad_ray.table.views import ask_views

_VERSION = 1
"Of a run's transaction: a run is exported once, and then does not change."
_SAME_IMAGE = "old.image_id = new.image_id AND old.detector_fingerprint = new.detector_fingerprint"


def export_delta(table: str | Path, output: str | Path) -> list[str]:
    """Append the scores of the ended runs that a Delta table lacks, and return the names of these runs.

    The commit of a run carries the run's name as its transaction, so that a repeated call adds nothing, and a killed
    one goes on. Rows that a run supersedes are replaced.

    Raises:
        UserError: there is no table, or the package `deltalake` is not installed.
    """
    try:
        from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
    except ImportError as error:
        raise UserError("Delta tables need a package more: pip install 'diffad-ray[delta]'") from error
    location, target = existing(str(table)), str(output)
    exported = []
    for plan in [run.plan for run in read_runs(location) if run.record]:
        there = DeltaTable(target) if DeltaTable.is_deltatable(target) else None
        if there is not None and there.transaction_version(plan.run_id) is not None:
            continue
        commit = CommitProperties(app_transactions=[Transaction(plan.run_id, _VERSION)])
        rows = _rows_of_run(location, plan.run_id)
        if there is not None and _supersedes(location, plan.run_id):
            replaced = there.merge(
                rows, _SAME_IMAGE, source_alias="new", target_alias="old", merge_schema=True, commit_properties=commit
            )
            replaced.when_matched_update_all().when_not_matched_insert_all().execute()
        else:
            write_deltalake(
                target,
                rows,
                mode="append",
                partition_by=["run_date"],
                schema_mode="merge" if there is not None else None,
                commit_properties=commit,
            )
        exported.append(plan.run_id)
    return exported


def _rows_of_run(table: str, run_id: str) -> pa.Table:
    def rows(connection: duckdb.DuckDBPyConnection) -> pa.Table:
        return connection.sql(f"FROM scores WHERE run_id = {quoted(run_id)}").to_arrow_table()

    found: pa.Table = ask_views(table, rows)
    return found


def _supersedes(table: str, run_id: str) -> bool:
    return any(storage.exists(run_file(table, part.name, run_id)) for part in (SUPERSEDED, DROPPED))
