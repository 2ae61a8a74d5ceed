"""The end of a training of DiffusionAD: what normal images look like, and what anomalies make of that.

Statistics of normal images leave something unexplained of every new one. What an anomaly adds to that must be learnt
from images that they have not seen, and that are not like those they have seen, either: images of one lot are taken in
a row and look alike, the next lot looks otherwise, and that is no defect. So images are sorted into groups that look
alike, these into five parts, and samples of each part are compared with the statistics of the four others. How strange
images usually are is measured in parts drawn at random, as the held-back images of the threshold are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from diffad_ray.diffusion.noise import seeded_generator
from diffad_ray.familiarity.features import GRID, Described, channels
from diffad_ray.familiarity.judge import ResidualSegmenter, untaught
from diffad_ray.familiarity.model import Familiarity
from diffad_ray.familiarity.normality import RESIDUALS, Normality, normality, residuals
from diffad_ray.networks.ema import Ema
from diffad_ray.synthesis.foreground import with_foregrounds
from diffad_ray.synthesis.pseudo_anomalies import AnomalySettings, pseudo_anomalies
from diffad_ray.tensors import NormalSquares, as_unit_tensor

MOST_SQUARES = 1500
FEWEST_TO_FIT = 10
"Of fewer normal images nothing is learnt."
FEWEST_TO_TEACH = 20
"Of fewer, what judges would know each by heart, and find all others strange: distances alone count."
FOLDS, IMAGES_A_GROUP, ROUNDS = 5, 10, 20
"Parts of the images, images in a group that look alike, and rounds of k-means that find these."
MOST_STEPS, BATCH, LOOKS = 800, 16, 6
"Steps of the network that judges, squares a step, and how often it sees each sample."
LEARNING_RATE, WARMUP, EMA_DECAY = 2e-3, 50, 0.99
ANOMALOUS, NORMAL = 0.2, 0.02
"Share of a place that an anomaly covers, from which the place is anomalous, and to which it is normal."
MOST_LEFT = 6e4
"Unexplained in a sample: where most good images are blank, a picture of anything leaves more than float16 holds."
REPORT_EVERY = 100
Tell = Callable[[str], None]
"Is told now and then what is done, and how far that is."
Squares = Callable[[np.ndarray], Tensor]
"Squares of these numbers: [N,C,S,S] in [0,1]; a fourth channel, if any, is the foreground."


def learn_familiarity(
    familiarity: Familiarity,
    normals: NormalSquares,
    evidence: Callable[[Tensor], Tensor],
    anomalies: AnomalySettings,
    tell: Tell = lambda doing: None,
) -> None:
    """Learn what is familiar; of a handful of images nothing is learnt.

    Args:
        normals: the network that judges takes twice the steps of their training, at most `MOST_STEPS`.
        evidence: gives the log odds [N] of an anomaly that the detector itself finds in squares [N,3,S,S] in [0,1].
        anomalies: how the judge's pseudo-anomalies are made.
    """
    steps, seed, device = min(MOST_STEPS, 2 * normals.steps), normals.seed, normals.device
    chosen = np.random.default_rng(seed).permutation(len(normals.pixels))[:MOST_SQUARES]
    sources = normals.sources[chosen]
    images = len(np.unique(sources))
    if images < FEWEST_TO_FIT:
        return

    def squares(numbers: np.ndarray) -> Tensor:
        return as_unit_tensor(normals.pixels[chosen[numbers]]).to(device)

    generator = seeded_generator(device, seed, steps)
    familiarity.judge.load_state_dict(untaught(RESIDUALS, channels(familiarity.image_size), seed).state_dict())
    with torch.no_grad():
        seen, found = _looked_at(familiarity, squares, len(chosen), evidence, tell)
        if not all(values.isfinite().all() for values in (*seen, found)):
            return
    if images >= FEWEST_TO_TEACH:
        with torch.no_grad():
            fold = folds(seen.miniature, torch.from_numpy(sources).to(device), generator)
            others, wanted = _of_others(seen, sources, fold, generator), -(-steps * BATCH // LOOKS)
            lent = (normals.textures, anomalies)
            samples, masks = _samples(familiarity, squares, lent, fold, others, wanted, generator, tell)
        teach(familiarity.judge, samples, masks, steps, generator, tell)
    with torch.no_grad():
        fold = _any_folds(sources, seed).to(device)
        opinions = torch.empty((len(chosen), RESIDUALS, GRID, GRID), device=device)
        for part, normal in enumerate(_of_others(seen, sources, fold, generator)):
            for rows in (fold == part).nonzero().squeeze(1).split(BATCH):
                opinions[rows] = familiarity.opinions(residuals(normal, seen.those(rows)))
        familiarity.learn(normality(seen, images, generator), opinions, found)


def squares_of(normals: NormalSquares, most: int, batch: int) -> Iterator[Tensor]:
    """Batches [B,C,S,S] in [0,1] of at most so many of the squares, drawn at random, on their device."""
    chosen = np.random.default_rng(normals.seed).permutation(len(normals.pixels))[:most]
    for start in range(0, len(chosen), batch):
        yield as_unit_tensor(normals.pixels[chosen[start : start + batch]]).to(normals.device)


def folds(miniatures: Tensor, sources: Tensor, generator: torch.Generator) -> Tensor:
    """Sorts squares into `FOLDS` parts of about one size: [N], those of images that look alike into the same one.

    Args:
        miniatures: [N,D] of the squares.
        sources: [N], which image each of them is of.
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
    # A group that is larger than a part is cut, or some parts might have no image.
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
) -> None:
    """Train the network that judges; its averaged weights count.

    Args:
        samples: [M,R,C,G,G], what normal images do not explain of M samples.
        masks: [M,G,G], the share of each place that an anomaly covers.
    """
    judge.train().requires_grad_(True)
    averaged = Ema(judge, EMA_DECAY, {})
    optimizer = torch.optim.AdamW(judge.parameters(), LEARNING_RATE, weight_decay=1e-3)
    anomalous, counts = (masks > ANOMALOUS).float(), ((masks > ANOMALOUS) | (masks < NORMAL)).float()
    total = torch.zeros((), device=samples.device)
    for step in range(steps):
        rows = torch.randint(len(samples), (BATCH,), generator=generator, device=samples.device)
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * min(1.0, (step + 1) / WARMUP)
        losses = F.binary_cross_entropy_with_logits(judge(samples[rows].float()), anomalous[rows], reduction="none")
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


