"""The nodes of the cluster and their resources, and the wait for the size that a run asks for."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import ray
from ray.autoscaler.sdk import request_resources
from ray.exceptions import RayError

from diffad_ray import cluster
from diffad_ray.cluster_settings import ClusterSettings
from diffad_ray.errors import TryLater, UserError, counted

log = logging.getLogger(__name__)
SECONDS_BETWEEN_LOOKS = 1.0


class Size(NamedTuple):
    """The resources of a run: `gpus`, or `cpus` if there are no GPUs, on `machines`."""

    gpus: int
    cpus: int
    machines: int

    def __str__(self) -> str:
        of = counted(self.gpus, "GPU") if self.gpus else counted(self.cpus, "CPU")
        return f"{of} of {counted(self.machines, 'machine')}"

    def actors(self, wanted: int | None, shards: int) -> int:
        """Return the number of actors: as wanted, else one for each GPU, else one for each CPU, at most one a shard."""
        return wanted or self.gpus or max(1, min(shards, self.cpus))

    def threads(self, actors: int) -> int:
        """Return the number of threads of each actor, so that the actors of a machine use the CPUs that Ray has there.

        A node may give Ray fewer CPUs than it has cores. Threads beyond them would wait for each other.

        Example:
            >>> Size(gpus=0, cpus=8, machines=2).threads(actors=4)
            2
        """
        return max(1, self.cpus // self.machines // -(-actors // self.machines))


def alive_nodes() -> list[dict[str, Any]]:
    """Return the nodes that are alive, as Ray describes them."""
    return [node for node in ray.nodes() if node["Alive"]]


def name_of(node: dict[str, Any]) -> str:
    """Return the host name of a node, with its address if the name differs from it."""
    host, address = node["NodeManagerHostname"], node["NodeManagerAddress"]
    return address if host == address else f"{host} ({address})"


def has(node: dict[str, Any]) -> str:
    """Return the resources of a node as text.

    Example:
        >>> has({"Resources": {"CPU": 8.0, "GPU": 1.0}})
        '8 CPUs, 1 GPU'
    """
    resources = node["Resources"]
    return f"{counted(int(resources.get('CPU', 0)), 'CPU')}, {counted(int(resources.get('GPU', 0)), 'GPU')}"


def _totals(nodes: list[dict[str, Any]]) -> tuple[int, int]:
    """Return the numbers of GPUs and CPUs that nodes have together."""
    gpus, cpus = (int(sum(node["Resources"].get(kind, 0) for node in nodes)) for kind in ("GPU", "CPU"))
    return gpus, cpus


def size_now(settings: ClusterSettings) -> Size:
    """Return the resources of a run with these settings if it began now."""
    nodes = alive_nodes()
    gpus, cpus = _totals(nodes)
    if cluster.is_started_here():
        # Ray was told of more CPUs than there are, so that all stages are scheduled.
        cpus = cluster.cores()
    return Size(
        gpus=gpus if settings.gpus is None else min(settings.gpus, gpus),
        cpus=max(1, cpus if settings.cpus is None else min(settings.cpus, cpus)),
        machines=max(1, len(nodes)),
    )


@contextmanager
def wait_for(settings: ClusterSettings, say: Callable[[str], None]) -> Iterator[Size]:
    """Join the cluster, wait until it has what the settings ask for, and keep it from shrinking in the `with` block.

    Args:
        settings: the requested size.
        say: receives a line for each node that joins, and one about the resources of the run.

    Raises:
        TryLater: the cluster did not get its size in time.
        UserError: there is no cluster, or this machine is smaller than the requested size.
    """
    cluster.connect()
    if cluster.is_started_here():
        _refuse_impossible(settings)
        size = size_now(settings)
        say(f"works on {size}")
        yield size
        return
    bundles = [{"GPU": 1}] * (settings.gpus or 0)
    is_asked = bool(settings.gpus or settings.cpus)
    if is_asked:
        # A cluster that grows with waiting tasks would not grow without this request.
        request_resources(num_cpus=settings.cpus, bundles=bundles)
    try:
        _wait(settings, say)
        size = size_now(settings)
        say(f"works on {size}" + _not_asked(settings))
        yield size
    finally:
        if is_asked and ray.is_initialized():
            # The request would otherwise keep the nodes for as long as the cluster lives.
            with suppress(RayError):
                request_resources(num_cpus=0, bundles=[])


def _not_asked(settings: ClusterSettings) -> str:
    """Return what is said of a run that asks for no size."""
    if settings.gpus is not None or settings.cpus is not None:
        return ""
    return ", which is what the cluster has now; --gpus N or --cpus N waits for more"


def _refuse_impossible(settings: ClusterSettings) -> None:
    """Raise UserError if the requested size is larger than this machine."""
    for kind, wanted, there in (
        ("gpus", settings.gpus or 0, int(ray.cluster_resources().get("GPU", 0))),
        ("cpus", settings.cpus or 0, cluster.cores()),
    ):
        if wanted > there:
            raise UserError(
                f"--{kind} {wanted} is more than this machine has ({there}): take fewer, or set RAY_ADDRESS to the "
                "address of a cluster"
            )


def _wait(settings: ClusterSettings, say: Callable[[str], None]) -> None:
    """Return as soon as the nodes have the requested size; report each node that joins."""
    start = time.monotonic()
    told: set[str] = set()
    while True:
        nodes = alive_nodes()
        gpus, cpus = _totals(nodes)
        wanted = [
            f"{there} of {asked} {kind}"
            for kind, asked, there in (("GPUs", settings.gpus, gpus), ("CPUs", settings.cpus, cpus))
            if asked is not None
        ]
        is_whole = gpus >= (settings.gpus or 0) and cpus >= (settings.cpus or 0)
        waited = time.monotonic() - start
        for node in nodes:
            if wanted and node["NodeID"] not in told:
                told.add(node["NodeID"])
                say(f"node {name_of(node)} is there with {has(node)} after {waited:.0f} s")
        if is_whole:
            return
        if waited > settings.wait_minutes * 60:
            raise TryLater(
                f"the cluster has {' and '.join(wanted)} after {settings.wait_minutes:g} minutes: see why no more "
                "nodes come (`ray status`), ask for fewer, or wait longer (cluster.wait_minutes)"
            )
        time.sleep(min(SECONDS_BETWEEN_LOOKS, max(0.05, settings.wait_minutes * 60 - waited)))
