"""Losses that more than one detector may use, and the mean that spans all ranks."""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor


def focal_loss(logits: Tensor, target: Tensor, gamma: float = 4.0, alpha: float = 0.5) -> Tensor:
    """Focal loss (Lin et al. 2017) with one weight for both classes: mean of alpha (1-p)^gamma BCE.

    Args:
        logits: any shape; `sigmoid` gives the probability of class 1.
        target: same shape, 0 or 1. p is the probability given to the true class.
    """
    cross_entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return (alpha * (1 - torch.exp(-cross_entropy)) ** gamma * cross_entropy).mean()


def mean_over_ranks(values: Tensor, chosen: Tensor) -> Tensor:
    """Mean of `values[chosen]` over all ranks of a distributed run, as a share whose rank average is that mean.

    DistributedDataParallel averages gradients over ranks. Ranks that chose few values must then weigh less than ranks
    that chose many, so this rank's sum is divided by the mean count a rank. Where no rank chose any, the result is 0
    and so is its gradient.

    Args:
        values: [N].
        chosen: [N] bool.
    """
    count = chosen.sum().to(values.dtype)
    if dist.is_available() and dist.is_initialized():
        count = count.clone()
        dist.all_reduce(count)
        count /= dist.get_world_size()
    smallest = torch.finfo(values.dtype).tiny
    return torch.where(chosen, values, torch.zeros_like(values)).sum() / count.clamp(min=smallest)
