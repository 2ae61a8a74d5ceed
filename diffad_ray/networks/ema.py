"""Averaged weights: steadier than the last ones, and what a detector is made of."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Generic, TypeVar

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)


class Ema(Generic[M]):
    """Exponential moving average of a model's weights and statistics; early averages forget faster.

    Args:
        model: whose weights are averaged; its own begin the average.
        decay: once a part has learnt for long.
        starts: by name of a weight, the step from which it learns, where that is not 0.
    """

    def __init__(self, model: M, decay: float, starts: dict[str, int]):
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        self.starts = starts

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        current = model.state_dict()
        for name, averaged in self.model.state_dict().items():
            if averaged.is_floating_point():
                learnt = max(0, step - self.starts.get(name, 0))
                averaged.lerp_(current[name], 1 - min(self.decay, (1 + learnt) / (10 + learnt)))
            else:
                averaged.copy_(current[name])

    @torch.no_grad()
    def settle(self, model: nn.Module, parameters: Iterable[nn.Parameter]) -> None:
        """Give a part of the model its averaged weights, with which it stays as the other parts learn."""
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        averaged = dict(self.model.named_parameters())
        for parameter in parameters:
            parameter.copy_(averaged[names[id(parameter)]])
