"""Coresets of patch features of normal images, and the distance to the nearest one (PatchCore, Roth et al. 2022).

A Gaussian per grid cell describes unaligned parts and tiles poorly, because it is tied to a position. A coreset holds
features from all positions. There are two coresets: one of the features themselves, one of the Gaussians' whitened
residuals.

Letters in shapes: N images, C feature channels, G cells a side, M coreset size.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from diffad_ray.familiarity.features import Described
from diffad_ray.familiarity.gaussians import LEAST_CHANNEL_SPREAD, PatchGaussian, inverse_root, unexplained

MOST_PLACES, CANDIDATES = 4096, 61_440
"Largest coreset size M, and the number of randomly drawn cells from which the coreset is sampled."
ROUNDS = 8
"Rounds of k-means|| sampling."
COMMON_SHRINKAGE = 0.1
"Covariance shrinkage: this times the identity is added to the correlation matrix before whitening."
IMAGES_AT_ONCE = 32
DISTANCES_AT_ONCE, ON_A_CPU = 1 << 26, 1 << 18
"Pairwise distances in one matrix product, on a GPU and on a CPU, whose second-level cache holds a quarter million."
GROUP = 128
"Adjacent coreset entries of which the search for the nearest one first takes the maximum."


class KnownPlaces(NamedTuple):
    """Coresets of the whitened features and of the Gaussians' whitened residuals of normal images."""

    common_mean: Tensor
    "[C] mean feature over all images and cells"
    common_whitening: Tensor
    "[C,C] whitening matrix over all images and cells; features less `common_mean`, times it, have variance <= 1"
    shown: Tensor
    "[M,C] float16: coreset of the features, whitened by `common_whitening`"
    left: Tensor
    "[M,C] float16: coreset of the residuals that `unexplained` returns"


