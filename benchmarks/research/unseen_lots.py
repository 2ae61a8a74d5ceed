"""What familiarity is worth on good parts of lots that it has not seen, by itself: other networks are not trained.

    python benchmarks/research/recipes.py prepare magtile .scratch/magtile-128.npz --side 128 --part first
    python benchmarks/research/unseen_lots.py .scratch/magtile-128.npz --lot 'num_(\\d+)'

Good images come in lots: the same part under six exposures, tiles of one session. Figures on images drawn at random
from the lots that were learnt from flatter, and few lots of test images say little. So the images to learn from are
sorted into five parts, whole lots together: those whose numbers, which `--lot` finds in their names, lie less than
`--gap` apart. Of each part familiarity is taught with nine tenths of the four others, and the defective test images are
compared with three kinds of good ones: the tenth that was held back, the part, and those of the test. Two thresholds
for a budget of 5 % are compared on one half of the part's lots: by the tenth that was held back, and by the other half.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diffad_ray.bundles.calibration import Calibration
from diffad_ray.detectors.familiarity_alone import FamiliarityAlone, FamiliarityAloneSettings
from diffad_ray.evaluation.metrics import auroc
from diffad_ray.familiarity.learning import FOLDS
from diffad_ray.familiarity.normality import residuals
from diffad_ray.inference.engine import default_device
from diffad_ray.tensors import NormalSquares, as_unit_tensor

BATCH, HELD_BACK, BUDGET = 64, 0.1, 0.05


def lots(names: np.ndarray, pattern: str, gap: int) -> np.ndarray:
    """The lot [N] of each image: a new one begins where the numbers in their names leap."""
    numbers = []
    for name in names.tolist():
        found = re.search(pattern, name)
        if found is None:
            raise SystemExit(f"--lot {pattern!r} finds no number in {name}")
        numbers.append(int(found[1]))
    order = np.argsort(numbers)
    lot = np.empty(len(names), int)
    lot[order] = np.cumsum(np.diff(np.array(numbers)[order], prepend=min(numbers)) > gap)
    return lot


def taught(normals: np.ndarray, textures: Tensor | None, steps: int, seed: int) -> FamiliarityAlone:
    """A detector that knows what is familiar, and nothing else."""
    device = default_device()
    detector = FamiliarityAlone(FamiliarityAloneSettings(image_size=normals.shape[1]))
    squares = NormalSquares(normals, np.arange(len(normals)), textures, steps, seed, device)
    detector.fit(squares, lambda doing: None)
    return detector


@torch.no_grad()
def peaks(detector: FamiliarityAlone, images: np.ndarray) -> np.ndarray:
    """[N,2]: the least familiar place's strangeness, and log distance from what examples left unexplained alone."""
    familiarity, found = detector.familiarity, []
    for start in range(0, len(images), BATCH):
        batch = as_unit_tensor(images[start : start + BATCH, ..., :3]).to(familiarity.gabor.device)
        opinions = familiarity.opinions(residuals(familiarity.normality, familiarity.describe(batch)))
        places = [familiarity.strangeness(opinions), opinions[:, 2]]
        found.append(torch.stack([values.flatten(1).amax(dim=1) for values in places], dim=1))
    return torch.cat(found).cpu().numpy()


def compare(good: np.ndarray, defective: np.ndarray) -> list[float]:
    """Image AUROC by strangeness and by that distance alone."""
    labels = np.arange(len(good) + len(defective)) >= len(good)
    found = (auroc(np.concatenate([good[:, k], defective[:, k]]), labels) for k in range(2))
    return [np.nan if value is None else value for value in found]


def alarms(calibrated_on: np.ndarray, good: np.ndarray, defective: np.ndarray) -> list[float]:
    """False-alarm rate and recall at the threshold that the strangeness of some images sets for the budget."""
    threshold = Calibration.from_scores(calibrated_on[:, 0], BUDGET).threshold
    return [float((images[:, 0] >= threshold).mean()) for images in (good, defective)]


def rows(data: dict[str, np.ndarray], pattern: str, gap: int, steps: int, seed: int) -> Iterator[str]:
    normals, textures = data["normals"], as_unit_tensor(data["textures"]) if "textures" in data else None
    defective, good = data["images"][data["kinds"] != "good"], data["images"][data["kinds"] == "good"]
    rng, lot = np.random.default_rng(seed), lots(data["names"], pattern, gap)
    if lot.max() + 1 < 2 * FOLDS:
        raise SystemExit(f"{lot.max() + 1} lots can't be sorted into {FOLDS} parts of two halves: take a smaller --gap")
    lot = rng.permutation(lot.max() + 1)[lot]
    part, half, is_held_back = lot % FOLDS, lot // FOLDS % 2, rng.random(len(normals)) < HELD_BACK
    found: dict[str, list[list[float]]] = {}
    for number in range(FOLDS):
        detector = taught(normals[(part != number) & ~is_held_back], textures, steps, seed)
        anomalous, of_test = peaks(detector, defective), peaks(detector, good)
        held_back = peaks(detector, normals[(part != number) & is_held_back])
        unseen = peaks(detector, normals[part == number])
        one, other = (unseen[half[part == number] == k] for k in range(2))
        for name, values in (("held back", held_back), ("of unseen lots", unseen), ("of the test", of_test)):
            found.setdefault(f"good images {name}: AUROC", []).append(compare(values, anomalous))
        for name, values in (("held back", held_back), ("of other unseen lots", one)):
            key = f"threshold by images {name}: false alarms in unseen lots, recall"
            found.setdefault(key, []).append(alarms(values, other, anomalous))
    yield f"seed {seed}: {len(normals)} good images of {lot.max() + 1} lots, {len(defective)} defective ones"
    for name, values in found.items():
        yield f"{name} {' '.join(f'{value:.3f}' for value in np.mean(values, axis=0))}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="what `recipes.py prepare` wrote")
    parser.add_argument("--lot", required=True, help="regular expression whose group is the number in a name")
    parser.add_argument("--gap", type=int, default=150, help="between the numbers of two lots")
    parser.add_argument("--steps", type=int, default=800, help="of the training that familiarity would follow")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--threads", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    data = dict(np.load(arguments.data))
    for seed in arguments.seeds:
        for line in rows(data, arguments.lot, arguments.gap, arguments.steps, seed):
            print(line, flush=True)


if __name__ == "__main__":
    main()
