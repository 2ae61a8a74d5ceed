"""The base of modules with statistics that are fitted and not learnt by gradients."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


class FittedModule(nn.Module):
    """A module with buffers that are empty until they are fitted, and take the shapes of what is loaded.

    Attributes:
        fitted: names of these buffers.
    """

    fitted: Iterable[str]

    def damage(self, given: dict[str, Tensor]) -> str | None:
        """Return which of these buffers of a file is invalid and why, or None, so that loading fails, not scoring."""
        return None

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        given = {name: state_dict[prefix + name] for name in self.fitted if prefix + name in state_dict}
        if wrong := self.damage(given):
            error_msgs.append(prefix + wrong)
            return
        for name, tensor in given.items():
            setattr(self, name, torch.empty_like(tensor, device=getattr(self, name).device))
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
