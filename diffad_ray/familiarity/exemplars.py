"""Places of normal images by example (PatchCore, Roth et al. 2022): what is like one of them is not strange.

A Gaussian for each place says little of parts that lie in any direction and position, nor of tiles. Examples do not ask
where in the image they are from. What an image shows at a place is compared with what normal images show anywhere, and
what the Gaussian leaves unexplained of it with what it leaves of them.

Letters in shapes: N images, C responses and colours, G places a side, M places kept.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from diffad_ray.familiarity.features import Described
from diffad_ray.familiarity.gaussians import LEAST_CHANNEL_SPREAD, PatchGaussian, inverse_root, unexplained

MOST_PLACES, CANDIDATES = 4096, 61_440
"How many places are kept, and from how many that are drawn at random they are chosen."
ROUNDS = 8
"In which they are chosen."
COMMON_SHRINKAGE = 0.1
"Variance that a direction of channels has at least, as a share of a channel's: what hardly varies is noise."
IMAGES_AT_ONCE = 16
DISTANCES_AT_ONCE, ON_A_CPU = 1 << 26, 1 << 19
"Half a million of them stay in a processor's cache."


class KnownPlaces(NamedTuple):
    """Places of normal images, as the image shows them and as a Gaussian leaves them unexplained."""

    common_mean: Tensor
    "[C], over all places"
    common_whitening: Tensor
    "[C,C]: what lies off that mean, times this, gives uncorrelated numbers of variance 1 at most, over all places"
    shown: Tensor
    "[M,C] float16, whitened so"
    left: Tensor
    "[M,C] float16: what the Gaussian leaves unexplained"


def known_places(seen: Described, gaussian: PatchGaussian, generator: torch.Generator) -> KnownPlaces:
    """Places of normal images that lie far apart, and the Gaussian of these images."""
    mean = seen.responses.mean(dim=(0, 2, 3))
    spread = (seen.responses - mean[:, None, None]).square().mean(dim=(0, 2, 3)).sqrt().clamp(min=LEAST_CHANNEL_SPREAD)
    covariance = torch.zeros((len(mean), len(mean)), device=mean.device)
    each = -(-CANDIDATES // len(seen.responses))
    shown: list[Tensor] = []
    left: list[Tensor] = []
    for rows in torch.arange(len(seen.responses), device=mean.device).split(IMAGES_AT_ONCE):
        images = seen.those(rows)
        places = (images.responses - mean[:, None, None]).flatten(2)
        covariance += torch.einsum("ncp,ndp->cd", places, places)
        chosen = torch.rand((len(rows), places.shape[2]), generator=generator, device=mean.device).argsort(dim=1)
        chosen = chosen[:, None, :each].expand(-1, len(mean), -1)
        for found, values in ((shown, places), (left, unexplained(gaussian, images).flatten(2))):
            found.append(values.gather(2, chosen).permute(0, 2, 1).flatten(0, 1))
    covariance /= seen.responses[:, 0].numel() * spread[:, None] * spread
    whitening = inverse_root(covariance + COMMON_SHRINKAGE * torch.eye(len(mean), device=mean.device)) / spread
    kept = far_apart(torch.cat(shown) @ whitening.T, generator), far_apart(torch.cat(left), generator)
    return KnownPlaces(mean, whitening, *(places.half() for places in kept))


def far_apart(places: Tensor, generator: torch.Generator) -> Tensor:
    """At most `MOST_PLACES` of the places [L,C], rare ones rather than those that are like many: [M,C].

    In rounds, each place with a chance in proportion to its squared distance from those that were chosen before
    (k-means||, Bahmani et al. 2012). With places drawn at random a small part in a large picture would have few.
    """
    if len(places) <= MOST_PLACES:
        return places
    each = MOST_PLACES // ROUNDS
    chosen = [torch.randperm(len(places), generator=generator, device=places.device)[:each]]
    distance = torch.full((len(places),), torch.inf, device=places.device)
    for _ in range(ROUNDS - 1):
        distance = distance.minimum(_from_nearest(places, places[chosen[-1]]).square().sum(dim=1))
        # Where places are all alike any is as good as another.
        chance = distance / distance.mean().clamp(min=1e-12) + 1e-6
        chosen.append(torch.multinomial(chance, each, generator=generator))
    return places[torch.cat(chosen)]


def unlike_known(known: KnownPlaces, seen: Described, left: Tensor) -> tuple[Tensor, Tensor]:
    """What is left of each place when the most similar known one is taken away: as shown, as unexplained.

    Args:
        left: [N,C,G,G], what the Gaussian leaves unexplained; both results have this shape.
    """
    shown = torch.einsum("dc,ncyx->ndyx", known.common_whitening, seen.responses - known.common_mean[:, None, None])
    found = []
    for places, those in ((shown, known.shown), (left, known.left)):
        rows = places.flatten(2).permute(0, 2, 1).flatten(0, 1)
        difference = _from_nearest(rows, those.float()).view(len(places), -1, places.shape[1])
        found.append(difference.permute(0, 2, 1).reshape(places.shape))
    return found[0], found[1]


def _from_nearest(places: Tensor, known: Tensor) -> Tensor:
    """Each of the places [L,C] less the nearest known one [M,C]."""
    # The nearest one has the largest product less half its square: one product with one more channel finds it.
    known_and_half = torch.cat([known, -known.square().sum(dim=1, keepdim=True) / 2], dim=1).T.contiguous()
    places_and_one = torch.cat([places, torch.ones_like(places[:, :1])], dim=1)
    at_once = max(1, (ON_A_CPU if places.device.type == "cpu" else DISTANCES_AT_ONCE) // len(known))
    nearest = torch.cat([(part @ known_and_half).argmax(dim=1) for part in places_and_one.split(at_once)])
    return places - known[nearest]
