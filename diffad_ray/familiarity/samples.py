"""Samples that the judge learns from: residuals of normal squares, about half of them with a pseudo-anomaly.

Most of the time goes into the search for the nearest examples of each cell. So a square without a pseudo-anomaly is
searched once: its residuals are the same each time that it is drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from diffad_ray.familiarity.features import GRID, Described
from diffad_ray.familiarity.judge import compressed
from diffad_ray.familiarity.model import Familiarity
from diffad_ray.familiarity.normality import RESIDUALS, Normality, residuals
from diffad_ray.synthesis.foreground import with_foregrounds
from diffad_ray.synthesis.pseudo_anomalies import AnomalySettings, pseudo_anomalies

BATCH = 16
"Squares that are looked at together."
Tell = Callable[[str], None]
"Receives progress messages."
Squares = Callable[[np.ndarray], Tensor]
"Maps indices [N] to squares [N,C,S,S] in [0,1]; channel 3, if any, is the foreground."


class Known(NamedTuple):
    """What is known of the normal squares that samples are made from."""

    seen: Described
    "features of the squares as they are"
    fold: Tensor
    "[N] fold of each square"
    others: list[Normality]
    "for each fold, the statistics of all other folds"


def judge_samples(
    familiarity: Familiarity,
    squares: Squares,
    lent: tuple[Tensor | None, AnomalySettings],
    known: Known,
    count: int,
    generator: torch.Generator,
    dtype: torch.dtype,
    tell: Tell,
) -> tuple[Tensor, Tensor]:
    """Make at least `count` samples, some with pseudo-anomalies.

    Returns their `compressed` out-of-fold residuals [M,R x (C+1),G,G] of `dtype` in channels-last format, and the share
    [M,G,G] of each cell that an anomaly covers.

    Args:
        lent: textures for pseudo-anomalies, or None, and how they are made.
    """
    most, device, made = count + BATCH, generator.device, 0
    # One preallocated tensor: joining a list of batches would need the memory twice.
    found = torch.empty((most, GRID, GRID, RESIDUALS * (familiarity.channels + 1)), dtype=dtype, device=device)
    masks, (textures, anomalies) = torch.empty((most, GRID, GRID), device=device), lent
    row_of: dict[int, int] = {}
    for numbers in _passes(known.fold.cpu().numpy(), generator.initial_seed()):
        images, foregrounds = with_foregrounds(squares(numbers))
        samples = pseudo_anomalies(images, textures, generator, anomalies, foregrounds=foregrounds)
        is_changed = (samples.images != images).flatten(1).any(dim=1).cpu().numpy()
        masks[made : made + len(numbers)] = F.adaptive_avg_pool2d(samples.masks, GRID).squeeze(1)
        is_new = is_changed | np.array([number not in row_of for number in numbers])
        new = np.flatnonzero(is_new)
        if len(new):
            seen = _seen(familiarity, samples.images, known.seen, numbers, is_changed, new)
            left = residuals(known.others[int(known.fold[numbers[0]])], seen)
            found[torch.from_numpy(made + new).to(device)] = compressed(left).permute(0, 2, 3, 1).to(dtype)
        # The first row of a square that is not changed is its own.
        same = np.flatnonzero(~is_changed)
        first = [row_of.setdefault(int(numbers[place]), made + int(place)) for place in same]
        found[torch.from_numpy(made + same).to(device)] = found[torch.tensor(first, dtype=torch.long, device=device)]
        made += len(numbers)
        tell(f"familiarity: {min(made, count)} of {count} samples made")
        if made >= count:
            break
    return found[:made].permute(0, 3, 1, 2), masks[:made]


def _seen(
    familiarity: Familiarity,
    images: Tensor,
    known: Described,
    numbers: np.ndarray,
    is_changed: np.ndarray,
    new: np.ndarray,
) -> Described:
    """Return the features of the images with indices `new`, which are known of images that are not changed."""
    device = images.device
    seen = known.those(torch.from_numpy(numbers[new]).to(device))
    if len(changed := np.flatnonzero(is_changed)):
        described = familiarity.describe(images[torch.from_numpy(changed).to(device)])
        rows = torch.from_numpy(np.flatnonzero(is_changed[new])).to(device)
        for values, own in zip(seen, described, strict=True):
            values[rows] = own
    return seen


def _passes(fold: np.ndarray, seed: int) -> Iterator[np.ndarray]:
    """Yield batches of indices of squares without end; each batch is of one fold, each epoch covers all squares."""
    rng = np.random.default_rng([seed, len(fold)])
    while True:
        batches = []
        for part in np.unique(fold):
            rows = rng.permutation(np.flatnonzero(fold == part))
            batches += [rows[start : start + BATCH] for start in range(0, len(rows), BATCH)]
        yield from (batches[k] for k in rng.permutation(len(batches)))
