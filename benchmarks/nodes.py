"""A night on a cluster whose nodes have their own addresses, with lost nodes; and a training that loses a node.

    python benchmarks/nodes.py --images 20000
    python benchmarks/nodes.py --images 0 --steps 400

The nodes are network namespaces of this machine on one bridge (`tests/namespaces.py`; needs root and `ip`), archive and
table are in a bucket of an S3 server on the bridge. `diffad-ray nightly` runs on the head of a cluster of three. At a
fifth of the rows a fourth node is started and, once it is up, one of the three killed with all its processes. At three
fifths the head is killed with the driver on it, which takes the cluster along; a new one is started, and the same
command run again. After that it runs once more, with nothing to do.

A training has two workers on two nodes, and one of them is killed when the first checkpoint is written. A third node
takes its place. The losses of each report are printed, so that a jump would be seen.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from faults import make_detector
from faulty_proxy import FaultyProxy
from namespaces import Nodes, fill_bucket, missing, start_store, wait_until

from diffad_ray import storage
from diffad_ray.table.reading import has_rows
from diffad_ray.table.verify import verify
from diffad_ray.table.views import ask_views

ARCHIVE, TABLE, DETECTOR = "s3://plant/archive", "s3://plant/table", "s3://plant/trained"
NORMALS = 200
"Images that the training learns from."
JOIN_AND_KILL, KILL_HEAD = 0.2, 0.6
LIMIT = 3600.0
"Seconds after which a part has failed."
COUNT = "SELECT count(*), count(DISTINCT image_uri) FROM scores"


def counts() -> tuple[int, int]:
    """Rows of the table, and different images among them."""
    if not has_rows(TABLE):
        return 0, 0
    ((rows, images),) = ask_views(TABLE, lambda connection: connection.sql(COUNT).fetchall())
    return rows, images


def shards_done() -> int:
    """Return the number of finished shards. A listing is faster than a query, which opens all files."""
    return sum(1 for _ in storage.walk(f"{TABLE}/scores")) if has_rows(TABLE) else 0


def start_cluster(nodes: Nodes, *names: str) -> None:
    """Start a head, and then the others at the same time."""
    nodes.add("head")
    nodes.wait("head")
    for name in names:
        nodes.add(name)
    nodes.wait(*names)


class Night:
    """The nightly command on the head, again and again until it has ended well."""

    def __init__(self, nodes: Nodes, images: int, shard_images: int):
        self.nodes, self.shards = nodes, -(-images // shard_images)
        make_detector(nodes.folder / "detector")
        settings = nodes.folder / "nightly.toml"
        settings.write_text(
            f'[nightly]\narchive = "{ARCHIVE}"\ntable = "{TABLE}"\ndetector = "{nodes.folder}/detector"\n'
            f"[scoring]\nshard_images = {shard_images}\n"
        )
        self.command = [sys.executable, "-m", "diffad_ray.cli", "nightly", str(settings), "--json"]

    def start(self, cpus: int) -> subprocess.Popen[bytes]:
        command = [*self.command, "--cpus", str(cpus)]
        return self.nodes.run("head", command, self.nodes.folder / "night.log")

    def until(self, night: subprocess.Popen[bytes], share: float) -> None:
        """Return once a share of the shards is done."""

        def is_there() -> bool:
            assert night.poll() is None, f"the night ended too early: {(self.nodes.folder / 'night.log').read_text()}"
            return shards_done() >= share * self.shards

        wait_until(is_there, f"{share:.0%} of the shards", LIMIT)

    def end(self, night: subprocess.Popen[bytes]) -> tuple[int, list[dict[str, Any]]]:
        """The exit code, and what each step says."""
        wait_until(lambda: night.poll() is not None, "the end of the night", LIMIT)
        lines = (self.nodes.folder / "night.log").read_text().splitlines()
        return night.returncode, [json.loads(line) for line in lines if line.startswith("{")]


def night_with_losses(nodes: Nodes, proxy: FaultyProxy, images: int, shard_images: int) -> dict[str, Any]:
    """Score the archive while a node joins, one is killed, and the head is killed; the figures."""
    night = Night(nodes, images, shard_images)
    start_cluster(nodes, "first", "second")
    started = time.monotonic()
    running = night.start(3)
    night.until(running, JOIN_AND_KILL)
    nodes.add("joins")
    nodes.wait("joins")
    nodes.kill("second")
    night.until(running, KILL_HEAD)
    at_loss = shards_done() * shard_images
    for name in ("head", "first", "joins"):
        nodes.kill(name)
    running.wait()
    read_by = {name: sum(proxy.readers[address].values()) for name, address in nodes.addresses.items()}
    start_cluster(nodes, "first", "joins")
    code, _ = night.end(night.start(3))
    seconds = time.monotonic() - started
    began = time.monotonic()
    second_code, steps = night.end(night.start(3))
    again = time.monotonic() - began
    rows, different = counts()
    read = sum(count for path, count in proxy.served.items() if path.startswith("/plant/archive/"))
    return {
        "images": images,
        "seconds": seconds,
        "rows when the head was killed": at_loss,
        "images read by node until then": read_by,
        "exit code": code,
        "lost": images - different,
        "double": rows - different,
        "read again": read / images - 1,
        "verify": [str(problem) for problem in verify(TABLE).problems],
        "second start, exit code": second_code,
        "second start, seconds": again,
        "second start, steps": [f"{step['step']}, {step['seconds']} s: {step['text']}" for step in steps],
    }


def training_that_loses_a_node(nodes: Nodes, steps: int) -> dict[str, Any]:
    """Train on two nodes, kill one after the first checkpoint; the figures, with the losses."""
    start_cluster(nodes, "first", "second", "third")
    command = [sys.executable, "-m", "diffad_ray.cli", "train", ARCHIVE, "--detector", DETECTOR, "--workers", "2"]
    command += ["--preset", "tiny", "--image-size", "64", "--steps", str(steps)]
    command += ["--set", "training.checkpoint_seconds=5", "--set", "training.precision=float32"]
    started = time.monotonic()
    training = nodes.run("head", command, nodes.folder / "training.log")

    def has_checkpoint() -> bool:
        assert training.poll() is None, f"the training ended: {(nodes.folder / 'training.log').read_text()[-2000:]}"
        return storage.exists(f"{DETECTOR}/training/checkpoint.pt")

    wait_until(has_checkpoint, "the first checkpoint", LIMIT)
    victim = node_of_a_worker(nodes, "first", "second", "third")
    nodes.kill(victim)
    lost_at = time.monotonic() - started
    wait_until(lambda: training.poll() is not None, "the end of the training", LIMIT)
    lines = storage.read(f"{DETECTOR}/training/losses.jsonl").decode().splitlines()
    return {
        "steps": steps,
        "exit code": training.returncode,
        "seconds": time.monotonic() - started,
        "killed": f"{victim}, after {lost_at:.0f} s",
        "losses": [json.loads(line) for line in lines],
    }


def node_of_a_worker(nodes: Nodes, *names: str) -> str:
    """A node that a worker of the training runs on."""
    for name in names:
        pids = subprocess.run(
            ["ip", "netns", "pids", nodes.namespace(name)], capture_output=True, text=True, check=True
        )
        for pid in pids.stdout.split():
            if b"RayTrainWorker" in Path(f"/proc/{pid}/cmdline").read_bytes():
                return name
    raise RuntimeError(f"no worker of the training runs on {names}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20_000, help="of the night; 0: no night")
    parser.add_argument("--shard-images", type=int, default=32)
    parser.add_argument("--steps", type=int, default=0, help="of the training; 0: no training")
    arguments = parser.parse_args()
    if reason := missing():
        sys.exit(reason)
    os.environ |= {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_REGION": "us-east-1"}
    print(f"{platform.platform()}, Python {platform.python_version()}")
    if arguments.images:
        figures = on_nodes(
            arguments.images,
            lambda nodes, proxy: night_with_losses(nodes, proxy, arguments.images, arguments.shard_images),
        )
        print_figures(figures)
    if arguments.images and arguments.steps:
        # In a process of its own, since this one has opened the store of the night.
        subprocess.run([sys.executable, __file__, "--images", "0", "--steps", str(arguments.steps)], check=True)
    elif arguments.steps:
        print_figures(on_nodes(NORMALS, lambda nodes, _: training_that_loses_a_node(nodes, arguments.steps)))


def on_nodes(images: int, part: Callable[[Nodes, FaultyProxy], dict[str, Any]]) -> dict[str, Any]:
    """The figures of a part, given a bridge without nodes and a store with so many images."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "AWS_ENDPOINT"))}
    kept |= {"PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    with Nodes(kept) as nodes:
        server, upstream = start_store(nodes.bridge, nodes.folder / "store.log")
        try:
            with FaultyProxy(upstream, share=0.0, host=nodes.bridge) as proxy:
                fill_bucket(upstream, images)
                os.environ["AWS_ENDPOINT_URL"] = nodes.environment["AWS_ENDPOINT_URL"] = proxy.url
                return part(nodes, proxy)
        finally:
            server.kill()
            server.wait()


def print_figures(figures: dict[str, Any]) -> None:
    print()
    for name, value in figures.items():
        print(f"- {name}: {f'{value:.3f}' if isinstance(value, float) else value}", flush=True)


if __name__ == "__main__":
    main()
