"""Batch normalisation over all ranks of a distributed training."""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.distributed.nn.functional as between_ranks
from torch import Tensor, nn


class BatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d` with training statistics over the batches of all ranks, also on CPUs.

    torch's own SyncBatchNorm needs GPUs. All ranks must hold the same number of pixels.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
            return super().forward(x)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.momentum is not None
        assert self.num_batches_tracked is not None
        full = x.float()
        mean = _mean_over_ranks(full.mean(dim=(0, 2, 3)))
        # E[(x - mean)^2], because E[x^2] - mean^2 loses its digits where the mean is large.
        deviation = full - mean[:, None, None]
        variance = _mean_over_ranks(deviation.square().mean(dim=(0, 2, 3)))
        with torch.no_grad():
            count = x.numel() / x.shape[1] * dist.get_world_size()
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return (deviation * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)


def _mean_over_ranks(values: Tensor) -> Tensor:
    """Return the mean of values [C] over ranks; gradients pass back to all ranks."""
    return between_ranks.all_reduce(values) / dist.get_world_size()
