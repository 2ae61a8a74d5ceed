"""Pruning: deletes masks and manifests of runs that are older than a table is to keep them.

Scores and regions stay, and the run lengths in `regions` still give every mask.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import duckdb

from diffad_ray import storage
from diffad_ray.errors import UserError
from diffad_ray.sql import reason_of
from diffad_ray.table.compact import finish_compactions
from diffad_ray.table.layout import quoted
from diffad_ray.table.lease import Lease
from diffad_ray.table.parts import MANIFESTS, MASKS, part_of, run_of
from diffad_ray.table.reading import connect_bounded, existing, rows_of
from diffad_ray.table.retention import Rule, first_run_of, read_rule, write_rule
from diffad_ray.table.runs import Run, read_runs
from diffad_ray.table.snapshot import paths_below

CHUNK = 10_000
"Number of mask locations in memory."


@dataclass(frozen=True)
class PruneSummary:
    """Numbers of deleted files, and the days before which runs lose them; an empty day keeps all."""

    masks: int
    manifests: int
    masks_before: str
    manifests_before: str


def prune(
    table: str | Path,
    *,
    masks_days: int | None = None,
    manifests_days: int | None = None,
    dry_run: bool = False,
    today: date | None = None,
) -> PruneSummary:
    """Delete masks and manifests of old runs; scores and regions are never deleted.

    A mask that a row of a younger run also names is kept. Manifests of interrupted runs are kept, because they list the
    images that are still to be scored. If the process is killed, the next call continues.

    Args:
        table: folder or URI.
        masks_days: masks of runs that began more days ago are deleted; None deletes none.
        manifests_days: the same for manifests. Without the manifests of a run, `verify` can't detect missing rows.
        dry_run: count the files, and delete nothing.
        today: the day from which ages count; by default the current day in UTC.

    Raises:
        TryLater: another process writes to the table.
        UserError: there is no table, or a number of days is negative.
    """
    for name, days in (("masks_days", masks_days), ("manifests_days", manifests_days)):
        if days is not None and days < 0:
            raise UserError(f"{name} must be 0 or more, not {days}")
    location = existing(str(table))
    today = today or datetime.now(UTC).date()
    if dry_run:
        rule = _next_rule(read_rule(location), today, masks_days, manifests_days)
        counted = sum(len(chunk) for chunk in _old_masks(location, rule))
        old = len(_old_manifests(location, rule, read_runs(location)))
        return PruneSummary(counted, old, rule.masks_before, rule.manifests_before)
    with Lease(location, "prune") as lease:
        finish_compactions(location)
        rule = _next_rule(read_rule(location), today, masks_days, manifests_days)
        runs = read_runs(location)
        manifests = _old_manifests(location, rule, runs)
        # The rule is written before the first deletion, so that no reader expects a deleted file.
        write_rule(location, rule)
        masks = 0
        for chunk in _old_masks(location, rule):
            lease.check()
            storage.delete_all(chunk)
            masks += len(chunk)
        lease.check()
        storage.delete_all(manifests)
        _remove_empty_folders(location, manifests)
        # An interrupted run that continues later may still write masks.
        open_days = [run.plan.run_date for run in runs if run.record is None]
        write_rule(location, replace(rule, masks_deleted_before=min([rule.masks_before, *open_days])))
    return PruneSummary(masks, len(manifests), rule.masks_before, rule.manifests_before)


def _next_rule(rule: Rule, today: date, masks_days: int | None, manifests_days: int | None) -> Rule:
    """Return the rule from today on. Its days never move backwards, because deleted files do not come back."""

    def day(before: str, days: int | None) -> str:
        return before if days is None else max(before, (today - timedelta(days=days)).isoformat())

    return replace(
        rule,
        masks_before=day(rule.masks_before, masks_days),
        manifests_before=day(rule.manifests_before, manifests_days),
    )


def _old_masks(table: str, rule: Rule) -> Iterator[list[str]]:
    """Yield chunks of locations of the masks that are no longer kept and may still exist."""
    if rule.masks_before <= rule.masks_deleted_before:
        return
    rows, before = rows_of(table, "scores"), quoted(first_run_of(rule.masks_before))
    since = quoted(first_run_of(rule.masks_deleted_before))
    # Rows of the same image and detector name the same mask. The masks of a moved table have other locations.
    old = (
        f"SELECT DISTINCT mask_uri FROM {rows} WHERE run_id < {before} AND run_id >= {since} "
        f"AND starts_with(mask_uri, {quoted(f'{table}/masks/')})"
    )
    sql = f"{old} AND mask_uri NOT IN (SELECT mask_uri FROM {rows} WHERE run_id >= {before} AND mask_uri IS NOT NULL)"
    try:
        with connect_bounded(table) as connection:
            found = connection.execute(sql)
            while chunk := found.fetchmany(CHUNK):
                yield [uri for (uri,) in chunk if part_of(uri.removeprefix(f"{table}/")) is MASKS]
    except duckdb.Error as error:
        raise UserError(
            f"the table {table} can't be read: {reason_of(error)}. `diffad-ray verify {table}` names damaged files"
        ) from error


def _old_manifests(table: str, rule: Rule, runs: Iterable[Run]) -> list[str]:
    """Return locations of the manifests of ended runs that are no longer kept."""
    over = {run.plan.run_id for run in runs if run.record and run.plan.run_date < rule.manifests_before}
    if not over:
        return []
    paths = paths_below(table, MANIFESTS.name)
    return [f"{table}/{path}" for path in paths if part_of(path) is MANIFESTS and run_of(path) in over]


def _remove_empty_folders(table: str, manifests: list[str]) -> None:
    """Remove the empty folders of deleted local manifests; object stores have no folders."""
    if storage.is_local(table):
        for folder in {Path(location).parent for location in manifests}:
            with suppress(OSError):  # the folder has another file
                folder.rmdir()
