"""How the learning rate of a training rises and falls, as a share of its peak."""

from __future__ import annotations

import math


def cosine_fall(progress: float, floor: float) -> float:
    """Return the factor of a half cosine from 1 at progress 0 down to `floor` at progress 1, where it stays.

    Example:
        >>> cosine_fall(0.0, 0.01), cosine_fall(0.5, 0.0), cosine_fall(2.0, 0.01)
        (1.0, 0.5, 0.01)
    """
    return floor + (1 - floor) * (1 + math.cos(math.pi * min(1.0, progress))) / 2


def rise_and_fall(step: int, steps: int, warmup: float, floor: float) -> float:
    """Return the factor at a step: a linear rise over the share `warmup` of the steps, then a fall to `floor`."""
    rise = max(1, round(warmup * steps))
    if step < rise:
        return (step + 1) / rise
    return cosine_fall((step - rise) / max(1, steps - rise), floor)
