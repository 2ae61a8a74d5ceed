"""Random kills while an archive is scored, then a check that no image was lost, none doubled, and little done again.

    python benchmarks/faults.py --images 20000 --kills 20
    python benchmarks/faults.py --images 20000 --kills 20 --share 0.2

The archive is in a bucket of an S3 server on loopback, behind a proxy that counts what is fetched and spoils a share of
all answers (503, resets, slow answers, truncated bodies). The Ray cluster has a head and two nodes on this machine. At
random moments the driver, a worker process or a whole node is killed by SIGKILL; a killed driver is started again by
the same command, a killed node replaced. Between two kills the table grows at least once, so that none of them hits
mere beginnings. All the while the table is read by DuckDB through a plain glob, and through the views of `query`.
Afterwards a fifth of the images is scored again and the table is compacted. The views are read then, too.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import duckdb
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from faulty_proxy import FaultyProxy

PICTURES = 100
SIDE = 64


def start_server(root: Path) -> tuple[subprocess.Popen[bytes], str]:
    """A moto server in a process of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).with_name("moto_server")), "-H", "127.0.0.1", "-p", str(port)]
    log = (root / "server.log").open("wb")
    server = subprocess.Popen(command, stdout=log, stderr=log)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return server, f"http://127.0.0.1:{port}"
        except OSError:
            time.sleep(0.1)
    raise RuntimeError("the S3 server does not start")


def fill_archive(images: int) -> None:
    """`s3://plant/archive`: some pictures of weave, stored under many names."""
    from diffad_ray import storage
    from diffad_ray.demo.surfaces import normal

    rng = np.random.default_rng(0)
    files = [cv2.imencode(".png", normal("weave", rng, SIDE).image)[1].tobytes() for _ in range(PICTURES)]

    def put(k: int) -> None:
        storage.write(f"s3://plant/archive/line{k % 7}/{k:06d}.png", files[k % PICTURES])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(put, range(images)))


def make_detector(location: Path) -> None:
    """An untrained detector; what it says means nothing here, but it says it as fast as a trained one."""
    import torch

    from diffad_ray.bundles.bundle import Bundle, save_bundle
    from diffad_ray.bundles.calibration import Calibration
    from diffad_ray.detectors.diffusion_ad import DiffusionAD, DiffusionADSettings

    torch.manual_seed(0)
    detector = DiffusionAD(DiffusionADSettings(preset="tiny", image_size=32)).eval()
    save_bundle(Bundle(detector, Calibration.from_scores(np.linspace(-0.4, 0.4, 200))), str(location))


class Reader(threading.Thread):
    """Reads the table through a plain glob all the while: it may grow, and each image may be in it once."""

    def __init__(self, table: Path):
        super().__init__(daemon=True)
        self.table, self.reads, self.rows = table, 0, 0
        self.problems, self.ended = list[str](), threading.Event()

    def stop(self) -> None:
        self.ended.set()
        self.join()

    def run(self) -> None:
        while not self.ended.wait(0.5):
            if not list(self.table.glob("scores/*/*.parquet")):
                continue
            sql = f"SELECT count(*), count(DISTINCT image_id) FROM read_parquet('{self.table}/scores/*/*.parquet')"
            try:
                ((rows, images),) = duckdb.connect().execute(sql).fetchall()
            except duckdb.Error as error:
                self.problems.append(str(error))
                continue
            if rows != images or rows < self.rows:
                self.problems.append(f"{rows} rows of {images} images after {self.rows} rows")
            self.rows, self.reads = rows, self.reads + 1


class ViewReader(Reader):
    """Reads the views all the while: each image may be there once, also while images are scored again or merged."""

    def run(self) -> None:
        from diffad_ray.errors import UserError
        from diffad_ray.table.views import read_views

        sql = "SELECT count(*), count(DISTINCT image_id) FROM scores"
        while not self.ended.wait(0.5):
            if not list(self.table.glob("scores/*/*.parquet")):
                continue
            try:
                ((rows, images),) = read_views(str(self.table), lambda views: views.execute(sql).fetchall())
            except (duckdb.Error, UserError) as error:
                self.problems.append(str(error))
                continue
            if rows != images or rows < self.rows:
                self.problems.append(f"the views have {rows} rows of {images} images after {self.rows} rows")
            self.rows, self.reads = rows, self.reads + 1


