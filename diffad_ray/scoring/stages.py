"""The stages of scoring on Ray Data. A shard stays one block in all stages, so that the last stage can publish it in
one write."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import ray.data

from diffad_ray.cluster_size import Size
from diffad_ray.inference.views import decoding_of
from diffad_ray.scoring.attempts import Attempts
from diffad_ray.scoring.commit import CommitShard, Judge, ShardSummary
from diffad_ray.scoring.detect import DetectShard
from diffad_ray.scoring.load import LoadShard, WantedImage
from diffad_ray.scoring.places import Places
from diffad_ray.scoring.task import Task
from diffad_ray.table.runs import Plan

NO_PROGRESS_SECONDS, SLOW_IMAGE_SECONDS, SLOW_TILES_SECONDS = 600.0, 10.0, 6 * 3600.0
"""A run ends with an error if no shard ends for so many seconds. A shard of the slowest networks on a CPU takes less
time."""
NEVER = -1.0
"Ray Data removes actors of a pool if there are fewer tasks for each actor than this number."
CPUS_A_STAGE = 0.5
"Ray's logical CPUs of a task or actor. The number is small, so that all stages fit on a machine of few cores."


def run_shards(plan: Plan, pending: Sequence[int], task: Task, size: Size) -> Iterator[ShardSummary]:
    """Load, detect and commit the pending shards of a plan on the joined cluster, and yield each shard that is done.

    Args:
        plan: the plan of the run.
        pending: numbers of the shards whose rows are missing.
        task: the task from whose detectors and settings the plan was made.
        size: the nodes, CPUs and GPUs that the run works on.
    """
    _set_context(plan, task)
    settings, storage_settings = task.settings, task.storage
    count = size.actors(task.cluster.actors, len(pending))
    attempts = Attempts()
    judges, wanted = judges_of(task), wanted_of(task)
    locations = {detector.bundle.fingerprint: detector.location for detector in task.detectors}
    thresholds = {fingerprint: judge.threshold for fingerprint, judge in judges.items()}

    numbers = np.asarray(pending, np.int32)
    threads = size.threads(count)
    places = Places(len(pending))
    stages = ray.data.read_datasource(places, num_cpus=CPUS_A_STAGE, override_num_blocks=len(pending))
    # Without GPUs, Ray fuses loading with detection in the same actors, so that the cores are busy and no pixels are
    # copied. With GPUs, loading runs on the CPUs of all nodes, ahead of the GPUs.
    load = LoadShard(plan, settings, storage_settings, numbers, wanted, attempts)
    stages = stages.map_batches(load.run, batch_size=None, batch_format="pyarrow", num_cpus=CPUS_A_STAGE)
    stages = stages.map_batches(
        DetectShard,
        fn_constructor_args=(
            locations,
            settings,
            storage_settings,
            thresholds,
            threads,
            attempts,
            task.gates,
        ),
        # If a node is lost, the run goes on with the remaining actors.
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=count, initial_size=count),
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=CPUS_A_STAGE,
        num_gpus=1 if size.gpus else 0,
    )
    stages = stages.map_batches(
        CommitShard,
        fn_constructor_args=(plan, settings, storage_settings, judges),
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=count),
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=CPUS_A_STAGE / 2,
    )
    for batch in stages.iter_batches(batch_size=None, batch_format="pyarrow"):
        assert isinstance(batch, pa.Table)
        for row in batch.to_pylist():
            yield ShardSummary(**row)


def _set_context(plan: Plan, task: Task) -> None:
    """Set options of Ray Data that are not arguments of its functions."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = False
    # A shard must stay one block. Ray Data would otherwise divide large blocks, and no stage would have all its rows.
    context.target_max_block_size = None
    # By default, Ray stops an actor when no shard waits for it, and starts another one later, which takes seconds. With
    # this setting, all actors, also those with GPUs, stay until the run has no more shards for them.
    context.autoscaling_config.actor_pool_util_downscaling_threshold = NEVER
    views = {detector.bundle.detector.settings.view for detector in task.detectors}
    slowest = SLOW_TILES_SECONDS if "tiles" in views else SLOW_IMAGE_SECONDS * plan.images / plan.shards
    context.execution_no_progress_timeout_s = max(NO_PROGRESS_SECONDS, slowest)


def judges_of(task: Task) -> dict[str, Judge]:
    """Return the name, calibration and threshold of each detector by fingerprint."""
    thresholds = task.thresholds
    return {
        bundle.fingerprint: Judge(bundle.name, bundle.calibration, thresholds[bundle.fingerprint])
        for bundle in (detector.bundle for detector in task.detectors)
    }


def wanted_of(task: Task) -> dict[str, WantedImage]:
    """Return the input that each detector needs, by fingerprint."""
    wanted = {}
    for detector in task.detectors:
        bundle = detector.bundle
        own = bundle.detector.settings
        wanted[bundle.fingerprint] = WantedImage(own.image_size if own.view == "whole" else None, decoding_of(own))
    return wanted
