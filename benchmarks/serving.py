"""What serving costs beside decoding and detecting, and how it holds under load; as Triton's perf_analyzer reports.

    python benchmarks/serving.py --seconds 60 --clients 1 8 64
    python benchmarks/serving.py --clients 64 --overload 10 --minutes 4 --kill-every 30
    python benchmarks/serving.py --clients --large 1000 --swaps 10

One server is started on loopback, with the detector of benchmarks/scoring.py, one thread a replica. In the same run:

- bare: decode and detect, one image at a time in one process, and in full batches in as many processes as there are
  replicas, all at the same time;
- closed loop: so many clients, each of which sends its next image when it has the last answer; windows of some seconds
  until three in a row differ by less than 10 % in rate and median, or the time is over;
- overload: images at a multiple of the rate of the last closed loop, whether answers come or not, while every so many
  seconds a replica is killed by SIGKILL;
- large: bodies of 10 MB, an image and what follows it;
- swaps: the bundle is replaced again and again under the load of 8 clients;
- the server's own time: from its log lines, all stages but decode, wait and detect; and the processor time of proxy,
  replicas and decoders an image beside that of the bare detector, from /proc.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from scoring import make_detector, make_images
from serving_load import Server, asking, percentiles

from diffad_ray.bundles.bundle import load_bundle
from diffad_ray.cluster import cores
from diffad_ray.images import decode_image, network_input
from diffad_ray.inference.engine import Engine

STABLE, WINDOWS = 0.1, 3
BARE_SECONDS = 8.0
LARGE = 10_000_000
OVERLOAD_CLIENTS = 200


def bare(detector: str, folder: str) -> None:
    """Decode and detect in this process: print the median of one image, then the rate in full batches on a signal."""
    torch.set_num_threads(1)
    engine = Engine(load_bundle(detector).detector)
    side = engine.detector.settings.image_size
    files = [path.read_bytes() for path in sorted(Path(folder).iterdir())]

    def run(count: int) -> float:
        start = time.perf_counter()
        views = [network_input(decode_image(data).pixels, side) for data in files[:count]]
        list(engine.detect_images(views, with_reconstruction=False))
        return time.perf_counter() - start

    for _ in range(3):
        run(1)
    print(statistics.median(run(1) for _ in range(15)), engine.batch_size, flush=True)
    sys.stdin.readline()
    images, start, spent = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - start < BARE_SECONDS:
        run(engine.batch_size)
        images += engine.batch_size
    print(images / (time.perf_counter() - start), (time.process_time() - spent) / images, flush=True)


def measured_bare(root: Path, processes: int) -> tuple[float, float]:
    """Seconds of one image alone, and the rate of so many processes at the same time; they are printed."""
    command = [sys.executable, __file__, "--bare", str(root / "detector"), str(root / "images")]
    running = []
    for _ in range(processes):
        one = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert one.stdin
        assert one.stdout
        # One after the other, so that each is alone while it measures one image.
        alone, batch = map(float, one.stdout.readline().split())
        running.append(one)
    for one in running:
        print(file=one.stdin, flush=True)
    answers = [one.communicate()[0].split() for one in running]
    rate, processor = sum(float(found[0]) for found in answers), statistics.mean(float(found[1]) for found in answers)
    print(
        f"bare: one image {1000 * alone:.1f} ms; {processes} processes with batches of {batch:.0f}: {rate:.1f} images/s"
    )
    print(f"bare: {1000 * processor:.1f} ms of processor an image", flush=True)
    return alone, rate


def closed_loop(server: Server, files: list[bytes], clients: int, most: float, window: float) -> float:
    """Rate of so many clients, once windows are alike; the figures are printed."""
    rates: list[tuple[float, float]] = []
    logged = len(server.lines())
    deadline = time.perf_counter() + most
    with asking(server.port, files, clients) as sent:
        time.sleep(window / 2)
        while True:
            first, begun, before = len(sent), time.perf_counter(), server.processor_seconds()
            time.sleep(window)
            part, took = sent[first:], time.perf_counter() - begun
            good = [one for one in part if one.code == 200]
            rates.append((len(good) / took, statistics.median([one.seconds for one in good] or [0])))
            spent = {role: used - before[role] for role, used in server.processor_seconds().items()}
            last = rates[-WINDOWS:]
            alike = len(last) == WINDOWS and all(max(v) - min(v) <= STABLE * max(v) for v in zip(*last, strict=True))
            if alike or time.perf_counter() + window > deadline:
                break
    answered = [line["ms"] for line in server.lines()[logged:] if line["status"] == 200]
    own = [ms["total"] - ms["decode"] - ms["wait"] - ms["detect"] for ms in answered]
    processor = ", ".join(f"{role} {1000 * used / max(1, len(good)):.1f}" for role, used in spent.items())
    print(f"{clients:3} clients: {rates[-1][0]:.1f} images/s; ms p50/p90/p95/p99 {percentiles(part)}", end="; ")
    print(f"statuses {dict(Counter(one.code for one in part))}" + ("" if alike else "; not stable"))
    print(
        f"    ms of processor an image: {processor}; own time of a request: median {statistics.median(own or [0]):.1f}"
    )
    stages = {name: statistics.median(ms.get(name, 0.0) for ms in answered) for name in answered[0]} if answered else {}
    print("    median ms by stage: " + ", ".join(f"{name} {value:.1f}" for name, value in stages.items()), flush=True)
    return rates[-1][0]


@contextmanager
def killing(server: Server, every: float) -> Iterator[list[float]]:
    """Kill one replica by SIGKILL every so many seconds for the length of a block; 0: none is killed."""
    killed: list[float] = []
    ended = threading.Event()

    def kill() -> None:
        while every and not ended.wait(every):
            if replicas := server.workers()["replica"]:
                os.kill(random.choice(replicas), signal.SIGKILL)
                killed.append(time.perf_counter())

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    yield killed
    ended.set()
    thread.join()


@contextmanager
def watching_memory(server: Server) -> Iterator[list[tuple[float, dict[str, float]]]]:
    """Note the resident memory by role every second."""
    found: list[tuple[float, dict[str, float]]] = []
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(1.0):
            found.append((time.perf_counter(), server.resident_megabytes()))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    yield found
    ended.set()
    thread.join()


def memory_by_minute(found: list[tuple[float, dict[str, float]]]) -> str:
    """Median resident memory of each minute, in MB, by role."""
    minutes: dict[int, list[dict[str, float]]] = {}
    for at, megabytes in found:
        minutes.setdefault(int((at - found[0][0]) // 60), []).append(megabytes)
    roles = found[0][1]
    return "; ".join(
        f"{role} " + " ".join(f"{statistics.median(one[role] for one in part):.0f}" for part in minutes.values())
        for role in roles
    )


def overload(server: Server, files: list[bytes], rate: float, options: argparse.Namespace) -> None:
    """Ask at a rate that is too high, whatever the answers, while replicas are killed; the figures are printed."""
    with (
        watching_memory(server) as memory,
        killing(server, options.kill_every) as killed,
        asking(server.port, files, OVERLOAD_CLIENTS, rate) as sent,
    ):
        began = time.perf_counter()
        time.sleep(60 * options.minutes)
        took = time.perf_counter() - began
    counts = dict(sorted(Counter(one.code for one in sent).items()))
    accepted = sum(one.code == 200 for one in sent)
    print(
        f"overload: {rate:.0f} images/s wanted, {len(sent) / took:.0f} asked, for {options.minutes:g} minutes", end="; "
    )
    print(f"accepted {accepted / took:.1f} images/s; ms p50/p90/p95/p99 of accepted {percentiles(sent)}")
    print(f"    statuses {counts}; {len(killed)} replicas killed")
    print(f"    resident MB by minute: {memory_by_minute(memory)}", flush=True)
    for moment in killed:
        by_second = [
            sum(one.code == 200 and 0 <= one.ended - moment - k < 5 for one in sent) / 5 for k in range(0, 30, 5)
        ]
        print(f"    images/s in each 5 s after a kill: {' '.join(f'{value:.1f}' for value in by_second)}", flush=True)


def large_bodies(server: Server, files: list[bytes], count: int) -> None:
    """Send bodies of 10 MB, by four clients."""
    padded = [data + bytes(LARGE - len(data)) for data in files[:4]]
    with watching_memory(server) as memory, asking(server.port, padded, 4) as sent:
        began = time.perf_counter()
        while len(sent) < count:
            time.sleep(0.5)
        took = time.perf_counter() - began
    print(
        f"{len(sent)} bodies of 10 MB: {len(sent) / took:.1f} images/s; ms p50/p90/p95/p99 {percentiles(sent)}",
        end="; ",
    )
    print(f"statuses {dict(Counter(one.code for one in sent))}")
    print(f"    resident MB by minute: {memory_by_minute(memory)}", flush=True)


def hot_swaps(server: Server, files: list[bytes], root: Path, count: int) -> None:
    """Replace the bundle again and again, as `save_bundle` does, under the load of 8 clients."""
    bundles = [root / "other", root / "first"]
    shutil.copytree(root / "detector", root / "first")
    names = {load_bundle(str(place)).fingerprint for place in bundles}
    with asking(server.port, files, 8) as sent:
        for number in range(count):
            by = bundles[number % 2]
            (root / "detector" / "detector.json").unlink()
            for file in ("model.safetensors", "detector.json"):
                shutil.copy(by / file, root / "detector")
            time.sleep(15)
    found = Counter((one.code, one.fingerprint) for one in sent)
    print(f"{count} hot swaps: statuses {dict(Counter(one.code for one in sent))}; answers by bundle", end=" ")
    print({name: n for (_, name), n in found.items()}, "all known:", {name for _, name in found} <= names, flush=True)


def measure(options: argparse.Namespace, root: Path) -> None:
    """Run the parts that the options name, and print their figures."""
    paths = make_images(root / "images", 64)
    files = [path.read_bytes() for path in paths]
    make_detector(root / "detector", options.preset, options.image_size, "float32", paths)
    if options.swaps:
        make_detector(root / "other", options.preset, options.image_size, "float32", paths, seed=1)
    print(f"{platform.platform()}, {cores()} cores, torch {torch.__version__}, {vars(options)}", flush=True)
    figures: dict[str, Any] = dict(zip(("alone", "rate"), measured_bare(root, options.replicas), strict=True))
    server = Server(root / "detector", root, options.replicas, *options.serve)
    try:
        rate = figures["rate"]
        for clients in options.clients:
            rate = closed_loop(server, files, clients, options.seconds, options.window)
            print(f"    {rate / figures['rate']:.2f} of the bare detector's rate", flush=True)
        if options.overload:
            overload(server, files, options.overload * rate, options)
            closed_loop(server, files, options.clients[-1] if options.clients else 8, options.seconds, options.window)
        if options.large:
            large_bodies(server, files, options.large)
        if options.swaps:
            hot_swaps(server, files, root, options.swaps)
    finally:
        server.close()


def main() -> None:
    if sys.argv[1:2] == ["--bare"]:
        bare(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, nargs="*", default=[1, 8, 64], help="of the closed loops")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each closed loop at most")
    parser.add_argument("--window", type=float, default=5.0)
    parser.add_argument("--overload", type=float, default=0.0, help="so many times the rate of the last closed loop")
    parser.add_argument("--minutes", type=float, default=10.0, help="of the overload")
    parser.add_argument("--kill-every", type=float, default=30.0, help="seconds between two lost replicas; 0: none")
    parser.add_argument("--large", type=int, default=0, help="bodies of 10 MB")
    parser.add_argument("--swaps", type=int, default=0, help="replacements of the bundle, one every 15 s")
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--replicas", type=int, default=cores())
    parser.add_argument("--serve", nargs="*", default=[], help="further options of the server")
    # The server is ended even if this process is told to stop.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with tempfile.TemporaryDirectory() as scratch:
        measure(parser.parse_args(), Path(scratch))


if __name__ == "__main__":
    main()
