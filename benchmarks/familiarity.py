"""What each stage of familiarity costs, and whether its search finds the nearest examples.

    python benchmarks/familiarity.py /data/part/train/good /data/part/test/good --rounds 10

The statistics are fitted to the images of the first folder, and the judge is untaught, which costs the same. The images
of the second folder are looked at in batches on one thread. Stages take turns, and each counts by its fastest round.

The examples that the search finds are compared with those of a brute-force search in float64 over all cells of these
images. An example is wrong if it is farther away than the nearest one; the largest excess of its distance is printed.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diffad_ray.familiarity.exemplars import nearest, whitened
from diffad_ray.familiarity.features import Described
from diffad_ray.familiarity.gaussians import unexplained
from diffad_ray.familiarity.model import Familiarity
from diffad_ray.familiarity.normality import Normality, normality, residuals
from diffad_ray.images import decode_image, network_input
from diffad_ray.tensors import as_unit_tensor

SEED = 0
ROWS_AT_ONCE = 512
"Cells compared with all examples at once by the brute-force search."


def read(folder: Path, side: int, most: int) -> Tensor:
    """Return at most `most` images of a folder, drawn at random, [N,3,side,side] in [0,1]."""
    paths = sorted(path for path in folder.iterdir() if path.is_file())
    chosen = np.random.default_rng(SEED).permutation(len(paths))[:most]
    return as_unit_tensor(np.stack([network_input(decode_image(paths[k].read_bytes()).pixels, side) for k in chosen]))


def rows_of(places: Tensor) -> Tensor:
    """Return feature maps [N,C,G,G] as features [N x G x G,C], as the search takes them."""
    return places.flatten(2).permute(0, 2, 1).flatten(0, 1)


def searches(normal: Normality, seen: Described) -> dict[str, tuple[Tensor, Tensor]]:
    """Return what both searches compare: the features of all cells, and the examples."""
    shown, left = whitened(normal.places, seen), unexplained(normal.gaussian, seen)
    return {
        "nearest features": (rows_of(shown), normal.places.shown.float()),
        "nearest residuals": (rows_of(left), normal.places.left.float()),
    }


def stages(familiarity: Familiarity, normal: Normality, images: Tensor) -> dict[str, Callable[[], object]]:
    """Return each stage as a function that runs it on a batch."""
    seen = familiarity.describe(images)
    found = residuals(normal, seen)
    compared = {name: partial(nearest, *pair) for name, pair in searches(normal, seen).items()}
    return {
        "features": lambda: familiarity.describe(images),
        "Gaussians": lambda: unexplained(normal.gaussian, seen),
        **compared,
        "judge": lambda: familiarity.judge(found),
        "all of familiarity": lambda: familiarity.opinions(residuals(normal, familiarity.describe(images))),
    }


def fastest(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return the fewest seconds that each function took; they take turns, and the first round is not counted."""
    seconds = dict.fromkeys(runs, float("inf"))
    for number in range(rounds + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if number > 0:
                seconds[name] = min(seconds[name], time.perf_counter() - start)
    return seconds


def errors(places: Tensor, known: Tensor) -> tuple[float, float]:
    """Return the share of places [L,C] whose example is not the nearest, and the largest relative excess distance."""
    excess = []
    for part, found in zip(places.split(ROWS_AT_ONCE), nearest(places, known).split(ROWS_AT_ONCE), strict=True):
        # Differences instead of products, so that nothing cancels.
        distances = torch.cdist(part.double(), known.double(), compute_mode="donot_use_mm_for_euclid_dist")
        least = distances.amin(dim=1)
        excess.append(distances.gather(1, found[:, None]).squeeze(1) / least.clamp(min=1e-12) - 1)
    joined = torch.cat(excess)
    return float((joined > 0).double().mean()), float(joined.max())


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("learnt", type=Path, help="folder of normal images that the statistics are fitted to")
    parser.add_argument("looked_at", type=Path, help="folder of images that are timed")
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--images", type=int, default=400, help="most images learnt from")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()

    torch.set_num_threads(1)
    familiarity = Familiarity(options.image_size).eval()
    learnt = familiarity.describe(read(options.learnt, options.image_size, options.images))
    normal = normality(learnt, len(learnt.exposure), torch.Generator().manual_seed(SEED))
    images = read(options.looked_at, options.image_size, options.batch_size)
    print(f"{len(learnt.exposure)} images learnt from, {len(images)} looked at, {len(normal.places.shown)} examples")

    print("\n| stage | ms an image |\n|---|---|")
    for name, seconds in fastest(stages(familiarity, normal, images), options.rounds).items():
        print(f"| {name} | {1000 * seconds / len(images):.2f} |")
    print("\n| search | not the nearest | largest excess distance |\n|---|---|---|")
    for name, (places, known) in searches(normal, familiarity.describe(images)).items():
        share, excess = errors(places, known)
        print(f"| {name} | {share:.5f} of {len(places)} | {excess:.1e} |")


if __name__ == "__main__":
    main()