def _looked_at(
    familiarity: Familiarity, squares: Squares, count: int, evidence: Callable[[Tensor], Tensor], tell: Tell
) -> tuple[Described, Tensor]:
    """What is looked at of so many squares, and the log odds [N] of an anomaly that the detector itself gives them."""
    seen, found = [], []
    for numbers in np.array_split(np.arange(count), -(-count // BATCH)):
        images = squares(numbers)[:, :3]
        seen.append(familiarity.describe(images))
        found.append(evidence(images))
        tell(f"familiarity: {numbers[-1] + 1} of {count} good images looked at")
    return Described(*map(torch.cat, zip(*seen, strict=True))), torch.cat(found).double()


def _any_folds(sources: np.ndarray, seed: int) -> Tensor:
    """Squares of random images sorted into `FOLDS` parts: [N]."""
    images, place = np.unique(sources, return_inverse=True)
    return torch.from_numpy(np.random.default_rng(seed).permutation(len(images))[place] % FOLDS)


def _of_others(seen: Described, sources: np.ndarray, fold: Tensor, generator: torch.Generator) -> list[Normality]:
    """For each part the statistics of all others."""
    others = [fold != part for part in range(FOLDS)]
    return [normality(seen.those(rows), len(np.unique(sources[rows.cpu().numpy()])), generator) for rows in others]


def _samples(
    familiarity: Familiarity,
    squares: Squares,
    lent: tuple[Tensor | None, AnomalySettings],
    fold: Tensor,
    others: list[Normality],
    count: int,
    generator: torch.Generator,
    tell: Tell,
) -> tuple[Tensor, Tensor]:
    """About `count` samples, some with pseudo-anomalies: what other images do not explain of them, and their masks."""
    most, device = count + BATCH, generator.device
    # In one piece, since it is large: a list of pieces would be there twice as they are put together.
    found = torch.empty(
        (most, RESIDUALS, channels(familiarity.image_size), GRID, GRID), dtype=torch.float16, device=device
    )
    masks, made = torch.empty((most, GRID, GRID), device=device), 0
    textures, anomalies = lent
    for numbers in _passes(fold.cpu().numpy(), generator.initial_seed()):
        images, foregrounds = with_foregrounds(squares(numbers))
        samples = pseudo_anomalies(images, textures, generator, anomalies, foregrounds=foregrounds)
        seen = familiarity.describe(samples.images)
        rows = slice(made, made + len(numbers))
        found[rows] = residuals(others[int(fold[numbers[0]])], seen).clamp(-MOST_LEFT, MOST_LEFT)
        masks[rows] = F.adaptive_avg_pool2d(samples.masks, GRID).squeeze(1)
        made += len(numbers)
        tell(f"familiarity: {min(made, count)} of {count} samples made")
        if made >= count:
            break
    return found[:made], masks[:made]


def _passes(fold: np.ndarray, seed: int) -> Iterator[np.ndarray]:
    """Batches of squares' numbers without end, each of one part, in passes over all of them."""
    rng = np.random.default_rng([seed, len(fold)])
    while True:
        batches = []
        for part in np.unique(fold):
            rows = rng.permutation(np.flatnonzero(fold == part))
            batches += [rows[start : start + BATCH] for start in range(0, len(rows), BATCH)]
        yield from (batches[k] for k in rng.permutation(len(batches)))


def _k_means(points: Tensor, groups: int, generator: torch.Generator) -> Tensor:
    """The group [N] of each point [N,D] after some rounds of Lloyd's algorithm; a group may stay empty."""
    centres = points[torch.randperm(len(points), generator=generator, device=points.device)[:groups]]
    nearest = torch.cdist(points, centres).argmin(dim=1)
    for _ in range(ROUNDS):
        sums = torch.zeros_like(centres).index_add_(0, nearest, points)
        sizes = nearest.bincount(minlength=groups)[:, None]
        centres = torch.where(sizes > 0, sums / sizes.clamp(min=1), centres)
        nearest = torch.cdist(points, centres).argmin(dim=1)
    return nearest
