"""The losses, by hand, and the mean that spans ranks, on two processes."""

from __future__ import annotations

import math
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from diffad_ray.networks.losses import focal_loss, mean_over_ranks

RANKS = 2
# For each case: the values of each rank, and which of them are chosen.
CASES = [
    ([[1.0, 2.0, 5.0], [4.0, 8.0, 3.0]], [[True, True, True], [False, True, False]]),
    ([[1.0, 2.0, 5.0], [4.0, 8.0, 3.0]], [[True, False, True], [False, False, False]]),
    ([[1.0, 2.0, 5.0], [4.0, 8.0, 3.0]], [[False, False, False], [False, False, False]]),
]


def on_rank(rank: int, folder: str) -> None:
    """Compute the mean of each case as one rank, and leave result and gradient in a file."""
    meeting = f"file://{folder}/meeting"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=RANKS, timeout=timedelta(seconds=60))
    found = []
    for values, chosen in CASES:
        weight = torch.tensor(3.0, requires_grad=True)
        mean = mean_over_ranks(weight * torch.tensor(values[rank]), torch.tensor(chosen[rank]))
        mean.backward()
        assert weight.grad is not None
        found.append((mean.item(), weight.grad.item()))
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def on_other_rank(_: int, folder: str) -> None:
    on_rank(1, folder)


def test_focal_loss_by_hand() -> None:
    logits, target = torch.tensor([[0.0, 2.0], [-3.0, 40.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    true_class = [0.5, 1 - 1 / (1 + math.exp(-2)), 1 - 1 / (1 + math.exp(3)), 1.0]
    expected = sum(0.5 * (1 - p) ** 4 * -math.log(p) for p in true_class) / 4
    assert math.isclose(focal_loss(logits, target).item(), expected, rel_tol=1e-5)


def test_focal_loss_stays_finite_when_sure_and_wrong() -> None:
    logits = torch.tensor([200.0, -200.0], requires_grad=True)
    loss = focal_loss(logits, torch.tensor([0.0, 1.0]))
    loss.backward()
    assert math.isclose(loss.item(), 0.5 * 200, rel_tol=1e-5)
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_alone_it_is_the_mean_of_the_chosen() -> None:
    values = torch.tensor([1.0, 2.0, 6.0], requires_grad=True)
    mean = mean_over_ranks(values, torch.tensor([True, False, True]))
    mean.backward()
    assert mean.item() == 3.5
    assert values.grad is not None
    assert values.grad.tolist() == [0.5, 0.0, 0.5]


def test_with_none_chosen_it_is_zero_and_so_is_its_gradient() -> None:
    values = torch.tensor([1.0, 2.0], requires_grad=True)
    mean = mean_over_ranks(values, torch.zeros(2, dtype=torch.bool))
    mean.backward()
    assert mean.item() == 0
    assert values.grad is not None
    assert values.grad.tolist() == [0.0, 0.0]


def test_the_rank_average_is_the_global_mean(tmp_path: Path) -> None:
    other = mp.spawn(on_other_rank, (str(tmp_path),), nprocs=1, join=False)
    on_rank(0, str(tmp_path))
    assert other.join()
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(RANKS)]
    for case, (values, chosen) in enumerate(CASES):
        picked = torch.tensor(values)[torch.tensor(chosen)]
        mean = picked.mean().item() if len(picked) else 0.0
        # What DistributedDataParallel does with gradients, here with both.
        assert math.isclose(sum(rank[case][0] for rank in ranks) / RANKS, 3 * mean, rel_tol=1e-6)
        assert math.isclose(sum(rank[case][1] for rank in ranks) / RANKS, mean, rel_tol=1e-6)
