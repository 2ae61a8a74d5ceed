"""The training loop, in plain torch: knows neither Ray nor files, runs on one process or as one rank of many."""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from diffad_ray.bundles.calibration import FALSE_ALARM_RATE
from diffad_ray.detectors.base import Mode, Precision, Trainable, TrainingBatch
from diffad_ray.diffusion.noise import seeded_generator
from diffad_ray.errors import UserError
from diffad_ray.inference.acceleration import fastest_mode
from diffad_ray.networks.ema import Ema
from diffad_ray.synthesis.foreground import with_foregrounds
from diffad_ray.tensors import as_unit_tensor
from diffad_ray.training.augmentation import Augmentation, augmented

log = logging.getLogger(__name__)
TRIAL_IMAGES = 4
DEFECTIVE_SEED = 1_000_003
State = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """How a detector is trained.

    Attributes:
        steps: optimizer steps.
        batch_size: images a step, over all workers together.
        learning_rate: peak of the schedule, which rises linearly over `warmup` of the steps and falls as a cosine; None
            takes what suits the width of the networks.
        warmup: share of the steps, in [0, 1).
        ema_decay: of the averaged weights, which become the detector; ramps up over the first steps.
        gradient_clip: largest norm of the gradient.
        precision: arithmetic of the networks; `auto` takes what a short trial finds fastest.
        held_back: share of the normal images kept out of training for calibration, if no others are given for that.
        false_alarm_rate: share of normal images that the threshold may call anomalous.
        max_images: a larger set, of images and then of their tiles, is sampled down to this many, since each worker
            keeps its part in memory.
        checkpoint_seconds: time between checkpoints.
        report_every: steps between two lines of the loss table.
        augmentation: how the normal images are varied.
        seed: of every random choice.
    """

    steps: int = 2000
    batch_size: int = 16
    learning_rate: float | None = None
    warmup: float = 0.05
    ema_decay: float = 0.999
    gradient_clip: float = 1.0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    held_back: float = 0.1
    false_alarm_rate: float = FALSE_ALARM_RATE
    max_images: int = 20_000
    checkpoint_seconds: float = 120.0
    report_every: int = 10
    augmentation: Augmentation = field(default_factory=Augmentation)
    seed: int = 0

    def __post_init__(self) -> None:
        # Stored settings come as plain dictionaries.
        if isinstance(given := self.augmentation, dict):
            object.__setattr__(self, "augmentation", Augmentation(**given))
        for name in ("steps", "batch_size", "max_images", "report_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more, not {getattr(self, name)}")
        for name in ("warmup", "held_back", "ema_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in [0, 1), not {getattr(self, name)}")
        if not 0 < self.false_alarm_rate < 1:
            raise ValueError(f"false_alarm_rate must lie between 0 and 1, not {self.false_alarm_rate}")
        if (self.learning_rate is not None and self.learning_rate <= 0) or self.gradient_clip <= 0:
            raise ValueError("learning_rate and gradient_clip must be above 0")


class World(NamedTuple):
    """This process among the ranks of a run."""

    rank: int = 0
    size: int = 1
    device: torch.device = torch.device("cpu")


ALONE = World()


class Report(NamedTuple):
    """Where the training stands; losses are means over all ranks and over the steps since the last report."""

    step: int
    losses: dict[str, float]
    learning_rate: float
    images_per_second: float
    mode: str
    "memory format and precision in which the networks run"
    afterwards: str = ""
    "what is done once all steps are, and how far that is"


def learning_rate_factor(step: int, steps: int, warmup: float) -> float:
    """Share of the peak learning rate at a step: linear rise, then a cosine down to 1 %."""
    rise = max(1, round(warmup * steps))
    if step < rise:
        return (step + 1) / rise
    progress = (step - rise) / max(1, steps - rise)
    return 0.01 + 0.99 * (1 + math.cos(math.pi * min(1.0, progress))) / 2


