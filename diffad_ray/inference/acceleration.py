"""A short trial that finds the fastest way to run the networks on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from diffad_ray.detectors.base import Mode, Precision


class Trial(NamedTuple):
    """The fastest mode, and the seconds that each took."""

    mode: Mode
    seconds: dict[Mode, float]

    def __str__(self) -> str:
        timings = ", ".join(f"{mode} {seconds:.3f} s" for mode, seconds in self.seconds.items())
        return f"{self.mode} (tried: {timings})"


def fastest_mode(
    run: Callable[[Mode], object], precisions: Sequence[Precision], device: torch.device, rounds: int = 2
) -> Trial:
    """Time `run` in every mode and return the fastest.

    Modes take turns, and each counts by its best round, so that a second busy process spoils one round, not the choice.
    The first call of a mode is not timed: kernels are chosen and memory is taken then.
    """
    modes = [Mode(channels_last, precision) for precision in precisions for channels_last in (True, False)]
    seconds = dict.fromkeys(modes, float("inf"))
    for number in range(rounds + 1):
        for mode in modes:
            start = time.perf_counter()
            run(mode)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if number > 0:
                seconds[mode] = min(seconds[mode], time.perf_counter() - start)
    return Trial(min(modes, key=seconds.__getitem__), seconds)
