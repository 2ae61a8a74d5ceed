"""How throughput grows with nodes: the real pipeline on simulated nodes, with a detector that sleeps.

    python benchmarks/simulated_cluster.py --nodes 2 8 32 --rate 20 --seconds 60

A node is a Ray node of this machine with one declared CPU, and so with one actor. The actor scores a shard with a stub
and then sleeps, so that it takes `--rate` images a second in all. Planning, Ray Data, loading, writing and the record
are the real ones. The rate is taken from the middle half of the rows, by the time at which they were written, so that
neither the start of actors nor the last shards are in it. Linear is nodes times `--rate`.

All nodes share the cores of this machine. Where these are busy, which the last column shows, the figure is of the
machine and no longer of the pipeline: take a lower `--rate`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
from scale import make_files, make_manifest

SIDE = 64
SHARD_SECONDS = 2.0
"Of an actor for one shard; long against what a shard costs, as with a real detector."
OBJECT_STORE = 100_000_000


def sleeping_detector(rate: float) -> type:
    """Stage 2 with a stub that takes as long as a detector of so many images a second."""
    from stub import DetectWithStub

    class DetectAtRate(DetectWithStub):
        def __call__(self, block: pa.Table) -> pa.Table:
            ends = time.monotonic() + len(block) / rate
            detected = super().__call__(block)
            time.sleep(max(0.0, ends - time.monotonic()))
            return detected

    return DetectAtRate


def run_once(nodes: int, rate: float, manifest: Path, detector: Path, table: Path) -> dict[str, Any]:
    """Score a manifest on so many nodes; the figures."""
    import ray
    from ray.cluster_utils import Cluster
    from stub import register

    from diffad_ray import score
    from diffad_ray.scoring import stages

    register()
    here = str(Path(__file__).parent)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": OBJECT_STORE})
    try:
        for _ in range(nodes):
            cluster.add_node(num_cpus=1, object_store_memory=OBJECT_STORE)
        os.environ["RAY_ADDRESS"] = cluster.address
        stages.DetectShard = sleeping_detector(rate)  # type: ignore[misc]
        busy, driver, started = _busy(), time.process_time(), time.monotonic()
        shard = max(1, round(rate * SHARD_SECONDS))
        run = score(manifest, detector=detector, table=table, cpus=nodes, shard_images=shard, show_progress=True)
        wall = time.monotonic() - started
        cores = (_busy() - busy) / wall
        driver_share = (time.process_time() - driver) / wall
    finally:
        # The head can't be stopped while this process is its driver.
        ray.shutdown()
        cluster.shutdown()
    assert run.record is not None
    rows = f"read_parquet('{table}/scores/*/*.parquet')"
    ((first, last, count),) = duckdb.sql(
        "SELECT epoch(min(t)), epoch(max(t)), count(*) FROM (SELECT scored_at AS t, percent_rank() OVER (ORDER BY "
        f"scored_at) AS p FROM {rows}) WHERE p BETWEEN 0.25 AND 0.75"
    ).fetchall()
    return {
        "images": run.record.images,
        "seconds": wall,
        "rate": count / max(last - first, 1e-9),
        "driver": driver_share,
        "cores": cores,
    }


def _busy() -> float:
    """Seconds for which the cores of this machine were busy since it started, all of them together."""
    fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
    idle = fields[3] + fields[4]
    return (sum(fields[:8]) - idle) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, nargs="*", default=[2, 8, 32])
    parser.add_argument("--rate", type=float, default=20.0, help="images a second of one node")
    parser.add_argument("--seconds", type=float, default=60.0, help="that a run takes if it is linear")
    parser.add_argument("--part", nargs=5, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part:
        nodes, rate, *places = arguments.part
        print(json.dumps(run_once(int(nodes), float(rate), *map(Path, places))))
        return
    from stub import make_stub

    print(f"{platform.platform()}, Python {platform.python_version()}, {os.cpu_count()} cores\n")
    print("| nodes | images | s | images/s | linear | share | driver, cores | machine, cores |")
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="diffad-nodes-") as place:
        folder = Path(place)
        make_files(folder / "files", SIDE)
        make_stub(str(folder / "detector"), SIDE)
        for nodes in arguments.nodes:
            images, linear = round(nodes * arguments.rate * arguments.seconds), nodes * arguments.rate
            manifest = folder / f"{nodes}.parquet"
            make_manifest(folder / "files", images, manifest)
            part = [str(nodes), str(arguments.rate), str(manifest), f"{folder}/detector", f"{folder}/table-{nodes}"]
            command = [sys.executable, __file__, "--part", *part]
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            f = json.loads(output.strip().splitlines()[-1])
            print(
                f"| {nodes} | {f['images']:,} | {f['seconds']:.0f} | {f['rate']:.1f} | {linear:.0f} | "
                f"{f['rate'] / linear:.2f} | {f['driver']:.2f} | {f['cores']:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
