"""Training of familiarity: statistics of normal images, and the judge, which learns pseudo-anomalies in residuals.

The judge must learn from residuals of images that the statistics have not been fitted to. Images of one lot look alike,
and the next lot looks different without a defect. So the images are clustered by appearance, the clusters are divided
into five folds, and samples of each fold get residuals from the statistics of the other four (cross-fitting). The usual
strangeness of a normal image is measured with random folds, because the calibration split is random, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from diffad_ray.diffusion.noise import seeded_generator
from diffad_ray.familiarity.features import GRID, Described
from diffad_ray.familiarity.judge import ResidualSegmenter, untaught
from diffad_ray.familiarity.model import Familiarity
from diffad_ray.familiarity.normality import RESIDUALS, Normality, normality, residuals
from diffad_ray.familiarity.samples import BATCH, Known, Squares, Tell, judge_samples
from diffad_ray.networks.ema import Ema
from diffad_ray.synthesis.pseudo_anomalies import AnomalySettings
from diffad_ray.tensors import NormalSquares, as_unit_tensor

MOST_SQUARES = 1500
FEWEST_TO_FIT = 10
"With fewer normal images nothing is fitted."
FEWEST_TO_TEACH = 20
"With fewer images the judge would memorise them; only distances are fitted."
FOLDS, IMAGES_A_GROUP, ROUNDS = 5, 10, 20
"Number of folds, mean number of images in a k-means cluster, and rounds of k-means."
MOST_STEPS, LOOKS = 800, 6
"The judge's training: most steps, epochs."
LEARNING_RATE, WARMUP, EMA_DECAY = 2e-3, 50, 0.99
ANOMALOUS, NORMAL = 0.2, 0.02
"Shares of a cell that an anomaly covers: above the first the cell is anomalous, below the second normal, else ignored."
MOST_TO_PROJECT = 256
"Squares to which the projection of a network's features is fitted."
MOST_BACKGROUNDS = 400
"Normal samples that tell which backgrounds are usual."
REPORT_EVERY = 100


class CrossFitted(NamedTuple):
    """What familiarity thinks of normal squares, each by statistics of other images."""

    numbers: np.ndarray
    "[K] indices of the squares"
    opinions: Tensor
    "[K,R,G,G], see `Familiarity.opinions`"


def learn_familiarity(
    familiarity: Familiarity,
    normals: NormalSquares,
    evidence: Callable[[Tensor], Tensor],
    anomalies: AnomalySettings,
    tell: Tell = lambda doing: None,
) -> CrossFitted | None:
    """Fit the statistics and train the judge; leave `familiarity` unfitted with fewer than `FEWEST_TO_FIT` images.

    Returns the opinions of the squares that were learnt from, or None if `familiarity` is left unfitted. The judge has
    seen these squares, as normal ones.

    Args:
        normals: normal squares; the judge trains for twice `normals.steps`, at most `MOST_STEPS`.
        evidence: maps squares [N,3,S,S] in [0,1] to the detector's own log odds [N] of an anomaly.
        anomalies: how the judge's pseudo-anomalies are made.
    """
    steps, seed, device = min(MOST_STEPS, 2 * normals.steps), normals.seed, normals.device
    chosen = np.random.default_rng(seed).permutation(len(normals.pixels))[:MOST_SQUARES]
    sources = normals.sources[chosen]
    images = len(np.unique(sources))
    if images < FEWEST_TO_FIT:
        return None

    def squares(numbers: np.ndarray) -> Tensor:
        return as_unit_tensor(normals.pixels[chosen[numbers]]).to(device)

    generator = seeded_generator(device, seed, steps)
    familiarity.judge.load_state_dict(untaught(RESIDUALS, familiarity.channels, seed).state_dict())
    few = np.array_split(np.arange(min(len(chosen), MOST_TO_PROJECT)), -(-MOST_TO_PROJECT // BATCH))
    familiarity.learn_features(squares(numbers)[:, :3] for numbers in few if len(numbers))
    with torch.no_grad():
        seen, found = _looked_at(familiarity, squares, len(chosen), evidence, tell)
        if not all(values.isfinite().all() for values in (*seen, found)):
            return None
    if images >= FEWEST_TO_TEACH:
        with torch.no_grad():
            fold = folds(seen.miniature, torch.from_numpy(sources).to(device), generator)
            others, wanted = _of_others(seen, sources, fold, generator), -(-steps * BATCH // LOOKS)
            lent = (normals.textures, anomalies)
            dtype = torch.bfloat16 if normals.bfloat16 else torch.float16
            known = Known(seen, fold, others)
            samples, masks = judge_samples(familiarity, squares, lent, known, wanted, generator, dtype, tell)
        teach(familiarity.judge, samples, masks, steps, generator, tell, normals.bfloat16)
        normal_rows = (masks.flatten(1).amax(dim=1) == 0).nonzero().squeeze(1)[:MOST_BACKGROUNDS]
        if len(normal_rows):
            familiarity.learn_background(samples[normal_rows])
    with torch.no_grad():
        fold = _any_folds(sources, seed).to(device)
        opinions = torch.empty((len(chosen), RESIDUALS, GRID, GRID), device=device)
        for part, normal in enumerate(_of_others(seen, sources, fold, generator)):
            for rows in (fold == part).nonzero().squeeze(1).split(BATCH):
                opinions[rows] = familiarity.opinions(residuals(normal, seen.those(rows)))
        familiarity.learn(normality(seen, images, generator), opinions, found)
    return CrossFitted(chosen, opinions)


def squares_of(normals: NormalSquares, most: int, batch: int) -> Iterator[Tensor]:
    """Yield batches [B,C,S,S] in [0,1] of at most `most` squares, drawn at random, on `normals.device`."""
    chosen = np.random.default_rng(normals.seed).permutation(len(normals.pixels))[:most]
    for start in range(0, len(chosen), batch):
        yield as_unit_tensor(normals.pixels[chosen[start : start + batch]]).to(normals.device)


def folds(miniatures: Tensor, sources: Tensor, generator: torch.Generator) -> Tensor:
    """Return the fold [N] of each square; folds are of about equal size, and similar images share one.

    Args:
        miniatures: [N,D] miniatures of the squares.
        sources: [N] index of the image that each square is cut from.
    """
    _, place = sources.unique(return_inverse=True)
    count = int(place.max()) + 1
    looks = torch.zeros((count, miniatures.shape[1]), device=miniatures.device).index_add_(0, place, miniatures)
    looks /= looks.norm(dim=1, keepdim=True).clamp(min=1e-6)
    group = _k_means(looks, min(count, max(2 * FOLDS, count // IMAGES_A_GROUP)), generator).tolist()
    members: dict[int, list[int]] = {}
    for image, number in enumerate(group):
        members.setdefault(number, []).append(image)
    parts: list[list[int]] = [[] for _ in range(FOLDS)]
    # A cluster larger than a fold is split, or some folds might be empty.
    most = count // FOLDS
    pieces = [images[start : start + most] for images in members.values() for start in range(0, len(images), most)]
    for images in sorted(pieces, key=len, reverse=True):
        min(parts, key=len).extend(images)
    fold = torch.empty(count, dtype=torch.long)
    for number, images in enumerate(parts):
        fold[images] = number
    return fold.to(place.device)[place]


def teach(
    judge: ResidualSegmenter,
    samples: Tensor,
    masks: Tensor,
    steps: int,
    generator: torch.Generator,
    tell: Tell = lambda doing: None,
    bfloat16: bool = False,
) -> None:
    """Train the judge, and leave it with its exponentially averaged weights.

    Args:
        samples: [M,R x (C+1),G,G] `compressed` residuals of M samples, which in channels-last format are read faster.
        masks: [M,G,G] share of each cell that an anomaly covers.
        bfloat16: compute its convolutions in bfloat16.
    """
    # Its convolutions are faster in this format in either precision.
    judge.train().requires_grad_(True)
    judge.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    averaged = Ema(judge, EMA_DECAY, {})
    optimizer = torch.optim.AdamW(judge.parameters(), LEARNING_RATE, weight_decay=1e-3, fused=True)
    anomalous, counts = (masks > ANOMALOUS).float(), ((masks > ANOMALOUS) | (masks < NORMAL)).float()
    total = torch.zeros((), device=samples.device)
    for step in range(steps):
        rows = torch.randint(len(samples), (BATCH,), generator=generator, device=samples.device)
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * min(1.0, (step + 1) / WARMUP)
        with torch.autocast(samples.device.type, torch.bfloat16, enabled=bfloat16):
            judged = judge.judged(samples[rows] if bfloat16 else samples[rows].float())
        losses = F.binary_cross_entropy_with_logits(judged.float(), anomalous[rows], reduction="none")
        loss = (losses * counts[rows]).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        averaged.update(judge, step)
        total += loss.detach()
        if (step + 1) % REPORT_EVERY == 0:
            tell(f"familiarity: step {step + 1} of {steps}, loss {total.item() / REPORT_EVERY:.4f}")
            total.zero_()
    judge.load_state_dict(averaged.model.state_dict())
    judge.eval().requires_grad_(False)
    judge.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]


def _looked_at(
    familiarity: Familiarity, squares: Squares, count: int, evidence: Callable[[Tensor], Tensor], tell: Tell
) -> tuple[Described, Tensor]:
    """Return the features of the first `count` squares and the detector's own log odds [N] of an anomaly."""
    seen, found = [], []
    for numbers in np.array_split(np.arange(count), -(-count // BATCH)):
        images = squares(numbers)[:, :3]
        seen.append(familiarity.describe(images))
        found.append(evidence(images))
        tell(f"familiarity: {numbers[-1] + 1} of {count} good images looked at")
    return Described(*map(torch.cat, zip(*seen, strict=True))), torch.cat(found).double()


def _any_folds(sources: np.ndarray, seed: int) -> Tensor:
    """Return a random fold [N] for each square; squares of one image share their fold."""
    images, place = np.unique(sources, return_inverse=True)
    return torch.from_numpy(np.random.default_rng(seed).permutation(len(images))[place] % FOLDS)


def _of_others(seen: Described, sources: np.ndarray, fold: Tensor, generator: torch.Generator) -> list[Normality]:
    """Return, for each fold, the statistics of all other folds."""
    others = [fold != part for part in range(FOLDS)]
    return [normality(seen.those(rows), len(np.unique(sources[rows.cpu().numpy()])), generator) for rows in others]


def _k_means(points: Tensor, groups: int, generator: torch.Generator) -> Tensor:
    """Return the cluster [N] of each point [N,D] after `ROUNDS` of Lloyd's algorithm; a cluster may be empty."""
    centres = points[torch.randperm(len(points), generator=generator, device=points.device)[:groups]]
    nearest = torch.cdist(points, centres).argmin(dim=1)
    for _ in range(ROUNDS):
        sums = torch.zeros_like(centres).index_add_(0, nearest, points)
        sizes = nearest.bincount(minlength=groups)[:, None]
        centres = torch.where(sizes > 0, sums / sizes.clamp(min=1), centres)
        nearest = torch.cdist(points, centres).argmin(dim=1)
    return nearest
