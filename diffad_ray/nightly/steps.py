"""The steps of a night, and their forecasts for `--dry-run`. A new step is an entry in `STEPS`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import NamedTuple

from diffad_ray.errors import Fault, counted
from diffad_ray.nightly import watching
from diffad_ray.nightly.state import Night, Outcome
from diffad_ray.preflight.check import check_scoring
from diffad_ray.scoring.forecast import foresee, has_work, selected
from diffad_ray.scoring.pipeline import run_task
from diffad_ray.table.compact import compact, mergeable_files
from diffad_ray.table.prune import PruneSummary, prune
from diffad_ray.table.reading import has_rows
from diffad_ray.table.upkeep import reasons_to_compact
from diffad_ray.table.verify import verify


class Step(NamedTuple):
    """A step, and its forecast."""

    name: str
    do: Callable[[Night], Outcome]
    foresee: Callable[[Night], Outcome]


def _check(night: Night) -> Outcome:
    if _is_idle(night):
        return Outcome("no node was asked: nothing is new")
    found = check_scoring(night.task, lambda line: night.say(f"check    {line}"))
    found.require()
    return Outcome(f"{counted(len(found.nodes), 'node')}, no problems", asdict(found))


def _is_idle(night: Night) -> bool:
    """Return whether the night needs no worker. To start Ray and its workers takes longer than all other steps of a
    night without new images. If there are any, the selection is kept for the next step."""
    if night.settings.golden is not None or not has_rows(night.table):
        return False
    night.selection = night.kept.enter_context(selected(night.task))
    return not has_work(night.task, night.selection)


def _would_check(night: Night) -> Outcome:
    return Outcome("would ask all nodes of the cluster; --check does that alone")


def _score(night: Night) -> Outcome:
    plan, record = run_task(night.task, show_progress=True, selection=night.selection)
    night.selection = None
    night.kept.close()
    assert record is not None, "a run that ended without an error has a record"
    figures = {"plan": asdict(plan), "record": asdict(record)}
    if not plan.images:
        return Outcome(f"nothing is new: the table has all {plan.skipped} images", figures, plan.notes)
    night.run_id = plan.run_id
    statuses = ", ".join(f"{count} {status}" for status, count in record.by_status.items())
    rate = f" ({record.images / record.seconds:.1f} images/s)" if record.seconds else ""
    scored = f"{counted(record.images, 'image')}{rate}: {statuses}"
    text = f"{scored}; {record.anomalous} anomalous, {plan.skipped} scored before"
    night.alerts += [next(check.sentences) for check in record.gates if check.is_broken]
    of_gates = [sentence for check in record.gates for sentence in check.sentences]
    return Outcome(text, figures, [*of_gates, *plan.notes, *record.findings])


def _would_score(night: Night) -> Outcome:
    found = foresee(night.task)
    figures = {name: value for name, value in asdict(found).items() if name != "notes"}
    new = sum(found.new.values()) - found.left
    parts = [f"would score {counted(new, 'image')}"]
    if len(found.new) > 1:
        parts.append("by detector " + ", ".join(f"{name} {count}" for name, count in found.new.items()))
    if found.interrupted:
        parts.append(f"after the {found.left} that the interrupted run {found.interrupted} lacks")
    parts.append(f"{found.skipped} are scored already")
    return Outcome("; ".join(parts), figures, found.notes)


def _compact(night: Night) -> Outcome:
    files, reasons = mergeable_files(night.table), _reasons(night)
    if files < night.settings.compact_files and not reasons:
        return Outcome(f"not yet: {_few(files, night)}", {"mergeable_files": files})
    summary = compact(night.table)
    text = f"{summary.files_before} files became {summary.files_after}"
    return Outcome(text, asdict(summary), [f"before, the table had {reason}" for reason in reasons])


def _would_compact(night: Night) -> Outcome:
    files = mergeable_files(night.table) if has_rows(night.table) else 0
    reasons = _reasons(night) if has_rows(night.table) else []
    is_due = files >= night.settings.compact_files or reasons
    text = f"would merge {files} files" if is_due else f"would not: {_few(files, night)}"
    notes = [f"the table has {reason}" for reason in reasons]
    return Outcome(text + ", beside those of the new run", {"mergeable_files": files}, notes)


def _reasons(night: Night) -> list[str]:
    return reasons_to_compact(night.table, night.settings.compact_files)


def _few(files: int, night: Night) -> str:
    return f"{files} files could be merged, compact_files is {night.settings.compact_files}"


def _verify(night: Night) -> Outcome:
    found = verify(night.table, night.settings.verify_masks)
    if found.problems:
        lines = "\n".join(f"  {problem.kind}: {problem.message}" for problem in found.problems)
        raise Fault(f"verify found {counted(len(found.problems), 'problem')}, so nothing was pruned:\n{lines}")
    text = f"no problems: {found.rows} rows of {counted(found.runs, 'run')}, {found.files} files, {found.masks} masks"
    return Outcome(text, asdict(found), [note.message for note in found.notes])


def _would_verify(night: Night) -> Outcome:
    return Outcome("would read all Parquet files, and open masks", {"masks": night.settings.verify_masks})


def _prune(night: Night) -> Outcome:
    if not _has_rule(night):
        return Outcome("keeps all: keep_masks_days and keep_manifests_days are not set")
    found = _pruned(night, dry_run=False)
    return Outcome(f"deleted {_files(found)}", asdict(found))


def _would_prune(night: Night) -> Outcome:
    if not _has_rule(night):
        return Outcome("would keep all: keep_masks_days and keep_manifests_days are not set")
    if not has_rows(night.table):
        return Outcome("would delete nothing: there is no table yet")
    found = _pruned(night, dry_run=True)
    return Outcome(f"would delete {_files(found)}", asdict(found))


def _has_rule(night: Night) -> bool:
    return night.settings.keep_masks_days is not None or night.settings.keep_manifests_days is not None


def _pruned(night: Night, dry_run: bool) -> PruneSummary:
    masks_days, manifests_days = night.settings.keep_masks_days, night.settings.keep_manifests_days
    return prune(night.table, masks_days=masks_days, manifests_days=manifests_days, dry_run=dry_run)


def _files(found: PruneSummary) -> str:
    of = (("masks", found.masks, found.masks_before), ("manifests", found.manifests, found.manifests_before))
    return " and ".join(f"{count} {name} of runs before {day}" for name, count, day in of if day)


STEPS = (
    Step("check", _check, _would_check),
    Step("score", _score, _would_score),
    Step("compact", _compact, _would_compact),
    Step("verify", _verify, _would_verify),
    Step("golden", watching.score_golden, watching.would_score_golden),
    Step("drift", watching.look_for_drift, watching.would_look_for_drift),
    Step("report", watching.write_report, watching.would_write_report),
    Step("prune", _prune, _would_prune),
)
