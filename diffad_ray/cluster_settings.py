"""What a run asks of a cluster: the section `[cluster]` of a settings file."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ClusterSettings:
    """What a run asks of a cluster.

    Attributes:
        gpus: GPUs to score on. The run waits until the cluster has them; 0 scores on CPUs although there are GPUs; None
            takes the GPUs that are there when the run begins.
        cpus: CPUs to score on where `gpus` is 0 or there are none. The run waits for them; None takes those that are
            there.
        actors: processes that hold the detector; None takes one a GPU, or one a CPU where there is no GPU.
        wait_minutes: how long the run waits for its GPUs and CPUs before it ends with exit code 75.
        free_disk_gb, free_memory_gb: gigabytes (10^9 bytes) that `--check` wants free on each node: of the disk with
            Ray's files, and of memory.
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