class Batches:
    """Batches of this rank's images: shuffled passes, a function of seed and step, so that a resumed run sees what an
    uninterrupted one would have seen."""

    def __init__(self, images: np.ndarray, batch: int, seed: int):
        self.images, self.batch, self.seed = images, batch, seed
        self.passes: dict[int, np.ndarray] = {}

    def _shuffled(self, number: int) -> np.ndarray:
        if number not in self.passes:
            self.passes = {k: order for k, order in self.passes.items() if k >= number - 1}
            self.passes[number] = np.random.default_rng([self.seed, number]).permutation(len(self.images))
        return self.passes[number]

    def at(self, step: int, device: torch.device) -> Tensor:
        """Images [B,C,H,W] in [0,1] of a step."""
        positions = np.arange(step * self.batch, (step + 1) * self.batch)
        chosen = [self._shuffled(int(p // len(self.images)))[p % len(self.images)] for p in positions]
        return as_unit_tensor(self.images[chosen]).to(device, non_blocking=True)


def _choose_mode(detector: Trainable, batch: TrainingBatch, turn: str, wanted: str, world: World) -> Mode:
    """The fastest mode for a training step, tried on a copy of the detector; all ranks try, rank 0's finding counts."""
    trial = copy.deepcopy(detector).train()

    def step(mode: Mode) -> None:
        trial.zero_grad(set_to_none=True)
        few = TrainingBatch(
            mode.laid_out(batch.normals[:TRIAL_IMAGES]),
            textures=batch.textures,
            defective=None if batch.defective is None else mode.laid_out(batch.defective[:TRIAL_IMAGES]),
        )
        trial.run_in(mode)(few, seeded_generator(world.device, 0), turn)["loss"].backward()

    precisions: list[Precision] = ["float32"] if wanted in ("auto", "float32") else []
    if wanted in ("auto", "bfloat16"):
        precisions.append("bfloat16")
    found = fastest_mode(step, precisions, world.device)
    log.info("training runs in %s", found)
    choice = [found.mode]
    if world.size > 1:
        dist.broadcast_object_list(choice, src=0)
    return Mode(*choice[0])


def _mean_over_ranks(values: Tensor, world: World) -> Tensor:
    if world.size > 1:
        dist.all_reduce(values)
        values /= world.size
    return values


def train_loop(
    detector: Trainable,
    normals: np.ndarray,
    textures: Tensor | None,
    settings: TrainingSettings,
    world: World = ALONE,
    defective: np.ndarray | None = None,
    resume: State | None = None,
    on_report: Callable[[Report], None] = lambda _: None,
    on_checkpoint: Callable[[State], None] = lambda _: None,
) -> Trainable:
    """Train a detector and return it with its averaged weights, in eval mode, on the CPU.

    The run is a function of settings, images and world size up to the rounding of the arithmetic: resumed from any of
    its checkpoints it takes the same steps.

    Args:
        normals: this rank's normal images [N,H,W,3], uint8 or uint16; a fourth channel, if any, is their foreground.
        textures: [K,3,h,w] in [0,1], or None; see `TrainingBatch`.
        defective: defective images [M,H,W,3] for a detector that learns from them; all ranks hold the same.
        resume: a state that `on_checkpoint` was given.
        on_report: called on rank 0 every `settings.report_every` steps.
        on_checkpoint: called on rank 0 every `settings.checkpoint_seconds`.

    Raises:
        UserError: the batch can't be shared among the ranks, or the loss is no number any more.
    """
    if settings.batch_size % world.size:
        raise UserError(
            f"batch_size {settings.batch_size} can't be shared among {world.size} workers: take a multiple of them"
        )
    if settings.batch_size < 2 * world.size:
        raise UserError(
            f"batch_size {settings.batch_size} gives {world.size} workers less than 2 images each: raise it"
        )
    torch.manual_seed(settings.seed)
    share, seed = settings.batch_size // world.size, settings.seed + world.rank
    batches = Batches(normals, share, seed)
    # As many as normal ones, however few there are, in another order.
    defects = None if defective is None else Batches(defective, share, seed + DEFECTIVE_SEED)
    detector = detector.to(world.device).train()

    def batch_at(step: int, generator: torch.Generator) -> TrainingBatch:
        # The same on all ranks, which so hold equally many pixels; by turns it could fall in with those of the parts.
        scale = np.random.default_rng([settings.seed, step]).choice(detector.settings.training_scales)

        def inputs(source: Batches) -> Tensor:
            return augmented(source.at(step, world.device), settings.augmentation, generator, scale)

        images, foregrounds = with_foregrounds(inputs(batches))
        return TrainingBatch(
            normals=detector.mode.laid_out(images),
            foregrounds=foregrounds,
            textures=textures,
            defective=None if defects is None else detector.mode.laid_out(inputs(defects)),
        )

    first = batch_at(0, seeded_generator(world.device, settings.seed))
    mode = _choose_mode(detector, first, detector.settings.turn(0, settings.steps), settings.precision, world)
    detector.run_in(mode)

    parts = {part.name: part for part in detector.parts(settings.learning_rate)}
    spans = {name: range(*(round(share * settings.steps) for share in part.span)) for name, part in parts.items()}
    names = {id(parameter): name for name, parameter in detector.named_parameters()}
    starts = {names[id(p)]: spans[part.name].start for part in parts.values() for p in part.parameters}
    ema = Ema(detector, settings.ema_decay, starts)
    optimizer = torch.optim.Adam(
        [{"params": part.parameters, "lr": part.learning_rate, "betas": part.betas} for part in parts.values()]
    )
    first_step = 0
    if resume is not None:
        detector.load_state_dict(resume["detector"])
        ema.model.load_state_dict(resume["ema"])
        optimizer.load_state_dict(resume["optimizer"])
        first_step = resume["step"]
    wrapped: nn.Module = detector
    if world.size > 1:
        wrapped = DistributedDataParallel(
            detector,
            [world.device] if world.device.type == "cuda" else None,
            # Of parts that take turns, all but one have no gradients.
            find_unused_parameters=len(parts) > 1,
        )

    total: dict[str, list[Tensor]] = {}
    reported_step, reported_at = first_step, time.monotonic()
    saved_at = reported_at
    for step in range(first_step, settings.steps):
        turn = detector.settings.turn(step, settings.steps)
        for group, (name, part) in zip(optimizer.param_groups, parts.items(), strict=True):
            span = spans[name]
            group["lr"] = part.learning_rate * learning_rate_factor(
                max(0, step - span.start), len(span), settings.warmup
            )
            if step == span.stop:
                ema.settle(detector, part.parameters)
        generator = seeded_generator(world.device, settings.seed, step, world.rank)
        losses = wrapped(batch_at(step, generator), generator, turn)
        optimizer.zero_grad(set_to_none=True)
        losses["loss"].backward()
        nn.utils.clip_grad_norm_(detector.parameters(), settings.gradient_clip)
        optimizer.step()
        ema.update(detector, step)

        for name, value in losses.items():
            # Losses of parts that take turns are different things.
            shown = turn if name == "loss" and len(parts) > 1 else name
            total.setdefault(shown, []).append(value.detach())
        done = step + 1
        if done % settings.report_every == 0 or done == settings.steps:
            means = _mean_over_ranks(torch.stack([torch.stack(v).mean() for v in total.values()]), world).tolist()
            if not all(map(math.isfinite, means)):
                rates = {part.rate_setting: part.learning_rate for part in parts.values()}
                lower = " or ".join(f"{name} (now {rate:g})" for name, rate in rates.items())
                raise UserError(
                    f"the loss is no number any more at step {done}: start again with a lower {lower}, or with "
                    "training.precision=float32"
                )
            now = time.monotonic()
            if world.rank == 0:
                rate = (done - reported_step) * settings.batch_size / (now - reported_at)
                losses_by_name = dict(zip(total, means, strict=True))
                current = optimizer.param_groups[list(parts).index(turn)]["lr"]
                on_report(Report(done, losses_by_name, current, rate, str(mode)))
            total, reported_step, reported_at = {}, done, now
        if world.rank == 0 and (time.monotonic() - saved_at >= settings.checkpoint_seconds or done == settings.steps):
            on_checkpoint(
                {
                    "step": done,
                    "detector": detector.state_dict(),
                    "ema": ema.model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                }
            )
            saved_at = time.monotonic()
    averaged: Trainable = ema.model.cpu()
    return averaged.run_in(averaged.settings.mode).eval()
