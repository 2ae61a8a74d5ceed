"""The size of the cluster that a run asks for: the section `[cluster]`."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ClusterSettings:
    """The size of the cluster that a run asks for.

    Attributes:
        gpus: number of GPUs. The run waits until the cluster has them. 0 scores on CPUs although there are GPUs; None
            takes the GPUs that exist when the run begins.
        cpus: number of CPUs, if no GPUs are used. The run waits until the cluster has them; None takes those that
            exist when the run begins.
        actors: number of processes that hold the detector; None takes one for each GPU, or one for each CPU.
        wait_minutes: longest wait for GPUs and CPUs; after it the run ends with exit code 75.
        free_disk_gb, free_memory_gb: gigabytes (10^9 bytes) that must be free on each node: on the disk of Ray's files,
            and of memory.
    """

    gpus: int | None = None
    cpus: int | None = None
    actors: int | None = None
    wait_minutes: float = 15.0
    free_disk_gb: float = 2.0
    free_memory_gb: float = 1.0

    def __post_init__(self) -> None:
        for name, least in (("gpus", 0), ("cpus", 1), ("actors", 1)):
            if (value := getattr(self, name)) is not None and value < least:
                raise ValueError(f"{name} must be {least} or more, not {value}")
        for name in ("wait_minutes", "free_disk_gb", "free_memory_gb"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be 0 or more, not {getattr(self, name)}")
