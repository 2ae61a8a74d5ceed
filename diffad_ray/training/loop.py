"""The training loop in plain torch, without Ray and files, in one process or as one rank of many."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from diffad_ray.detectors.base import Trainable
from diffad_ray.errors import UserError
from diffad_ray.training.batches import ALONE, Images, World
from diffad_ray.training.learner import State, prepared
from diffad_ray.training.settings import TrainingSettings


class Report(NamedTuple):
    """The state of a training.

    Attributes:
        losses: means over all ranks and over the steps since the last report.
        mode: memory format and precision in which the networks run.
        afterwards: after the last step, the task in progress and how far it is.
    """

    step: int
    losses: dict[str, float]
    learning_rate: float
    images_per_second: float
    mode: str
    afterwards: str = ""


class _Losses:
    """Collects losses since the last report."""

    def __init__(self, world: World):
        self.world = world
        self.total: dict[str, list[Tensor]] = {}

    def add(self, losses: dict[str, Tensor], name_of_loss: str) -> None:
        for name, value in losses.items():
            self.total.setdefault(name_of_loss if name == "loss" else name, []).append(value.detach())

    def means(self) -> dict[str, float]:
        """Return the means over all ranks and steps, and start anew."""
        means = torch.stack([torch.stack(values).mean() for values in self.total.values()])
        if self.world.size > 1:
            dist.all_reduce(means)
            means /= self.world.size
        found = dict(zip(self.total, means.tolist(), strict=True))
        self.total = {}
        return found


def train_loop(
    detector: Trainable,
    images: Images,
    settings: TrainingSettings,
    world: World = ALONE,
    resume: State | None = None,
    on_report: Callable[[Report], None] = lambda _: None,
    on_checkpoint: Callable[[State], None] = lambda _: None,
) -> Trainable:
    """Train a detector and return it with its averaged weights, in eval mode, on the CPU.

    The result is a function of settings, images and world size, up to rounding. A training that is resumed from a
    checkpoint takes the same steps as an uninterrupted one.

    Args:
        resume: a state that `on_checkpoint` received.
        on_report: called on rank 0 every `settings.report_every` steps.
        on_checkpoint: called on rank 0 every `settings.checkpoint_seconds`.

    Raises:
        UserError: the batch can't be shared among the ranks, or a loss is not finite.
    """
    _check_shares(settings, world)
    learner, source = prepared(detector, images, settings, world)
    losses = _Losses(world)
    first_step = learner.resume(resume) if resume is not None else 0
    learner.distribute()

    reported_step, reported_at = first_step, time.monotonic()
    saved_at = reported_at
    for step in range(first_step, settings.steps):
        found, turn = learner.step(step, source)
        # Parts that take turns have different losses, which must not be averaged.
        losses.add(found, turn if len(learner.parts) > 1 else "loss")
        done = step + 1
        if done % settings.report_every == 0 or done == settings.steps:
            means = losses.means()
            learner.refuse_lost(means, done)
            now = time.monotonic()
            if world.rank == 0:
                rate = (done - reported_step) * settings.batch_size / (now - reported_at)
                on_report(Report(done, means, learner.learning_rate(turn), rate, str(learner.mode)))
            reported_step, reported_at = done, now
        if world.rank == 0 and (time.monotonic() - saved_at >= settings.checkpoint_seconds or done == settings.steps):
            on_checkpoint(learner.state(done))
            saved_at = time.monotonic()
    averaged: Trainable = learner.ema.model.cpu()
    return averaged.run_in(averaged.settings.mode).eval()


def _check_shares(settings: TrainingSettings, world: World) -> None:
    if settings.batch_size % world.size:
        raise UserError(
            f"batch_size {settings.batch_size} can't be shared among {world.size} workers: take a multiple of them"
        )
    if settings.batch_size < 2 * world.size:
        raise UserError(
            f"batch_size {settings.batch_size} gives {world.size} workers fewer than 2 images each: raise it"
        )
