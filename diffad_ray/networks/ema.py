"""Exponential moving average of weights, which a trained detector uses instead of the last weights."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Generic, TypeVar

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)


class Ema(Generic[M]):
    """Exponential moving average of a model's weights and buffers, with a smaller decay in early steps.

    Args:
        model: the model whose weights are averaged; its current weights start the average.
        decay: limit of the decay min(decay, (1 + s) / (10 + s)) after s steps.
        starts: by name of a weight, the step from which the weight learns, where that is not 0.
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
        """Copy the averaged weights into some parameters of the model, which stay fixed while other parts learn."""
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        averaged = dict(self.model.named_parameters())
        for parameter in parameters:
            parameter.copy_(averaged[names[id(parameter)]])
