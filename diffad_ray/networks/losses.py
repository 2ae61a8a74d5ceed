"""Losses for several detectors, and a mean over all ranks."""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor


def focal_loss(logits: Tensor, target: Tensor, gamma: float = 4.0, alpha: float = 0.5) -> Tensor:
    """Return the focal loss (Lin et al. 2017) with one weight for both classes: mean of alpha (1-p)^gamma BCE.

    p is the probability of the true class.

    Args:
        logits: logits of class 1, of any shape.
        target: classes 0 or 1, of the same shape.
    """
    cross_entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return (alpha * (1 - torch.exp(-cross_entropy)) ** gamma * cross_entropy).mean()


def mean_over_ranks(values: Tensor, chosen: Tensor) -> Tensor:
    """Return this rank's share of the mean of `values[chosen]` over all ranks; the average of the shares is that mean.

    DistributedDataParallel averages gradients over ranks, so each rank must weigh as many values as it chose. The share
    is this rank's sum divided by the mean count per rank. If no rank chose a value, the share and its gradient are 0.

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
