"""A gate on labelled images that nobody used to make it: what it passes, what it misses, and what it saves.

    diffad-ray gate detectors/part
    python benchmarks/gate.py detectors/part parts/test --images 400

The folder holds `good` and a folder for each kind of defect, as the test images of MVTec AD. First, gate and detector
look at each image. Then an archive of links to these images, one in a hundred defective, passes the three stages of
scoring in this process, on one thread, with the gate and without it; each shard in turns, so that a busy machine
disturbs both alike. `--made weave` makes the images of a product instead, into the folder.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pyarrow as pa
import torch

from diffad_ray.bundles.bundle import Bundle, load_bundle
from diffad_ray.demo.surfaces import DEFECTS, defective, normal
from diffad_ray.gates.bundle import load_gate
from diffad_ray.gates.look import Gatekeeper
from diffad_ray.inference.engine import Engine
from diffad_ray.intervals import exact_interval
from diffad_ray.scoring.attempts import NoAttempts
from diffad_ray.scoring.commit import CommitShard
from diffad_ray.scoring.detect import DetectShard
from diffad_ray.scoring.load import LoadShard
from diffad_ray.scoring.plan import make_plan
from diffad_ray.scoring.selection import select_images
from diffad_ray.scoring.stages import judges_of, wanted_of
from diffad_ray.scoring.task import Task, make_task
from diffad_ray.training.normals import read_images

SHARD = 50
DEFECTIVE = 100
"One image of so many is defective."


class Looked(NamedTuple):
    """Scores of images by gate and detector."""

    gate: np.ndarray
    full: np.ndarray


def make_product(surface: str, folder: Path, size: int, train: int) -> None:
    """Write good images to learn from, and good and defective ones to test with."""
    rng = np.random.default_rng(7)
    for name, count in (("train/good", train), ("test/good", 200)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for k in range(count):
            assert cv2.imwrite(str(folder / name / f"{k:04d}.png"), normal(surface, rng, size).image[..., ::-1])
    for kind in DEFECTS[surface]:
        (folder / "test" / kind).mkdir(parents=True, exist_ok=True)
        for k in range(60):
            pixels = defective(surface, kind, rng, size).image
            assert cv2.imwrite(str(folder / "test" / kind / f"{k:04d}.png"), pixels[..., ::-1])


def looked_at(bundle: Bundle, location: str, files: list[str]) -> Looked:
    engine = Engine(bundle.detector)
    keeper = Gatekeeper(load_gate(location, bundle).look, bundle.detector.settings)
    full = [found.score for found in engine.detect_images(read_images(files, {}), with_reconstruction=False)]
    gate = [score for _, score in keeper.looked_at(read_images(files, {}))]
    return Looked(np.array(gate, np.float32), np.array(full, np.float32))


def share(count: int, of: int) -> str:
    found = exact_interval(count, of)
    return f"{count} of {of}, {found.value:.1%} ({found.low:.1%} to {found.high:.1%})"


def archive_of(good: list[str], bad: list[str], count: int, folder: Path) -> None:
    """Links to `count` images, one of `DEFECTIVE` of them defective."""
    goods, bads = itertools.cycle(good), itertools.cycle(bad)
    for k in range(count):
        source = Path(next(bads if k % DEFECTIVE == DEFECTIVE // 2 else goods)).resolve()
        (folder / f"{k:05d}{source.suffix}").symlink_to(source)


class Stages:
    """The stages of a task in this process."""

    def __init__(self, task: Task, folder: Path):
        selection = select_images(task.archive, task.table, task.detectors, task.settings, folder)
        plan = make_plan(task.archive, task.table, selection, task.detectors, task.settings, task.work, False)
        self.shards, self.seconds, self.images = plan.shards, [0.0, 0.0, 0.0], 0
        judges, attempts = judges_of(task), NoAttempts()
        locations = {one.bundle.fingerprint: one.location for one in task.detectors}
        thresholds = {key: judge.threshold for key, judge in judges.items()}
        order = np.arange(plan.shards, dtype=np.int32)
        self.load = LoadShard(plan, task.settings, task.storage, order, wanted_of(task), attempts)
        self.detect = DetectShard(locations, task.settings, task.storage, thresholds, 1, attempts, task.gates)
        self.commit = CommitShard(plan, task.settings, task.storage, judges)

    def run(self, shard: int, counts: bool) -> None:
        block = pa.table({"id": [shard]})
        for number, stage in enumerate((self.load.run, self.detect, self.commit)):
            started = time.perf_counter()
            block = stage(block)
            self.seconds[number] += counts * (time.perf_counter() - started)
            if number == 0:
                self.images += counts * len(block)

    @property
    def rate(self) -> float:
        return self.images / sum(self.seconds)

    def __str__(self) -> str:
        each = [1000 * seconds / self.images for seconds in self.seconds]
        return f"{self.rate:.1f} images/s (ms an image: load {each[0]:.2f}, detect {each[1]:.2f}, commit {each[2]:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("detector")
    parser.add_argument("folder", type=Path, help="good/ and folders of defects")
    parser.add_argument("--images", type=int, default=400, help="of the archive")
    parser.add_argument("--made", choices=sorted(DEFECTS), help="make the images of a product, and stop")
    given = parser.parse_args()
    if given.made:
        make_product(given.made, given.folder, 128, 300)
        return
    torch.set_num_threads(1)
    bundle = load_bundle(given.detector)
    gate = load_gate(given.detector, bundle)
    found = gate.opening(bundle.calibration.threshold)
    files = {folder.name: sorted(map(str, folder.iterdir())) for folder in sorted(given.folder.iterdir())}
    good, bad = files.pop("good"), list(itertools.chain.from_iterable(files.values()))
    print(f"gate by {gate.kind}, limit {found.limit:.3f}, promise {found.missed:.2%}")
    print(f"made with {gate.facts['passes']}, flagged {gate.facts['flagged']}")
    print(f"held-back good images passed: {found.passes}")
    goods, bads = (looked_at(bundle, given.detector, group) for group in (good, bad))
    print(f"good images passed: {share(int((goods.gate < found.limit).sum()), len(goods.gate))}")
    for name, seen in (("good", goods), ("defective", bads)):
        flagged = seen.full >= found.threshold
        lost = int((seen.gate[flagged] < found.limit).sum())
        print(f"{name} images that the detector flags and the gate misses: {share(lost, int(flagged.sum()))}")
    with tempfile.TemporaryDirectory() as scratch:
        archive = Path(scratch) / "archive"
        archive.mkdir()
        archive_of(good, bad, given.images, archive)
        ways = {
            name: Stages(
                make_task(
                    archive,
                    Path(scratch) / name,
                    given.detector,
                    settings={"shard_images": SHARD, "gate": name == "gate"},
                ),
                Path(scratch),
            )
            for name in ("gate", "full")
        }
        for shard in range(ways["gate"].shards):
            for stages in ways.values():
                stages.run(shard, counts=shard > 0)
        for name, stages in ways.items():
            print(f"{name}: {stages}")
        print(f"gate against full: {ways['gate'].rate / ways['full'].rate:.2f} times")


if __name__ == "__main__":
    main()
