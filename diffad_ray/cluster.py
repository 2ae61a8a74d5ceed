"""Connects to Ray: the cluster that a job runs in, or one on this machine. Imported by what runs on Ray alone."""

from __future__ import annotations

import logging
import os

import ray

FEWEST_CPUS = 4
"Logical CPUs of a local cluster: with fewer, the stages of a pipeline can wait for each other for ever."

_ENVIRONMENT = {
    # glibc gives large blocks back to the system at every free; networks on a CPU then spend their time on page faults
    # (a training step at 128 px took up to twice as long).
    "MALLOC_MMAP_THRESHOLD_": str(2**32),
    "MALLOC_TRIM_THRESHOLD_": str(2**32),
    "MALLOC_TOP_PAD_": str(2**26),
    # OpenMP's threads wait for each other by spinning, milliseconds long; where another process needs the core, the one
    # waited for can't get it. Some microseconds are enough.
    "GOMP_SPINCOUNT": "3000",
    # Ray lets its workers step back behind everything else (niceness 15), but here they are the job.
    "RAY_worker_niceness": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Ray's backend logs an "error" for every actor pool of Ray Data (its issue 53727); set it to see the backend's log.
    "RAY_BACKEND_LOG_LEVEL": "fatal",
}
"What worker processes of a local cluster inherit, unless the user has set it."


def connect() -> None:
    """Join the Ray cluster of `RAY_ADDRESS` (set within a Ray job), or start one on this machine; once a process."""
    if ray.is_initialized():
        return
    for name in ("ray.data", "ray.train"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if os.environ.get("RAY_ADDRESS"):
        ray.init(log_to_driver=False)
        return
    # Worker processes inherit the environment; a Ray runtime_env would start each of them anew, seconds apart.
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # Not to join a cluster that someone else has on this machine, which Ray would do by itself.
    ray.init(
        address="local",
        num_cpus=max(FEWEST_CPUS, cores()),
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )


def processors() -> int:
    """Processors of the whole cluster: of a local one the cores that there really are, whatever Ray was told."""
    return int(ray.cluster_resources().get("CPU", 1)) if os.environ.get("RAY_ADDRESS") else cores()


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
