"""How well the distances of familiarity tell defects by each source of features, without the judge and its training.

    pip install '.[features]'
    python benchmarks/research/features.py elpv_mono --sources gabor backbone both

The statistics are fitted to all images in `train/good`. An image is as anomalous as its farthest place: from its
Gaussian, from the nearest feature, and from the nearest residual. A row has the image AUROC of each distance with its
95 % interval by resampling of the images. It takes a minute or two of one core for a source.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from torch import Tensor

from diffad_ray.evaluation.bootstrap import interval, resampled
from diffad_ray.evaluation.metrics import auroc
from diffad_ray.familiarity.backbone import FeatureSettings, Source
from diffad_ray.familiarity.features import Described
from diffad_ray.familiarity.judge import squared_distance
from diffad_ray.familiarity.learning import MOST_TO_PROJECT
from diffad_ray.familiarity.model import Familiarity, smooth
from diffad_ray.familiarity.normality import normality, residuals
from diffad_ray.images import decode_image, network_input
from diffad_ray.labels.datasets import GOOD
from diffad_ray.labels.reading import read_dataset
from diffad_ray.tensors import as_unit_tensor

BATCH = 16
DISTANCES = ("Gaussian", "nearest feature", "nearest residual")


def batches(files: list[Path], side: int) -> Iterator[Tensor]:
    """Yield the images of files in batches [N,3,side,side] in [0,1]."""
    for start in range(0, len(files), BATCH):
        pixels = [network_input(decode_image(f.read_bytes()).pixels, side) for f in files[start : start + BATCH]]
        yield as_unit_tensor(np.stack(pixels))


def distances(normals: list[Path], tested: list[Path], side: int, features: FeatureSettings) -> np.ndarray:
    """Return the largest distances [N,3] of the tested images, in the order of `DISTANCES`."""
    generator, seeing = torch.Generator().manual_seed(0), Familiarity(side, features).eval()
    order = np.random.default_rng(0).permutation(len(normals))
    seeing.learn_features(batches([normals[k] for k in order[:MOST_TO_PROJECT]], side))
    seen = [seeing.describe(images) for images in batches(normals, side)]
    normal = normality(Described(*map(torch.cat, zip(*seen, strict=True))), len(normals), generator)
    found = []
    for images in batches(tested, side):
        far = smooth(squared_distance(residuals(normal, seeing.describe(images))))
        found.append(far.flatten(2).amax(dim=2).log())
    return torch.cat(found).numpy()


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", nargs="+", type=Path, help="folders of one product each, in MVTec layout")
    parser.add_argument("--sources", nargs="+", default=get_args(Source), choices=get_args(Source))
    parser.add_argument("--side", type=int, default=128)
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(f"| data set | features | {' | '.join(DISTANCES)} |\n|---|---|---|---|---|")
    for dataset in given.datasets:
        normals = sorted(path for path in (dataset / "train" / "good").iterdir() if path.is_file())
        images = read_dataset(dataset).images
        is_defective = np.array([image.kind != GOOD for image in images])
        for source in given.sources:
            tested = [Path(image.uri) for image in images]
            found = distances(normals, tested, given.side, FeatureSettings(source=source))
            cells = []
            for column in found.T:
                low, high = interval(resampled(column, is_defective, is_defective)["image_auroc"])
                cells.append(f"{auroc(column, is_defective):.3f} [{low:.3f}, {high:.3f}]")
            print(f"| {dataset.name} | {source} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
