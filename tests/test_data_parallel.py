"""Training on two ranks is training on one with their samples together: the same losses, the same steps."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from tiny_detector import tiny_detector
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from diffad_ray.detectors.base import TrainingBatch
from diffad_ray.detectors.diffusion_ad import DiffusionAD, TrainingDraw

RANKS, BATCH, STEPS = 2, 8, 2


class Step(nn.Module):
    """The losses of given samples, as a forward, through which ranks share their gradients."""

    def __init__(self, detector: DiffusionAD):
        super().__init__()
        self.detector = detector

    def forward(self, draw: TrainingDraw) -> dict[str, Tensor]:
        return self.detector.losses(draw)


def train(rank: int, ranks: int) -> dict[str, Tensor]:
    """Losses of each step, averaged over the ranks, and the detector's parameters and statistics after them."""
    detector = tiny_detector().train()
    optimizer = torch.optim.SGD(detector.parameters(), 0.001)
    step = DistributedDataParallel(Step(detector)) if ranks > 1 else Step(detector)
    result: dict[str, Tensor] = {}
    for number in range(STEPS):
        generator = torch.Generator().manual_seed(number)
        side = detector.settings.image_size
        normals = torch.rand((BATCH, 3, side, side), generator=generator)
        whole = detector.draw(TrainingBatch(normals), generator)
        # In the first half of the batch all are anomalous, in the second none: ranks differ as much as they can.
        mine = TrainingDraw(*(part.chunk(ranks)[rank] for part in whole))
        losses = step(mine)
        optimizer.zero_grad()
        losses["loss"].backward()
        optimizer.step()
        for name, loss in losses.items():
            mean = loss.detach().clone()
            if ranks > 1:
                dist.all_reduce(mean)
            result[f"{name} {number}"] = mean / ranks
    return result | {name: value.clone() for name, value in detector.state_dict().items()}


def on_rank(rank: int, folder: str) -> None:
    meeting = f"file://{folder}/meeting"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=RANKS, timeout=timedelta(seconds=60))
    torch.save(train(rank, RANKS), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.long
def test_two_ranks_compute_what_one_does(tmp_path: Path) -> None:
    mp.spawn(on_rank, (str(tmp_path),), nprocs=RANKS)
    alone = train(0, 1)
    for rank in range(RANKS):
        together = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert together.keys() == alone.keys()
        for name, value in alone.items():
            # Rounding differs, and steps amplify it; statistics of the ranks' own would be off by more at once.
            torch.testing.assert_close(together[name], value, rtol=1e-3, atol=2e-4, msg=lambda m, n=name: f"{n}: {m}")
    assert alone["noise 0"] > 0
    assert alone["focal 0"] > 0
