"""Where the time of a run went: what stages measure of a shard, and what is made of it."""

from __future__ import annotations

import json
import os
from io import StringIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from rich.console import Console

from diffad_ray.capacity.trial import NoAttempts
from diffad_ray.reports.profile_text import print_profile
from diffad_ray.scoring.commit import CommitShard
from diffad_ray.scoring.detect import DetectShard
from diffad_ray.scoring.load import LoadShard
from diffad_ray.scoring.plan import make_plan
from diffad_ray.scoring.profile import Profile, Span, spans_text
from diffad_ray.scoring.selection import select_images
from diffad_ray.scoring.stages import judges_of, wanted_of
from diffad_ray.scoring.task import make_task

BEGAN = 1_000_000.0


def printed(profile: Profile) -> str:
    output = StringIO()
    print_profile(profile, Console(file=output, width=200))
    return output.getvalue()


@pytest.fixture
def run(archive: Path, detector: Path, tmp_path: Path) -> Profile:
    """The profile of a run of two shards in this process."""
    task = make_task(str(archive), str(tmp_path / "table"), str(detector), settings={"shard_images": 24})
    selection = select_images(task.archive, task.table, task.detectors, task.settings, tmp_path)
    plan = make_plan(task.archive, task.table, selection, task.detectors, task.settings, task.work, False)
    assert plan.shards == 2
    judges, attempts = judges_of(task), NoAttempts()
    order = np.arange(plan.shards, dtype=np.int32)
    load = LoadShard(plan, task.settings, task.storage, order, wanted_of(task), attempts)
    locations = {one.bundle.fingerprint: one.location for one in task.detectors}
    thresholds = {fingerprint: judge.threshold for fingerprint, judge in judges.items()}
    detect = DetectShard(locations, task.settings, task.storage, thresholds, 1, attempts)
    commit = CommitShard(plan, task.settings, task.storage, judges)
    profile = Profile()
    for place in order:
        (summary,) = commit(detect(load.run(pa.table({"id": [place]})))).to_pylist()
        profile.add(summary["spans"])
    return profile


def test_every_stage_of_every_shard_is_measured(run: Profile, tmp_path: Path) -> None:
    assert [(span.stage, span.shard) for span in run.spans] == [
        (stage, shard) for shard in (0, 1) for stage in ("load", "detect", "commit")
    ]
    assert {span.process for span in run.spans} == {os.getpid()}
    for one, after in zip(run.spans, run.spans[1:], strict=False):
        assert one.began + one.seconds <= after.began + 0.01, "one process does one thing at a time"
    seconds = run.by_stage()
    assert min(seconds[stage] for stage in ("fetch", "decode", "detect", "commit")) > 0
    spent = sum(value for stage, value in seconds.items() if stage != "fetch")
    assert spent == pytest.approx(run.elapsed, rel=0.05)
    run.write(str(tmp_path / "profile.json"))
    written = json.loads((tmp_path / "profile.json").read_text())
    spans = [event for event in written["traceEvents"] if event["ph"] == "X"]
    assert [event["name"] for event in spans] == [span.stage for span in run.spans]
    assert sum(event["dur"] for event in spans) / 1e6 == pytest.approx(
        sum(span.seconds for span in run.spans), abs=1e-4
    )
    assert written["images"] == run.images == sum(event["args"]["images"] for event in spans) / 3
    assert written["seconds"] == pytest.approx(seconds)


def test_idle_time_is_that_of_processes_with_a_detector() -> None:
    profile = Profile()
    spans = [
        Span("load", "a", 1, 0, 10, BEGAN, 2.0, fetch=3.0, decode=1.5),
        Span("detect", "a", 1, 0, 10, BEGAN + 2, 4.0),
        Span("commit", "a", 9, 0, 10, BEGAN + 6, 1.0),
        Span("load", "b", 1, 1, 6, BEGAN + 1, 1.0, fetch=0.5, decode=1.0),
        Span("detect", "b", 1, 1, 6, BEGAN + 2, 2.0),
        Span("commit", "a", 9, 1, 6, BEGAN + 9, 1.0),
    ]
    for shard in (0, 1):
        profile.add(spans_text([span for span in spans if span.shard == shard]))
    assert (profile.elapsed, profile.images) == (10.0, 16)
    expected = {"fetch": 3.5, "decode": 2.5, "wait": 0.5, "detect": 6.0, "commit": 2.0, "idle": 4.0 + 7.0}
    assert profile.by_stage() == pytest.approx(expected)
    found = [(one.node, one.process, one.images, one.seconds["idle"]) for one in profile.by_process()]
    assert found == [("a", 1, 10, 4.0), ("b", 1, 6, 7.0), ("a", 9, 16, 0.0)]
    # A process of the run is a thread of its machine.
    events = [event for event in profile.as_dict()["traceEvents"] if event["ph"] == "X"]
    assert {(event["pid"], event["tid"]) for event in events} == {(0, 1), (1, 1), (0, 9)}
    text = printed(profile)
    assert "10.0 s for 16 images, 1.6 images/s" in text
    (line,) = (line for line in text.splitlines() if line.split()[:1] == ["detect"])
    assert line.split()[1:5] == ["6.00", "27.3", "%", "375.00"]


def test_a_run_without_shards_says_so() -> None:
    assert "no shard was scored" in printed(Profile())
    assert Profile().as_dict()["elapsed"] == 0.0
