"""What serving costs beside decoding and detecting, and how it holds under load; as Triton's perf_analyzer reports.

    python benchmarks/serving.py --seconds 60 --clients 1 8 64 --overload 10

One server is started on loopback, with the detector of benchmarks/scoring.py. In the same run:

- bare: decode and detect in this process, alone (for the latency of one client) and in full batches (for the rate);
- closed loop: so many clients, each of which sends its next image when it has the last answer; windows of some seconds
  until three in a row differ by less than 10 % in rate and median, or the time is over;
- open loop: images at a multiple of the rate of the most clients, whether answers come or not;
- the server's own time: from its log lines, all stages but decode, wait and detect; the processor time of the proxy and
  the replicas an image, beside that of the bare detector, from /proc.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import platform
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from scoring import make_detector, make_images

from diffad_ray.bundles.bundle import load_bundle
from diffad_ray.cluster import cores
from diffad_ray.images import decode_image, network_input
from diffad_ray.inference.engine import Engine

STABLE, WINDOWS = 0.1, 3
TICKS = os.sysconf("SC_CLK_TCK")


class Sent(NamedTuple):
    """A request: when it ended, how long it took, and its HTTP status; 0: no answer."""

    ended: float
    seconds: float
    code: int


class Server:
    """`diffad-ray serve` in a process of its own."""

    def __init__(self, detector: Path, folder: Path, replicas: int):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.log = folder / "requests.log"
        command = [sys.executable, "-m", "diffad_ray.cli", "serve", f"part={detector}", "--port", str(self.port)]
        command += ["--log-file", str(self.log), "--replicas", str(replicas)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout
        if not any(line.startswith("ready at") for line in iter(self.process.stdout.readline, "")):
            raise RuntimeError("the server did not start")

    def workers(self) -> dict[str, list[int]]:
        """Processes by their role: those of the proxy, of the replicas, and of the replicas' decoders."""
        found: dict[str, list[int]] = {"proxy": [], "replica": [], "decoder": []}
        for folder in Path("/proc").iterdir():
            if not folder.name.isdecimal():
                continue
            try:
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            for role, mark in (("proxy", "ray::ProxyActor"), ("replica", "ray::ServeReplica"), ("decoder", "isolated")):
                if mark in command:
                    found[role].append(int(folder.name))
        return found

    def processor_seconds(self) -> float:
        """Processor time of proxy, replicas and decoders so far."""
        total = 0
        for pid in [pid for pids in self.workers().values() for pid in pids]:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
        return total / TICKS

    def resident_megabytes(self) -> float:
        """Memory of proxy and replicas."""
        workers = self.workers()
        pages = [Path(f"/proc/{pid}/statm").read_text().split()[1] for pid in workers["proxy"] + workers["replica"]]
        return sum(map(int, pages)) * os.sysconf("SC_PAGE_SIZE") / 2**20

    def lines(self) -> list[dict[str, Any]]:
        """The log lines of all requests so far."""
        return [json.loads(line) for line in self.log.read_text().splitlines()] if self.log.exists() else []

    def close(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(90)


@contextmanager
def asking(
    port: int, files: list[bytes], clients: int, pause: Callable[[], float] | None = None
) -> Iterator[list[Sent]]:
    """Clients that ask until the block ends; with a pause, each waits so long from one request to the next."""
    sent: list[Sent] = []
    ended = threading.Event()

    def ask(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        count = number
        while not ended.is_set():
            if pause and ended.wait(pause()):
                return
            count += 1
            start = time.perf_counter()
            try:
                connection.request("POST", "/detectors/part/score", files[count % len(files)])
                answer = connection.getresponse()
                answer.read()
                code = answer.status
            except (OSError, http.client.HTTPException):
                connection.close()
                code = 0
            now = time.perf_counter()
            sent.append(Sent(now, now - start, code))

    threads = [threading.Thread(target=ask, args=(number,), daemon=True) for number in range(clients)]
    for thread in threads:
        thread.start()
    yield sent
    ended.set()
    for thread in threads:
        thread.join(120)


def percentiles(sent: list[Sent]) -> str:
    """Median and upper percentiles of the answered requests, in milliseconds."""
    seconds = sorted(one.seconds for one in sent if one.code == 200)
    if not seconds:
        return "no answer"
    shares = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}
    return "  ".join(f"{name} {1000 * seconds[int(share * (len(seconds) - 1))]:.1f}" for name, share in shares.items())


def closed_loop(server: Server, files: list[bytes], clients: int, most: float, window: float) -> tuple[float, float]:
    """Rate and median latency of so many clients, once windows are alike."""
    rates: list[tuple[float, float]] = []
    logged = len(server.lines())
    deadline = time.perf_counter() + most
    with asking(server.port, files, clients) as sent:
        time.sleep(window / 2)
        while True:
            first, begun, spent = len(sent), time.perf_counter(), server.processor_seconds()
            time.sleep(window)
            part, took = sent[first:], time.perf_counter() - begun
            good = [one for one in part if one.code == 200]
            rates.append((len(good) / took, statistics.median([one.seconds for one in good] or [0])))
            spent = server.processor_seconds() - spent
            last = rates[-WINDOWS:]
            alike = len(last) == WINDOWS and all(max(v) - min(v) <= STABLE * max(v) for v in zip(*last, strict=True))
            if alike or time.perf_counter() + window > deadline:
                break
    counts = dict(Counter(one.code for one in part))
    print(f"{clients:3} clients: {rates[-1][0]:7.1f} images/s  ms: {percentiles(part)}  statuses {counts}", end="  ")
    print(f"{1000 * spent / max(1, len(good)):.1f} ms of processor an image" + ("" if alike else "  (not stable)"))
    answered = [line["ms"] for line in server.lines()[logged:] if line["status"] == 200]
    own = [ms["total"] - ms["decode"] - ms["wait"] - ms["detect"] for ms in answered]
    print(f"{'':12} own time beside decode, wait and detect: median {statistics.median(own or [0]):.1f} ms")
    return rates[-1]


def open_loop(server: Server, files: list[bytes], rate: float, seconds: float) -> None:
    """Ask at a rate, whatever the answers; by so many threads that each may wait ten seconds for its answer."""
    clients = min(500, max(8, round(10 * rate)))
    with asking(server.port, files, clients, lambda: clients / rate) as sent:
        time.sleep(min(60.0, seconds / 4))
        early = server.resident_megabytes()
        time.sleep(seconds - min(60.0, seconds / 4))
        late = server.resident_megabytes()
    counts = dict(Counter(one.code for one in sent))
    print(f"open loop, {rate:.0f} images/s asked: ms of accepted: {percentiles(sent)}  statuses {counts}", end="  ")
    print(f"memory {early:.0f} -> {late:.0f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--seconds", type=float, default=60.0, help="of each closed loop at most, and of the open loop")
    parser.add_argument("--window", type=float, default=5.0)
    parser.add_argument("--overload", type=float, default=0.0, help="open loop at so many times the best rate")
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--replicas", type=int, default=cores())
    options = parser.parse_args()
    torch.set_num_threads(max(1, cores() // options.replicas))
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        paths = make_images(root / "images", 64)
        files = [path.read_bytes() for path in paths]
        make_detector(root / "detector", options.preset, options.image_size, "float32", paths)
        engine = Engine(load_bundle(str(root / "detector")).detector)

        def bare(count: int, clock: Callable[[], float] = time.perf_counter) -> float:
            start = clock()
            views = [network_input(decode_image(data).pixels, options.image_size) for data in files[:count]]
            list(engine.detect_images(views, with_reconstruction=False))
            return clock() - start

        bare(1)
        alone = statistics.median(bare(1) for _ in range(7))
        full = statistics.median(bare(engine.batch_size) for _ in range(5)) / engine.batch_size
        batch = engine.batch_size
        processor = statistics.median(bare(batch, time.process_time) for _ in range(5)) / batch
        print(f"{platform.machine()}, {cores()} cores, torch {torch.__version__}, {options}")
        print(
            f"bare: one image {1000 * alone:.1f} ms; in full batches {1000 * full:.1f} ms an image a process", end=", "
        )
        print(f"{options.replicas / full:.1f} images/s if {options.replicas} processes did not disturb each other")
        print(f"bare: {1000 * processor:.1f} ms of processor an image in full batches")
        server = Server(root / "detector", root, options.replicas)
        try:
            rates = {n: closed_loop(server, files, n, options.seconds, options.window) for n in options.clients}
            if options.overload:
                best = max(rate for rate, _ in rates.values())
                open_loop(server, files, options.overload * best, options.seconds)
                closed_loop(server, files, options.clients[-1], options.seconds, options.window)
        finally:
            server.close()


if __name__ == "__main__":
    main()
