"""Where the time of familiarity's fit goes, part by part.

    OMP_NUM_THREADS=1 python benchmarks/fitting.py /data/part/train/good --textures textures --processor-time

`learn_familiarity` runs as at the end of a training of the kind `familiarity`, on all images of a folder. The functions
that are its parts are replaced by ones that take the time, and each part counts without those inside it. The table has
the run with the fewest seconds. `--processor-time` counts the time that the processor spent on this process, all its
threads together, which other processes disturb less.

To compare two commits, run this script in turns with `PYTHONPATH` at a checkout of each: parts that a commit lacks are
left out.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from collections import Counter
from collections.abc import Callable
from functools import partial, wraps
from pathlib import Path
from typing import Any

import torch

from diffad_ray.detectors.familiarity_alone import FamiliarityAlone, FamiliarityAloneSettings
from diffad_ray.inference.engine import default_device
from diffad_ray.inference.processor import has_bfloat16, processor_name
from diffad_ray.tensors import NormalSquares
from diffad_ray.training.normals import load_normals, load_textures

PARTS = {
    "learning._looked_at": "features of the images",
    "learning.folds": "folds",
    "normality.patch_gaussian": "fits: Gaussians",
    "normality.known_places": "fits: statistics of all places",
    "exemplars.far_apart": "fits: coresets",
    "learning._samples": "samples: the rest",
    "learning.judge_samples": "samples: the rest",
    "learning.pseudo_anomalies": "samples: pseudo-anomalies",
    "samples.pseudo_anomalies": "samples: pseudo-anomalies",
    "learning.residuals": "residuals: the rest",
    "samples.residuals": "residuals: the rest",
    "samples.compressed": "samples: compressed",
    "normality.unexplained": "Gaussian residuals",
    "exemplars.nearest": "search for the nearest",
    "learning.teach": "the judge's training",
    "model.Familiarity.describe": "features",
    "model.Familiarity.opinions": "opinions",
    "model.Familiarity.learn_background": "background",
}
"Functions by module of familiarity, and what they are called in the table; some were in another module before."
PLACES = {"learning._samples": "of samples", "exemplars.far_apart": "of fits"}
"Parts that tell apart those below, which several of them call."
DIVIDED = (
    "exemplars.nearest",
    "normality.unexplained",
    "learning.residuals",
    "samples.residuals",
    "model.Familiarity.describe",
)


class Parts:
    """Seconds of each part, without the parts inside it."""

    def __init__(self, clock: Callable[[], float]):
        self.clock, self.seconds, self.calls = clock, Counter[str](), Counter[str]()
        self.running: list[str] = []
        self.since = clock()

    def turn(self) -> None:
        """Count the time since the last turn for the part that was running."""
        now = self.clock()
        if self.running:
            self.seconds[self.running[-1]] += now - self.since
        self.since = now

    def run(self, path: str, function: Callable[..., Any], *given: Any, **named: Any) -> Any:
        label = PARTS.get(path, "the rest")
        if path in DIVIDED:
            label += ", " + next((PLACES[p] for p in PLACES if PARTS[p] in self.running), "others")
        self.turn()
        self.running.append(label)
        self.calls[label] += 1
        try:
            return function(*given, **named)
        finally:
            self.turn()
            self.running.pop()

    def watch(self, path: str) -> None:
        """Replace a function by one that takes the time, unless the commit lacks it."""
        module, *names = path.split(".")
        if importlib.util.find_spec(f"diffad_ray.familiarity.{module}") is None:
            return
        owner: Any = importlib.import_module(f"diffad_ray.familiarity.{module}")
        for name in names[:-1]:
            owner = getattr(owner, name)
        if (function := getattr(owner, names[-1], None)) is not None:
            setattr(owner, names[-1], wraps(function)(partial_method(self.run, path, function)))


def partial_method(run: Callable[..., Any], *first: Any) -> Callable[..., Any]:
    """Return `run` with its first arguments, as a function, which unlike `partial` can become a method."""

    def watched(*given: Any, **named: Any) -> Any:
        return run(*first, *given, **named)

    return watched


def squares_of(folder: Path, given: argparse.Namespace, device: torch.device) -> NormalSquares:
    """Return the squares of all images of a folder, as `train` passes them to `fit`."""
    settings = FamiliarityAloneSettings(image_size=given.image_size)
    pixels, sources, _ = load_normals(sorted(map(str, folder.iterdir())), settings, 10**6, given.seed)
    textures = load_textures(given.textures, given.image_size, given.seed) if given.textures else None
    squares = NormalSquares(pixels, sources, textures, given.steps, given.seed, device)
    # Commits before the judge learnt in bfloat16 have no such field.
    return squares._replace(bfloat16=has_bfloat16(device)) if "bfloat16" in squares._fields else squares


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="normal images")
    parser.add_argument("--textures", help="folder of images that lend pseudo-anomalies their appearance")
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--processor-time", action="store_true", help="of this process, instead of the time of a clock")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    device = default_device()
    squares = squares_of(given.folder, given, device)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    parts, runs = Parts(time.process_time if given.processor_time else time.perf_counter), []
    for path in PARTS:
        parts.watch(path)
    for _ in range(given.rounds):
        parts.seconds, parts.calls = Counter(), Counter()
        detector = FamiliarityAlone(FamiliarityAloneSettings(image_size=given.image_size)).to(device).eval()
        parts.run("", partial(detector.fit, squares, lambda doing: None))
        runs.append((parts.seconds.total(), parts.seconds, parts.calls))
    name = processor_name() if device.type == "cpu" else torch.cuda.get_device_name(device)
    shown = {key: value for key, value in vars(given).items() if key not in ("folder", "textures")}
    print(f"{name}, torch {torch.__version__}, {len(squares.pixels)} images, {shown}")
    print("all runs: " + ", ".join(f"{total:.1f} s" for total, *_ in runs))
    total, seconds, calls = min(runs, key=lambda run: run[0])
    print("\n| part | calls | s | share |\n|---|---|---|---|")
    for label, took in seconds.most_common():
        print(f"| {label} | {calls[label]} | {took:.2f} | {took / total:.1%} |")
    print(f"| whole | | {total:.2f} | |")


if __name__ == "__main__":
    main()
