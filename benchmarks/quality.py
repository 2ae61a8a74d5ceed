"""What a detector, and each of its parts alone, finds with default settings, over all data sets at hand.

    python benchmarks/quality.py tiles=magtile cells=elpv_mono --kind familiarity --seeds 0 1 2 --work .scratch/quality
    python benchmarks/quality.py tiles=magtile --kind diffusion-ad --steps 800 --textures textures --work .scratch/q
    python benchmarks/quality.py weave brushed_metal screw ring --kind familiarity --work .scratch/quality

A data set is `NAME=FOLDER` with one product in a labelled layout, such as MVTec's, or the name of a made-up product.
The first table is by `evaluate`. The second has the image AUROC of each part alone: the detector's own evidence, the
judge, each distance, familiarity as a whole, and the whole detector. A line above both names commit and settings.
Started again, it goes on with the trainings that are done.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from detectors import generated

from diffad_ray import evaluate, train
from diffad_ray.bundles.bundle import Bundle
from diffad_ray.demo.surfaces import DEFECTS
from diffad_ray.detectors.judged import JudgedDetector
from diffad_ray.evaluation.figures import Figures
from diffad_ray.evaluation.metrics import auroc
from diffad_ray.familiarity.normality import residuals
from diffad_ray.images import decode_image, network_input
from diffad_ray.labels.datasets import GOOD
from diffad_ray.labels.reading import read_dataset
from diffad_ray.settings import read_settings
from diffad_ray.tensors import as_unit_tensor
from diffad_ray.training.sources import Sources

BATCH = 16
DISTANCES = ("nearest feature", "nearest residual")
PARTS = ("own evidence", "judge", *DISTANCES, "familiarity", "whole")
FIGURES = ("image_auroc", "pixel_auroc", "pixel_ap", "aupro", "false_alarm_rate", "recall")
TURNED = ("screw", "ring")


def folder_of(dataset: str, work: Path) -> tuple[str, Path]:
    """Return the name and the folder of a data set, made first if it is a made-up product."""
    name, _, folder = dataset.partition("=")
    if folder:
        return name, Path(folder)
    if name in DEFECTS:
        return name, generated(name, work / name)
    if name not in TURNED:
        raise SystemExit(f"{name} is no made-up product ({', '.join((*DEFECTS, *TURNED))}): give NAME=FOLDER")
    if not (work / name).exists():
        maker = Path(__file__).parent / "research" / "turned.py"
        subprocess.run([sys.executable, maker, name, work / name], check=True)
    return name, work / name


@torch.inference_mode()
def parts_alone(bundle: Bundle, folder: Path) -> dict[str, float]:
    """Return the image AUROC of each part of a detector that sees whole images."""
    detector = bundle.detector
    assert isinstance(detector, JudgedDetector)
    images = read_dataset(folder).images
    side, white, found = detector.settings.image_size, detector.settings.white, []
    for start in range(0, len(images), BATCH):
        decoded = [decode_image(Path(i.uri).read_bytes(), white=white).pixels for i in images[start : start + BATCH]]
        found.append(_scores(detector, as_unit_tensor(np.stack([network_input(p, side) for p in decoded]))))
    scores, is_defective = np.concatenate(found), np.array([image.kind != GOOD for image in images])
    values = {name: auroc(scores[:, k], is_defective) for k, name in enumerate(PARTS)}
    return {name: value for name, value in values.items() if value is not None}


def _scores(detector: JudgedDetector, images: torch.Tensor) -> np.ndarray:
    """Return the scores [N,len(PARTS)] of images [N,3,S,S] by each part."""
    model = detector.familiarity
    opinions = model.opinions(residuals(model.normality, model.describe(images)))
    own = detector.image_score(detector.own_log_odds(detector.evidence(images)).anomaly_map)
    largest = opinions.flatten(2).amax(dim=2)
    strangest = model.strangeness(opinions).flatten(1).amax(dim=1)
    return torch.column_stack([own, largest, strangest, detector.detect(images).score]).numpy()


def shown(values: Sequence[float]) -> str:
    """Return the mean of the seeds, and the standard deviation if there are several."""
    if not values:
        return "-"
    mean = f"{statistics.mean(values):.3f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.3f}"


def with_interval(found: Sequence[Figures], name: str) -> str:
    """Return a figure over the seeds; with one seed, also its 95 % interval."""
    text = shown([value for figures in found if (value := getattr(figures, name)) is not None])
    if len(found) == 1 and (bounds := found[0].intervals.get(name)):
        text += f" [{bounds[0]:.3f}, {bounds[1]:.3f}]"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", nargs="+", help="NAME=FOLDER, or a made-up product")
    parser.add_argument("--work", type=Path, required=True, help="folder for detectors and made-up images")
    parser.add_argument("--kind", default="diffusion-ad")
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--textures")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--set", dest="overrides", action="append", default=[], help="for all trainings")
    given = parser.parse_args()

    torch.set_num_threads(given.threads)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    print(f"commit {commit}, {given.kind}, {given.steps} steps, seeds {given.seeds}, {given.threads} threads\n")
    whole, alone = [], []
    for name, folder in (folder_of(dataset, given.work) for dataset in given.datasets):
        figures, parts = [], []
        for seed in given.seeds:
            location = given.work / f"{name}-{given.kind}-{seed}"
            settings = read_settings(
                options={"training": {"steps": given.steps}},
                overrides=[*(["detector.preset=tiny"] if given.kind != "familiarity" else []),
                           f"training.seed={seed}", *given.overrides],
            )  # fmt: skip
            sources = Sources(str(folder / "train" / "good"), textures=given.textures)
            bundle = train(sources, location, kind=given.kind, settings=settings, workers=0)
            figures.append(evaluate(location, folder).figures["overall"])
            parts.append(parts_alone(bundle, folder))
            print(f"{name}, seed {seed}: {parts[-1]}", file=sys.stderr, flush=True)
        whole.append(f"| {name} | {' | '.join(with_interval(figures, metric) for metric in FIGURES)} |")
        alone.append(f"| {name} | {' | '.join(shown([part[key] for part in parts]) for key in PARTS)} |")
    for title, columns, rows in (("whole", FIGURES, whole), ("image AUROC", PARTS, alone)):
        print(f"| {title} | {' | '.join(column.replace('_', ' ') for column in columns)} |")
        print("|---" * (len(columns) + 1) + "|")
        print("\n".join(rows) + "\n")


if __name__ == "__main__":
    main()
