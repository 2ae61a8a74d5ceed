"""The judge of familiarity: what it sees of residuals, how far around, and that it begins without an opinion."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from diffad_ray.familiarity.judge import RARE, ResidualSegmenter, squared_distance, untaught

KINDS, CHANNELS, GRID = 2, 3, 32


def residuals(seed: int = 0) -> torch.Tensor:
    return 3 * torch.randn((2, KINDS, CHANNELS, GRID, GRID), generator=torch.Generator().manual_seed(seed))


def opinionated() -> ResidualSegmenter:
    """A judge whose weights all matter."""
    judge, generator = untaught(KINDS, CHANNELS, 0), torch.Generator().manual_seed(1)
    for module in [judge.out, *(block.second for block in judge.blocks)]:
        torch.nn.init.normal_(module.weight, generator=generator)
    return judge.requires_grad_(False)


def test_an_untaught_judge_finds_an_anomaly_as_rare_everywhere() -> None:
    torch.testing.assert_close(untaught(KINDS, CHANNELS, 0)(residuals()), torch.full((2, GRID, GRID), RARE))


def test_weights_have_the_shapes_of_those_in_bundles() -> None:
    shapes = {name: tuple(value.shape) for name, value in untaught(KINDS, CHANNELS, 0).state_dict().items()}
    blocks = {f"blocks.{k}.{name}.weight": (48, 48, 3, 3) for k in (0, 1) for name in ("first", "second")}
    expected = {"into.weight": (48, KINDS * (CHANNELS + 1), 1, 1), "out.weight": (1, 48, 1, 1), **blocks}
    assert {name: shape for name, shape in shapes.items() if name.endswith("weight")} == expected


def test_squared_distances_are_means_over_channels_with_a_floor() -> None:
    found = torch.tensor([1.0, 2.0, 3.0, 0.01, 0.0, 0.0]).view(1, 2, 3, 1, 1)
    # The floor is one that judges in bundles were taught with.
    assert squared_distance(found).flatten().tolist() == pytest.approx([14 / 3, 1e-3])


def test_it_sees_residuals_with_their_sign_and_distances_each_compressed() -> None:
    judge, given = untaught(KINDS, CHANNELS, 0).requires_grad_(False), residuals()
    torch.nn.init.normal_(judge.out.weight, generator=torch.Generator().manual_seed(1))
    cell = given[1, :, :, 5, 7]
    numbers = torch.cat([cell.flatten(), cell.square().mean(dim=1).log()])
    seen = torch.where(numbers < 0, -1, 1) * (1 + numbers.abs()).log()
    hidden = judge.into.weight.flatten(1) @ seen + judge.into.bias
    expected = (judge.out.weight.flatten() * F.silu(hidden)).sum() + RARE
    torch.testing.assert_close(judge(given)[1, 5, 7], expected)


def test_it_sees_the_cells_around_to_a_quarter_of_the_side() -> None:
    judge, given = opinionated(), residuals()
    changed = given.clone()
    changed[:, :, :, 16, 16] += 1
    y, x = (judge(changed) - judge(given)).abs().amax(dim=0).gt(1e-4).nonzero().unbind(dim=1)
    # Two convolutions of neighbours, and two of every fourth cell.
    reached = {near + far for near in range(-2, 3) for far in (-8, -4, 0, 4, 8)}
    for places in (y, x):
        assert {*(places - 16).tolist()} == reached


def test_blocks_add_to_what_they_are_given() -> None:
    judge, given = opinionated(), residuals()
    for block in judge.blocks:
        h = torch.randn((1, block.first.in_channels, 9, 9), generator=torch.Generator().manual_seed(2))
        added = block.second(F.silu(block.first(F.silu(h))))
        torch.testing.assert_close(block(h) - h, added, atol=1e-4, rtol=1e-3)
        torch.nn.init.zeros_(block.second.weight)
    plain = judge.out(F.silu(judge.into(_seen(given)))).squeeze(1)
    torch.testing.assert_close(judge(given), plain)


def _seen(given: torch.Tensor) -> torch.Tensor:
    both = torch.cat([given.flatten(1, 2), squared_distance(given).log()], dim=1)
    return torch.copysign(both.abs().log1p(), both)


def test_its_first_weights_are_those_of_the_seed_whatever_was_drawn_before() -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    one, same, other = (untaught(KINDS, CHANNELS, seed).into.weight for seed in (3, 3, 4))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
