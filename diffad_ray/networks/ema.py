"""Exponential moving average of weights, which a trained detector uses instead of the last weights."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

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
        alike: dict[tuple[float, torch.dtype], list[tuple[Tensor, Tensor]]] = {}
        for name, averaged in self.model.state_dict().items():
            if averaged.is_floating_point():
                learnt = max(0, step - self.starts.get(name, 0))
                decay = min(self.decay, (1 + learnt) / (10 + learnt))
                alike.setdefault((decay, averaged.dtype), []).append((averaged, current[name]))
            else:
                averaged.copy_(current[name])
        for (decay, _), pairs in alike.items():
            # Hundreds of small tensors take longer one by one, most of all on a GPU.
            torch._foreach_lerp_([averaged for averaged, _ in pairs], [weight for _, weight in pairs], 1 - decay)

    @torch.no_grad()
    def settle(self, model: nn.Module, parameters: Iterable[nn.Parameter]) -> None:
        """Copy the averaged weights into some parameters of the model, which stay fixed while other parts learn."""
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        averaged = dict(self.model.named_parameters())
        for parameter in parameters:
            parameter.copy_(averaged[names[id(parameter)]])
