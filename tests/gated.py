"""Gates made by hand, and runs of scoring in this process, without Ray."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from diffad_ray.bundles.bundle import load_bundle
from diffad_ray.gates.bundle import Gate, save_gate
from diffad_ray.gates.evidence import GROUPS, Evidence
from diffad_ray.gates.look import Look
from diffad_ray.gates.student import Student
from diffad_ray.scoring.attempts import NoAttempts
from diffad_ray.scoring.commit import CommitShard
from diffad_ray.scoring.detect import DetectShard
from diffad_ray.scoring.load import LoadShard
from diffad_ray.scoring.pipeline import count_run
from diffad_ray.scoring.plan import make_plan, pending_shards
from diffad_ray.scoring.selection import select_images
from diffad_ray.scoring.stages import judges_of, wanted_of
from diffad_ray.scoring.task import Task, make_task
from diffad_ray.table.runs import Plan, RunRecord

MISSED = 0.1


def gated_copy(detector: Path, folder: Path, limit: float, threshold: float) -> Path:
    """A copy of a detector with a gate that has learnt nothing and, at a threshold, passes images below a limit."""
    location = folder / f"gated{limit:g}"
    shutil.copytree(detector, location)
    bundle = load_bundle(str(location))
    torch.manual_seed(0)
    student = Student(bundle.detector.settings.image_size).eval().fused()
    flagged, passed = [limit] * 20, [limit - 2, limit - 1]
    evidence = Evidence(
        np.array([GROUPS.index("pseudo")] * 20 + [GROUPS.index("normal")] * 2, np.int8),
        np.array(flagged + passed, np.float32),
        np.array([threshold + 1] * 20 + [threshold - 3, threshold - 2], np.float32),
    )
    look = Look(student, None, torch.zeros(2), torch.ones(2))
    save_gate(Gate("student", look, evidence, MISSED, {}), bundle, str(location))
    return location


def task_of(archive: Path, table: Path, detector: Path, **settings: Any) -> Task:
    return make_task(archive, table, detector, settings=settings)


def plan_of(task: Task, folder: Path) -> Plan:
    selection = select_images(task.archive, task.table, task.detectors, task.settings, folder)
    return make_plan(task.archive, task.table, selection, task.detectors, task.settings, task.work, task.force)


def score_here(plan: Plan, task: Task, shards: int | None = None) -> RunRecord:
    """Score the pending shards of a plan, or the first few of them, and count the rows of the run."""
    pending = np.array(pending_shards(plan), np.int32)
    judges, attempts = judges_of(task), NoAttempts()
    locations = {detector.bundle.fingerprint: detector.location for detector in task.detectors}
    thresholds = {fingerprint: judge.threshold for fingerprint, judge in judges.items()}
    load = LoadShard(plan, task.settings, task.storage, pending, wanted_of(task), attempts)
    detect = DetectShard(locations, task.settings, task.storage, thresholds, 1, attempts, task.gates)
    commit = CommitShard(plan, task.settings, task.storage, judges)
    for place in range(len(pending))[:shards]:
        commit(detect(load.run(pa.table({"id": [place]}))))
    return count_run(plan, "finished")
