"""The formulas of `docs/scale.md`: from what an image costs to nodes, hours, requests, files and memory."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

SHARE_OF_LINEAR = 0.8
"Of the rate of all actors together, what a run reaches: the rest is start, end and unequal shards."
START_HOURS = 0.05
"Hours from the start of a cluster to its first image: nodes, image and workers."
HEAD_CPUS = 2
"CPUs of the head, which is paid for as long as the workers."
LISTED_A_REQUEST = 1000
FILES_A_SHARD = 3
"Manifest, regions and scores."
WRITES_A_SHARD, READS_A_SHARD = 3, 3
"Besides images and masks: the files of a shard; the manifest, and two looks whether the shard is done."
DRIVER_BYTES, BYTES_A_LISTED_IMAGE, MOST_LISTING_BYTES = 550e6, 300.0, 1e9
"""Memory of the driver: what torch and Ray take, what DuckDB takes for an image of the archive, and where it begins to
write to disk instead. Measured in benchmarks/results/scale.md."""
BYTES_A_SHARD = 50e3
"Memory of the driver for what Ray Data keeps of a shard; an upper estimate from the runs of the same page."


@dataclass(frozen=True, kw_only=True)
class Costs:
    """What an image costs in the mean: seconds of one actor or one core, and bytes.

    Attributes:
        load: seconds of a core to fetch and decode.
        detect: seconds of an actor.
        commit: seconds of a core to write rows, regions and masks.
        file_bytes: of the image's file.
        row_bytes: of its rows in scores and regions; `manifest_bytes`: of its row in the manifests.
        mask_share: masks an image; `mask_bytes`: of one mask.
    """

    load: float
    detect: float
    commit: float
    file_bytes: float
    row_bytes: float
    manifest_bytes: float
    mask_share: float
    mask_bytes: float


@dataclass(frozen=True, kw_only=True)
class Node:
    """What each worker node has: `cpus`, and `gpus`, where 0 detects on the CPUs."""

    cpus: int
    gpus: int

    @property
    def actors(self) -> int:
        """Actors that detect: one a GPU, or one a CPU."""
        return self.gpus or self.cpus


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What a run over a number of images needs.

    Attributes:
        images: of the run.
        nodes, actors: that end in time.
        hours: from start to end with these nodes.
        megabits: network rate that each node needs, in 10^6 bits a second.
        cost: of all nodes and the head; None if no price is known.
        reads, writes: requests to the store.
        shards, files: of the run; the files before a compaction.
        table_bytes, mask_bytes: of the table's Parquet files and of its masks.
        driver_bytes: memory of the driver.
        problems: why the plan can't work as it is, in sentences.
    """

    images: int
    nodes: int
    actors: int
    hours: float
    megabits: float
    cost: float | None
    reads: int
    writes: int
    shards: int
    files: int
    table_bytes: float
    mask_bytes: float
    driver_bytes: float
    problems: list[str] = field(default_factory=list)


def node_rate(costs: Costs, node: Node) -> float:
    """Images a second of one node.

    Without GPUs, each core loads, detects and commits in turn. With GPUs, the slower one of GPUs and cores decides.

    Example:
        >>> costs = Costs(load=0.01, detect=0.03, commit=0.0, file_bytes=1e5, row_bytes=50, manifest_bytes=50,
        ...               mask_share=0.01, mask_bytes=300)
        >>> node_rate(costs, Node(cpus=4, gpus=0)), node_rate(costs, Node(cpus=4, gpus=1))
        (100.0, 33.333333333333336)
    """
    if node.gpus == 0:
        return node.cpus / (costs.load + costs.detect + costs.commit)
    return min(node.gpus / costs.detect, node.cpus / (costs.load + costs.commit))


def forecast(
    images: int, listed: int, costs: Costs, node: Node, hours: float, shard_images: int, prices: dict[str, float]
) -> Forecast:
    """What it takes to score so many images in time.

    Args:
        images: to score; `listed`: of the archive, those that the table has included.
        node: each worker node.
        hours: from the start of the cluster to the end of the run.
        shard_images: images of a shard.
        prices: of a `cpu` and a `gpu` for an hour; empty: unknown.
    """
    rate = node_rate(costs, node) * SHARE_OF_LINEAR
    working = hours - START_HOURS
    problems = []
    if working <= 0:
        problems.append(f"{hours * 60:.0f} minutes are no longer than a cluster takes to start")
        working = max(hours, 1e-3)
    nodes = max(1, math.ceil(images / (rate * working * 3600))) if images else 0
    shards = math.ceil(images / shard_images)
    if nodes * node.actors > max(shards, 1):
        problems.append(f"{shards} shards keep only so many of {nodes * node.actors} actors busy: set shard_images")
    taken = START_HOURS + images / (rate * nodes * 3600) if nodes else 0.0
    cost = None
    if prices:
        hourly = nodes * (node.cpus * prices.get("cpu", 0.0) + node.gpus * prices.get("gpu", 0.0))
        cost = taken * (hourly + HEAD_CPUS * prices.get("cpu", 0.0)) if nodes else 0.0
    masks = round(images * costs.mask_share)
    return Forecast(
        images=images,
        nodes=nodes,
        actors=nodes * node.actors,
        hours=taken,
        megabits=8 * costs.file_bytes * rate / 1e6,
        cost=cost,
        reads=math.ceil(listed / LISTED_A_REQUEST) + images + READS_A_SHARD * shards,
        writes=masks + WRITES_A_SHARD * shards,
        shards=shards,
        files=masks + FILES_A_SHARD * shards,
        table_bytes=images * (costs.row_bytes + costs.manifest_bytes),
        mask_bytes=masks * costs.mask_bytes,
        driver_bytes=DRIVER_BYTES + min(MOST_LISTING_BYTES, BYTES_A_LISTED_IMAGE * listed) + BYTES_A_SHARD * shards,
        problems=problems,
    )