def known_places(seen: Described, gaussian: PatchGaussian, generator: torch.Generator) -> KnownPlaces:
    """Return both coresets of normal images; `gaussian` is fitted to the same images."""
    mean, cells = seen.responses.mean(dim=(0, 2, 3)), seen.responses[0, 0].numel()
    covariance = torch.zeros((len(mean), len(mean)), device=mean.device)
    each = -(-CANDIDATES // len(seen.responses))
    shown: list[Tensor] = []
    left: list[Tensor] = []
    for rows in torch.arange(len(seen.responses), device=mean.device).split(IMAGES_AT_ONCE):
        images = seen.those(rows)
        places = _rows(images.responses) - mean
        covariance += places.T @ places
        chosen = torch.rand((len(rows), cells), generator=generator, device=mean.device).argsort(dim=1)[:, :each]
        chosen = (chosen + cells * (rows - rows[0])[:, None]).flatten()
        shown.append(places.index_select(0, chosen))
        left.append(_rows(unexplained(gaussian, images)).index_select(0, chosen))
    covariance /= len(seen.responses) * cells
    spread = covariance.diagonal().sqrt().clamp(min=LEAST_CHANNEL_SPREAD)
    covariance /= spread[:, None] * spread
    whitening = inverse_root(covariance + COMMON_SHRINKAGE * torch.eye(len(mean), device=mean.device)) / spread
    kept = far_apart(torch.cat(shown) @ whitening.T, generator), far_apart(torch.cat(left), generator)
    return KnownPlaces(mean, whitening, *(places.half() for places in kept))


def far_apart(places: Tensor, generator: torch.Generator) -> Tensor:
    """Return a coreset [M,C] of the features [L,C], M <= `MOST_PLACES`.

    The coreset is sampled in rounds, each feature with a probability proportional to its squared distance from those
    already sampled (k-means||, Bahmani et al. 2012). Uniform sampling would miss a small part in a large picture.
    """
    if len(places) <= MOST_PLACES:
        return places
    each = MOST_PLACES // ROUNDS
    chosen = [torch.randperm(len(places), generator=generator, device=places.device)[:each]]
    distance = torch.full((len(places),), torch.inf, device=places.device)
    squares, with_one = places.square().sum(dim=1), _with_one(places)
    for _ in range(ROUNDS - 1):
        closest = [part.amax(dim=1) for part in _closenesses(with_one, places[chosen[-1]])]
        distance = distance.minimum((squares - 2 * torch.cat(closest)).clamp(min=0))
        # 1e-6 keeps the probabilities positive where all features are equal.
        chance = distance / distance.mean().clamp(min=1e-12) + 1e-6
        chosen.append(torch.multinomial(chance, each, generator=generator))
    return places[torch.cat(chosen)]


def whitened(known: KnownPlaces, seen: Described) -> Tensor:
    """Return the features [N,C,G,G] of all cells, whitened as those of `shown` are."""
    return torch.einsum("dc,ncyx->ndyx", known.common_whitening, seen.responses - known.common_mean[:, None, None])


def unlike_known(known: KnownPlaces, seen: Described, left: Tensor) -> tuple[Tensor, Tensor]:
    """Return each cell's difference from its nearest coreset entry: of features, and of residuals.

    Args:
        left: [N,C,G,G] whitened residuals from the Gaussians; both results have this shape.
    """
    found = []
    for places, those in ((whitened(known, seen), known.shown), (left, known.left)):
        difference = _from_nearest(_rows(places), those.float()).view(len(places), -1, places.shape[1])
        found.append(difference.permute(0, 2, 1).reshape(places.shape))
    return found[0], found[1]


def nearest(places: Tensor, known: Tensor) -> Tensor:
    """Return the index [L] of the nearest neighbour in `known` [M,C] of each feature of `places` [L,C].

    The search is exhaustive. Bounds would not shorten it: a whitened feature lies about as far from its nearest
    neighbour as clusters of `known` are wide, so hardly any cluster can be ruled out.

    Example:
        >>> nearest(torch.tensor([[0.9, 0.0], [0.0, 0.4]]), torch.tensor([[0.0, 0.0], [1.0, 0.0]])).tolist()
        [1, 0]
    """
    # Repeats of the last entry fill the last group.
    filled, found = torch.cat([known, known[-1:].expand(-len(known) % GROUP, -1)]), []
    for closeness in _closenesses(_with_one(places), filled):
        groups = closeness.view(len(closeness), -1, GROUP)
        # `amax` uses vector instructions; a search for the index does not, and `max` is faster at it than `argmax`.
        group = groups.amax(dim=2).max(dim=1).indices
        row = torch.arange(len(closeness), device=places.device) * groups.shape[1]
        members = groups.flatten(0, 1).index_select(0, row + group)
        found.append(group * GROUP + members.max(dim=1).indices)
    return torch.cat(found).clamp(max=len(known) - 1)


def _rows(places: Tensor) -> Tensor:
    """Return feature maps [N,C,G,G] as the features [N x G x G,C] of all cells."""
    return places.flatten(2).permute(0, 2, 1).flatten(0, 1)


def _with_one(places: Tensor) -> Tensor:
    """Return features [L,C] with a channel of ones [L,C+1], as `_closenesses` takes them."""
    return torch.cat([places, torch.ones_like(places[:, :1])], dim=1)


def _closenesses(places_and_one: Tensor, known: Tensor) -> Iterator[Tensor]:
    """Yield p.k - |k|^2 / 2 [l,M], for a part of the features [L,C+1] at a time; |p - k|^2 is smallest where it is
    largest.

    Args:
        known: [M,C], compared with each feature in one matrix product, to which the added channel lends |k|^2.
    """
    known_and_half = torch.cat([known, -known.square().sum(dim=1, keepdim=True) / 2], dim=1).T.contiguous()
    # A graph would hold every part of the loop.
    is_cut = places_and_one.device.type == "cpu" and not torch.compiler.is_compiling()
    at_once = max(1, (ON_A_CPU if is_cut else DISTANCES_AT_ONCE) // len(known))
    # Two results that alternate would not stay in the cache.
    kept = known.new_empty((at_once, len(known))) if is_cut else None
    for part in places_and_one.split(at_once):
        yield part @ known_and_half if kept is None else torch.mm(part, known_and_half, out=kept[: len(part)])


def _from_nearest(places: Tensor, known: Tensor) -> Tensor:
    """Return each feature of `places` [L,C] less its nearest neighbour in `known` [M,C]."""
    return places - known[nearest(places, known)]
