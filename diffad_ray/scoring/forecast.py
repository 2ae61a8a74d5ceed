"""What a run would do: its images, without a cluster, and without writing anything."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from diffad_ray.scoring.missing import only_missing
from diffad_ray.scoring.pipeline import count_run, last_interrupted
from diffad_ray.scoring.plan import compare, pending_shards
from diffad_ray.scoring.selection import Selection, select_images
from diffad_ray.scoring.task import Task
from diffad_ray.scratch import scratch_folder
from diffad_ray.table.runs import read_runs


@contextmanager
def selected(task: Task) -> Iterator[Selection]:
    """Select the images of a task, for the length of a `with` block; see `select_images`."""
    with scratch_folder() as scratch:
        yield select_images(task.archive, task.table, task.detectors, task.settings, scratch)


def has_work(task: Task, selection: Selection) -> bool:
    """Return whether a run would score any of the selected images, or finish an interrupted run.

    Raises:
        UserError: the table can't be read, or its columns have other types.
    """
    if last_interrupted(read_runs(task.table), task.work):
        return True
    return bool(compare(task.archive, task.table, selection, task.settings, task.force).counts)


@dataclass(frozen=True)
class Forecast:
    """What a run would do.

    Attributes:
        new: number of images to score by the name of the detector, or `no detector` for images that no route leads to
            one.
        skipped: number of images that the table has.
        interrupted: name of the run that would be finished first; empty if there is none.
        left: number of images of the interrupted run that have no row.
        notes: what the user should know, in sentences.
    """

    new: dict[str, int]
    skipped: int
    interrupted: str
    left: int
    notes: list[str]


def foresee(task: Task) -> Forecast:
    """Return what `run_task` would do with a task, without writing anything or joining a cluster."""
    with selected(task) as selection:
        if task.missing_masks:
            selection = only_missing(selection, task.table, task.thresholds)
        found = compare(task.archive, task.table, selection, task.settings, task.force or task.missing_masks)
    names = {d.bundle.fingerprint: d.bundle.name for d in task.detectors} | {"": "no detector"}
    new: dict[str, int] = {}
    for fingerprint, count in found.counts.items():
        new[names[fingerprint]] = new.get(names[fingerprint], 0) + count
    interrupted, left = last_interrupted(read_runs(task.table), task.work), 0
    if interrupted:
        has_begun = len(pending_shards(interrupted)) < interrupted.shards
        left = interrupted.images - (count_run(interrupted, "abandoned").images if has_begun else 0)
    skipped = selection.images - sum(new.values())
    return Forecast(new, skipped, interrupted.run_id if interrupted else "", left, found.selection.notes)
