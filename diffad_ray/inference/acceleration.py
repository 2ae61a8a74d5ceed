"""Short trials that find the fastest way to run networks on this machine, though other processes run there, too."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import torch

from diffad_ray.detectors.base import Mode, Precision

K = TypeVar("K", bound=Hashable)
FEWEST_ROUNDS, MOST_ROUNDS, TRIAL_SECONDS = 3, 8, 6.0
"Rounds that are timed. After the fewest, no round begins once the trial has taken `TRIAL_SECONDS`."
CLEARLY = 1.1
"Times by which a way must be faster to be taken instead of one that is preferred to it."


class Trial(NamedTuple):
    """The mode that a trial chose, and the seconds that each took."""

    mode: Mode
    seconds: dict[Mode, float]

    def __str__(self) -> str:
        timings = ", ".join(f"{mode} {seconds:.3f} s" for mode, seconds in self.seconds.items())
        return f"{self.mode} (tried: {timings})"


def least_seconds(runs: Mapping[K, Callable[[], object]], device: torch.device) -> dict[K, float]:
    """Return the least seconds that each of `runs` took.

    The runs take turns, and each counts by its best round. So a busy process disturbs all of them alike, and spoils
    rounds, not the comparison. The first round is not timed: kernels are chosen and memory is taken then.
    """
    seconds = dict.fromkeys(runs, float("inf"))
    for run in runs.values():
        run()
    started = time.perf_counter()
    for number in range(MOST_ROUNDS):
        if number >= FEWEST_ROUNDS and time.perf_counter() - started > TRIAL_SECONDS:
            break
        for key, run in runs.items():
            wait_for(device)
            start = time.perf_counter()
            run()
            wait_for(device)
            seconds[key] = min(seconds[key], time.perf_counter() - start)
    return seconds


def wait_for(device: torch.device) -> None:
    """Wait until a device has computed what it was given; a CPU has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def preferred(seconds: Mapping[K, float], clearly: float = CLEARLY) -> K:
    """Return the first key, in order of preference, that no other one is `clearly` times faster than.

    Example:
        >>> preferred({"exact": 1.05, "coarse": 1.0}), preferred({"exact": 1.5, "coarse": 1.0})
        ('exact', 'coarse')
    """
    least = min(seconds.values())
    return next(key for key, value in seconds.items() if value <= clearly * least)


def fastest_mode(run: Callable[[Mode], object], precisions: Sequence[Precision], device: torch.device) -> Trial:
    """Time `run` in every mode, and return the fastest one; of about equal ones, the first of `precisions`."""
    modes = [Mode(channels_last, precision) for precision in precisions for channels_last in (False, True)]

    def bound(mode: Mode) -> Callable[[], object]:
        return lambda: run(mode)

    seconds = least_seconds({mode: bound(mode) for mode in modes}, device)
    return Trial(preferred(seconds), seconds)