class Run:
    """The cluster, the driver, and what is killed of them."""

    def __init__(self, command: list[str], log: Path, seed: int, pause: float):
        from ray.cluster_utils import Cluster

        self.command, self.log, self.random = command, log.open("wb"), random.Random(seed)
        self.pause = pause
        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
        self.nodes = [self.cluster.add_node(num_cpus=4) for _ in range(2)]
        self.kills: Counter[str] = Counter()
        self.starts = 0

    def start_driver(self) -> subprocess.Popen[bytes]:
        self.starts += 1
        environment = os.environ | {"RAY_ADDRESS": self.cluster.address}
        return subprocess.Popen(self.command, env=environment, stdout=self.log, stderr=self.log)

    def kill(self, driver: subprocess.Popen[bytes]) -> None:
        kind = self.random.choice(("driver", "worker", "node"))
        if kind == "driver":
            driver.send_signal(signal.SIGKILL)
            driver.wait()
        elif kind == "node":
            node = self.nodes.pop(self.random.randrange(len(self.nodes)))
            self.cluster.remove_node(node, allow_graceful=False)
            self.nodes.append(self.cluster.add_node(num_cpus=4))
        else:
            raylets = {str(node.all_processes["raylet"][0].process.pid) for node in self.nodes}
            workers = _worker_processes(raylets)
            if not workers:
                return
            os.kill(self.random.choice(workers), signal.SIGKILL)
        self.kills[kind] += 1

    def until_finished(self, kills: int, limit: float, rows: Callable[[], int]) -> float:
        """Seconds until the run is done, with so many kills on the way; `rows` tells how many the table has."""
        started = time.monotonic()
        driver = self.start_driver()
        next_kill, rows_at_kill = math.inf, 0
        while True:
            if driver.poll() == 0:
                return time.monotonic() - started
            if driver.poll() is not None:
                driver = self.start_driver()
            if time.monotonic() - started > limit:
                raise RuntimeError(f"not finished after {limit:.0f} s, see {self.log.name}")
            if next_kill == math.inf and rows() > rows_at_kill:
                next_kill = time.monotonic() + self.random.uniform(0, self.pause)
            if sum(self.kills.values()) < kills and time.monotonic() > next_kill:
                self.kill(driver)
                next_kill, rows_at_kill = math.inf, rows()
            time.sleep(0.05)


def _worker_processes(raylets: set[str]) -> list[int]:
    """Processes of actors of Ray Data; those of this cluster alone."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdigit() and b"MapWorker" in (process / "cmdline").read_bytes():
                parent = (process / "stat").read_text().rpartition(")")[2].split()[1]
                found += [int(process.name)] if parent in raylets else []
        except OSError:
            continue  # it has ended
    return found


def fetched_again(images: int, served: Counter[str]) -> float:
    """The share of the images that was fetched more than once."""
    return sum(count for path, count in served.items() if path.startswith("/plant/archive/")) / images - 1


def check(table: Path, images: int) -> dict[str, Any]:
    """What the table holds in the end."""
    from diffad_ray.table.verify import verify

    sql = f"SELECT count(*), count(DISTINCT image_uri) FROM read_parquet('{table}/scores/*/*.parquet')"
    ((rows, distinct),) = duckdb.connect().execute(sql).fetchall()
    verification = verify(str(table))
    return {
        "rows": rows,
        "lost": images - distinct,
        "double": rows - distinct,
        "verify": [str(problem) for problem in verification.problems],
        "temporary": [str(path) for path in table.rglob("*") if path.name.endswith(".part")],
    }


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--share", type=float, default=0.0, help="of requests whose answer is spoilt")
    parser.add_argument("--shard-images", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pause", type=float, default=6, help="most seconds from a growth of the table to a kill")
    parser.add_argument("--limit", type=float, default=3000, help="seconds after which the run has failed")
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    return parser.parse_args()


def main() -> None:
    arguments = options()
    with tempfile.TemporaryDirectory(prefix="diffad-faults-") as place:
        root = Path(place)
        server, upstream = start_server(root)
        os.environ |= {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_REGION": "us-east-1"}
        os.environ |= {"AWS_ENDPOINT_URL": upstream, "AWS_DEFAULT_REGION": "us-east-1", "OMP_NUM_THREADS": "1"}
        try:
            import boto3

            from diffad_ray.table.compact import compact

            boto3.client("s3").create_bucket(Bucket="plant")
            fill_archive(arguments.images)
            make_detector(root / "detector")
            table = root / "table"
            with FaultyProxy(upstream, arguments.share, arguments.seed) as proxy:
                os.environ["AWS_ENDPOINT_URL"] = proxy.url
                command = [sys.executable, "-m", "diffad_ray.cli", "score", "s3://plant/archive", "--actors", "2"]
                command += ["--detector", str(root / "detector"), "--table", str(table)]
                command += ["--set", f"scoring.shard_images={arguments.shard_images}"]
                readers = [Reader(table), ViewReader(table)]
                for reader in readers:
                    reader.start()
                run = Run(command, root / "driver.log", arguments.seed, arguments.pause)
                try:
                    seconds = run.until_finished(arguments.kills, arguments.limit, lambda: readers[0].rows)
                    readers[0].stop()
                    again = fetched_again(arguments.images, proxy.served)
                    run.command += ["--force", "--limit", str(arguments.images // 5)]
                    run.until_finished(0, arguments.limit, lambda: 0)
                    compact(table, arguments.shard_images)
                except RuntimeError:
                    print((root / "driver.log").read_text()[-4000:], file=sys.stderr)
                    raise
                finally:
                    for reader in readers:
                        reader.stop()
                    run.cluster.shutdown()
            figures = check(table, arguments.images) | {
                "again": again,
                "images": arguments.images,
                "seconds": seconds,
                "kills": dict(run.kills),
                "starts": run.starts,
                "reads": [reader.reads for reader in readers],
                "reader": [problem for reader in readers for problem in reader.problems[:3]],
                "faults": dict(proxy.faults),
                "requests": proxy.requests,
            }
        finally:
            server.kill()
            server.wait()
    if arguments.json:
        print(json.dumps(figures))
        return
    print(f"{platform.platform()}, Python {platform.python_version()}, seed {arguments.seed}\n")
    for name, value in figures.items():
        print(f"- {name}: {f'{value:.3f}' if isinstance(value, float) else value}")


if __name__ == "__main__":
    main()
