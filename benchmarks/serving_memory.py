"""Memory of two replicas of a machine: what they share, and what each has for itself.

    python benchmarks/serving_memory.py --presets tiny small

Two processes import what a replica imports, load a detector and detect once. The figures are those of Linux for one of
them, before and after: resident pages (rss), pages divided by the number of processes that share them (pss), and pages
that are its own. What two replicas take together is twice the pss.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from scoring import make_detector, make_images

from diffad_ray.bundles.bundle import load_bundle
from diffad_ray.inference.engine import Engine
from diffad_ray.serving import deployment

IMAGE_SIZE = 128


def replica(location: str) -> None:
    """Load a detector and detect, each at a line of the standard input."""
    torch.set_num_threads(1)
    print(deployment.NAME, flush=True)
    sys.stdin.readline()
    bundle = load_bundle(location)
    engine = Engine(bundle.detector)
    list(engine.detect_images([np.zeros((IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)]))
    print(sum(tensor.numel() * tensor.element_size() for tensor in bundle.detector.state_dict().values()), flush=True)
    sys.stdin.readline()


def memory(pid: int) -> str:
    """Memory of a process in MB, as rss / pss / own pages."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    kilobytes = {line.split(":")[0]: int(line.split()[1]) for line in lines}
    return " / ".join(f"{kilobytes[name] / 1024:.0f}" for name in ("Rss", "Pss", "Private_Dirty"))


def measure(location: Path) -> None:
    """Print the memory of one of two replicas, before and after it has the detector."""
    command = [sys.executable, __file__, "--replica", str(location)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    running = [subprocess.Popen(command, **pipes) for _ in range(2)]  # type: ignore[call-overload]
    try:
        for one in running:
            one.stdout.readline()
        before = memory(running[0].pid)
        for one in running:
            print(file=one.stdin, flush=True)
        (weights, _) = (int(one.stdout.readline()) for one in running)
        print(f"| {location.name} | {weights / 2**20:.0f} | {before} | {memory(running[0].pid)} |", flush=True)
    finally:
        for one in running:
            one.kill()


def main() -> None:
    if sys.argv[1:2] == ["--replica"]:
        replica(sys.argv[2])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="*", default=["tiny", "small"])
    options = parser.parse_args()
    print("| preset | weights, MB | before: rss / pss / own | after |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        paths = make_images(root / "images", 4)
        for preset in options.presets:
            make_detector(root / preset, preset, IMAGE_SIZE, "float32", paths)
            measure(root / preset)


if __name__ == "__main__":
    main()
