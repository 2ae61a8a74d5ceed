"""Places known by example: rare ones are kept, and each new one is compared with the nearest of them."""

from __future__ import annotations

import torch
from good_parts import SIDE, parts
from hypothesis import given, settings
from hypothesis import strategies as st

from diffad_ray.familiarity.exemplars import (
    GROUP,
    MOST_PLACES,
    ON_A_CPU,
    KnownPlaces,
    far_apart,
    known_places,
    nearest,
    unlike_known,
)
from diffad_ray.familiarity.features import GRID, Described
from diffad_ray.familiarity.gaussians import patch_gaussian, unexplained
from diffad_ray.familiarity.model import Familiarity
from diffad_ray.familiarity.normality import normality, residuals


def described(count: int, seed: int) -> Described:
    return Familiarity(SIDE).describe(parts(count, seed))


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 40), st.integers(1, 6), st.integers(0, 1000))
def test_what_is_left_is_the_difference_from_the_nearest_example(known: int, channels: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    shown, left = (torch.randn((known, channels), generator=generator).half() for _ in range(2))
    responses, unexplained = (torch.randn((2, channels, GRID, GRID), generator=generator) for _ in range(2))
    mean, whitening = torch.randn(channels, generator=generator), torch.randn((channels, channels), generator=generator)
    seen = Described(responses, torch.zeros((2, 768)), torch.zeros((2, 2)))
    found = unlike_known(KnownPlaces(mean, whitening, shown, left), seen, unexplained)
    rows = (responses.permute(0, 2, 3, 1) - mean) @ whitening.T, unexplained.permute(0, 2, 3, 1)
    for places, examples, less in zip(rows, (shown, left), found, strict=True):
        distances = torch.cdist(places.reshape(-1, channels).double(), examples.double()).amin(dim=1)
        torch.testing.assert_close(less.norm(dim=1).flatten().double(), distances, atol=1e-3, rtol=1e-3)
        offsets = (places - less.permute(0, 2, 3, 1)).reshape(-1, 1, channels) - examples.float()
        assert offsets.abs().amax(dim=2).amin(dim=1).max() < 1e-4, "what was taken away is an example"


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 300), st.integers(1, 3 * GROUP), st.integers(1, 5), st.integers(1, 3), st.integers(0, 1000))
def test_the_nearest_example_is_found_where_many_are_as_near(
    count: int, known: int, channels: int, values: int, seed: int
) -> None:
    """Small integers make many duplicates and ties, and no rounding error: the first of the nearest is the answer."""
    generator = torch.Generator().manual_seed(seed)
    places = torch.randint(-4, 5, (count, channels), generator=generator).float()
    examples = torch.randint(-values, values + 1, (known, channels), generator=generator).float()
    distances = (places[:, None].double() - examples).square().sum(dim=2)
    assert torch.equal(nearest(places, examples), distances.argmin(dim=1))


def test_the_search_does_not_depend_on_what_else_is_looked_for() -> None:
    generator = torch.Generator().manual_seed(0)
    examples = torch.randn((MOST_PLACES, 27), generator=generator).half().float()
    places = torch.randn((5 * (ON_A_CPU // MOST_PLACES) // 2, 27), generator=generator)
    found = nearest(places, examples)
    assert torch.equal(torch.cat([nearest(part, examples) for part in places.split(50)]), found)
    assert torch.equal(nearest(places.flip(0), examples).flip(0), found)
    distances = torch.cdist(places.double(), examples.double())
    reached = distances.gather(1, found[:, None]).squeeze(1)
    torch.testing.assert_close(reached, distances.amin(dim=1), atol=1e-6, rtol=1e-6)


def test_rare_places_are_kept_and_common_ones_are_thinned_out() -> None:
    generator = torch.Generator().manual_seed(0)
    common = 0.1 * torch.randn((40_000, 8), generator=generator)
    rare = 5 + torch.randn((100, 8), generator=generator)
    kept = far_apart(torch.cat([common, rare]), generator)
    assert len(kept) == MOST_PLACES
    assert len(kept.unique(dim=0)) == MOST_PLACES
    # Drawn at random it would be ten.
    assert (kept.mean(dim=1) > 2.5).sum() > 80
    assert torch.equal(far_apart(common[:50], generator), common[:50])
    assert len(far_apart(torch.zeros((5000, 8)), generator)) == MOST_PLACES


def test_places_of_normal_images_are_whitened_together() -> None:
    seen, generator = described(80, 0), torch.Generator().manual_seed(0)
    gaussian = patch_gaussian(seen, 80)
    known = known_places(seen, gaussian, generator)
    offsets = seen.responses - known.common_mean[:, None, None]
    whitened = torch.einsum("dc,ncyx->dnyx", known.common_whitening, offsets).flatten(1)
    variances = torch.linalg.eigvalsh(whitened @ whitened.T / whitened.shape[1])
    assert 0.9 < variances.max() < 1
    assert variances.min() >= 0
    assert known.shown.dtype == known.left.dtype == torch.float16
    assert known.shown.shape == known.left.shape == (MOST_PLACES, seen.responses.shape[1])
    whitened, left = whitened.view(-1, *seen.responses.permute(1, 0, 2, 3).shape[1:]), unexplained(gaussian, seen)
    for examples, places in ((known.shown, whitened.movedim(0, 3)), (known.left, left.permute(0, 2, 3, 1))):
        distance, nearest = torch.cdist(examples.float(), places.reshape(-1, examples.shape[1])).min(dim=1)
        assert (distance < 2e-3 * (1 + examples.float().norm(dim=1))).all(), "each is a place of a normal image"
        assert len((nearest // GRID % GRID).unique()) == GRID, "and of all their rows some are"


def test_a_part_that_lies_elsewhere_is_known_by_example_and_what_is_new_is_not() -> None:
    familiarity, generator = Familiarity(SIDE), torch.Generator().manual_seed(0)
    # The disk lies anywhere, which says nothing of new ones to a Gaussian for each place.
    shifts = torch.randint(-10, 11, (130, 2), generator=generator).tolist()
    images = torch.stack([image.roll(shift, (1, 2)) for image, shift in zip(parts(130, 1), shifts, strict=True)])
    normal = normality(familiarity.describe(images[:100]), 100, generator)
    scratched = images[100:].clone()
    for image, (y, x) in zip(scratched, shifts[100:], strict=True):
        image[:, 30 + y : 33 + y, 26 + x : 34 + x] -= 0.1

    def farthest(images: torch.Tensor) -> torch.Tensor:
        found = residuals(normal, familiarity.describe(images))
        return found.square().mean(dim=2).flatten(2).amax(dim=2)

    usual, damaged = farthest(images[100:]), farthest(scratched)
    told = (damaged > usual.quantile(0.95, dim=0)).float().mean(dim=0)
    assert told[1] > 0.9, "by what examples show"
    assert told[0] < told[1] - 0.2, "by the Gaussian"


def test_residuals_are_those_from_the_gaussian_and_from_examples() -> None:
    seen = described(40, 0)
    normal = normality(seen, 40, torch.Generator().manual_seed(0))
    new = described(3, 5)
    found = residuals(normal, new)
    left = unexplained(normal.gaussian, new)
    torch.testing.assert_close(found[:, 0], left)
    for k, expected in enumerate(unlike_known(normal.places, new, left), start=1):
        torch.testing.assert_close(found[:, k], expected)
    dark = new._replace(exposure=new.exposure - 9)
    assert (residuals(normal, dark).abs() >= found.abs()).all()
    assert residuals(normal, dark).norm() > 5 * found.norm()
