"""The preset and the steps of a training for the minutes that it may take, by trial steps where it will run."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from diffad_ray.detectors.base import DetectorSettings
from diffad_ray.detectors.kinds import find_detector
from diffad_ray.errors import counted
from diffad_ray.inference.acceleration import wait_for
from diffad_ray.networks.presets import PRESETS
from diffad_ray.settings import build, merged
from diffad_ray.training.batches import Images, World
from diffad_ray.training.learner import prepared
from diffad_ray.training.settings import TrainingSettings

TRIED_PRESETS = PRESETS[:-1]
"Presets that are tried, the smallest first; who wants the published sizes asks for them."
NETWORKS_SHARE = 0.75
"Share of the time for the steps of the networks; the rest is for familiarity, the threshold, and reading the images."
ENOUGH, MOST, FEWEST = 2000, 4000, 100
"Steps that a larger preset must reach to be taken, the most steps, and the fewest that are worth while."
LARGER = 4.0
"A larger preset takes at least so many times as long for a step."
TRIED, ROUNDS = 4, 2
"Steps, evenly spread over the training because parts may take turns, and how often each is timed."
OnWorker = Callable[[Callable[[World], float]], float]
"Runs a function on the device where the training will run."


class Budget(NamedTuple):
    """Settings by section that fill a number of minutes, and the reason for them."""

    settings: dict[str, dict[str, Any]]
    reason: str


def budget(
    kind: str, tables: Mapping[str, Mapping[str, Any]], workers: int, squares: np.ndarray, on_worker: OnWorker
) -> Budget:
    """Choose preset and steps, unless they are given, so that a training takes about `training.minutes`.

    Args:
        tables: values of the settings by section, as far as they are given.
        workers: number of ranks that share a batch.
        squares: some squares [N,S,S,3] as the networks will see them.
    """
    training = build(TrainingSettings, tables.get("training", {}), "training")
    assert training.minutes is not None
    seconds = 60 * training.minutes * NETWORKS_SHARE
    has_preset = any(field.name == "preset" for field in fields(find_detector(kind).settings_class))
    given = tables.get("detector", {}).get("preset")
    presets: tuple[str | None, ...] = (given,) if given or not has_preset else TRIED_PRESETS
    share = replace(training, batch_size=max(2, training.batch_size // max(1, workers)))
    taken, pace = presets[0], 0.0
    for preset in presets:
        values = merged(tables.get("detector", {}), {"preset": preset})
        settings = build(find_detector(kind).settings_class, values, "detector")
        a_step = on_worker(partial(seconds_a_step, kind, settings, share, squares))
        if preset == presets[0] or seconds / a_step >= ENOUGH:
            taken, pace = preset, a_step
        if seconds / a_step < LARGER * ENOUGH:
            break
    steps = min(MOST, max(FEWEST, _rounded(seconds / pace)))
    if "steps" in tables.get("training", {}):
        steps = training.steps
    found: dict[str, dict[str, Any]] = {"training": {"steps": steps}}
    if taken is not None:
        found["detector"] = {"preset": taken}
    return Budget(found, _reason(taken, steps, pace, training))


def _reason(preset: str | None, steps: int, pace: float, training: TrainingSettings) -> str:
    """Return what was chosen, and how it fits."""
    minutes = steps * pace / 60 / NETWORKS_SHARE
    networks = f"networks of preset {preset} learn" if preset else "networks learn"
    about = counted(max(1, round(minutes)), "minute")
    reason = f"{networks} for {counted(steps, 'step')} of {pace:.2g} s each: about {about} in all"
    assert training.minutes is not None
    if minutes > 1.1 * training.minutes:
        reason += f", more than {training.minutes:g}, which are too few"
    elif steps == MOST and minutes < 0.9 * training.minutes:
        reason += f"; more steps than {MOST} are for --steps to ask for"
    return reason


def _rounded(steps: float) -> int:
    """Round down to two digits, because trials are no more exact."""
    digits = 10 ** max(0, len(str(int(steps))) - 2)
    return int(steps) // digits * digits


def seconds_a_step(
    kind: str, settings: DetectorSettings, training: TrainingSettings, squares: np.ndarray, world: World
) -> float:
    """Return the mean seconds of a training step on the device of `world`, in the mode that a training chooses.

    The mean, and not the best: what else the machine does now, it will probably do during the training, too.

    Args:
        training: with the batch of one rank.
        squares: normal squares [N,S,S,3]; they stand for defective ones, too, if a kind learns from some.
    """
    kind_of = find_detector(kind)
    images = Images(squares, None, squares if "defective" in kind_of.learns_from else None)
    learner, source = prepared(kind_of(settings), images, training, world)
    tried = np.linspace(0, training.steps - 1, TRIED).astype(int).tolist()
    for step in tried:  # Kernels are chosen and memory is taken in the first steps.
        learner.step(step, source)
    wait_for(world.device)
    started = time.perf_counter()
    for step in tried * ROUNDS:
        learner.step(step, source)
    wait_for(world.device)
    return (time.perf_counter() - started) / len(tried * ROUNDS)
