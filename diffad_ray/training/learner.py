"""A detector in training: the mode in which its networks run, its optimizer, and its averaged weights."""

from __future__ import annotations

import copy
import logging
import math
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from diffad_ray.detectors.base import Mode, Precision, Trainable, TrainingBatch
from diffad_ray.diffusion.noise import seeded_generator
from diffad_ray.errors import UserError
from diffad_ray.inference.acceleration import fastest_mode
from diffad_ray.inference.processor import has_bfloat16
from diffad_ray.networks.ema import Ema
from diffad_ray.networks.learning_rate import rise_and_fall
from diffad_ray.training.batches import Images, Source, World
from diffad_ray.training.settings import TrainingSettings

log = logging.getLogger(__name__)
TRIAL_IMAGES = 4
LOWEST_RATE = 0.01
"The share of the peak learning rate at which a training ends."
State = dict[str, Any]


def _choose_mode(detector: Trainable, batch: TrainingBatch, turn: str, wanted: str, world: World) -> Mode:
    """Return the fastest mode for a training step, tried on a copy of the detector. All ranks take that of rank 0."""
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
    if wanted == "bfloat16" or (wanted == "auto" and has_bfloat16(world.device)):
        precisions.append("bfloat16")
    found = fastest_mode(step, precisions, world.device)
    log.info("training runs in %s", found)
    choice = [found.mode]
    if world.size > 1:
        dist.broadcast_object_list(choice, src=0)
    return Mode(*choice[0])


def prepared(detector: Trainable, images: Images, settings: TrainingSettings, world: World) -> tuple[Learner, Source]:
    """Return a detector ready for its first step, on its device and in the mode that was chosen, and its batches."""
    torch.manual_seed(settings.seed)
    detector = detector.to(world.device).train()
    source = Source(images, detector.settings.training_scales, settings, world)
    first = source.at(0, detector.mode, seeded_generator(world.device, settings.seed))
    mode = _choose_mode(detector, first, detector.settings.turn(0, settings.steps), settings.precision, world)
    return Learner(detector.run_in(mode), mode, settings, world), source


class Learner:
    """A detector in training, with its optimizer and averaged weights."""

    def __init__(self, detector: Trainable, mode: Mode, settings: TrainingSettings, world: World):
        self.detector, self.mode, self.settings, self.world = detector, mode, settings, world
        self.parts = {part.name: part for part in detector.parts(settings.learning_rate)}
        self.spans = {
            name: range(*(round(share * settings.steps) for share in part.span)) for name, part in self.parts.items()
        }
        names = {id(parameter): name for name, parameter in detector.named_parameters()}
        starts = {names[id(p)]: self.spans[part.name].start for part in self.parts.values() for p in part.parameters}
        self.ema = Ema(detector, settings.ema_decay, starts)
        self.optimizer = torch.optim.Adam(
            [{"params": part.parameters, "lr": part.learning_rate, "betas": part.betas} for part in self.parts.values()]
        )
        self.wrapped: nn.Module = detector

    def resume(self, state: State) -> int:
        """Load a state, and return the step at which to continue."""
        self.detector.load_state_dict(state["detector"])
        self.ema.model.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        step: int = state["step"]
        return step

    def distribute(self) -> None:
        """Average gradients over all ranks, if there are several."""
        if self.world.size > 1:
            self.wrapped = DistributedDataParallel(
                self.detector,
                [self.world.device] if self.world.device.type == "cuda" else None,
                # If parts take turns, only one of them has gradients in a step.
                find_unused_parameters=len(self.parts) > 1,
            )

    def step(self, step: int, source: Source) -> tuple[dict[str, Tensor], str]:
        """Take a step, and return its losses and the name of the part whose turn it was."""
        turn = self.detector.settings.turn(step, self.settings.steps)
        for group, (name, part) in zip(self.optimizer.param_groups, self.parts.items(), strict=True):
            span = self.spans[name]
            factor = rise_and_fall(max(0, step - span.start), len(span), self.settings.warmup, LOWEST_RATE)
            group["lr"] = part.learning_rate * factor
            if step == span.stop:
                self.ema.settle(self.detector, part.parameters)
        generator = seeded_generator(self.world.device, self.settings.seed, step, self.world.rank)
        losses: dict[str, Tensor] = self.wrapped(source.at(step, self.mode, generator), generator, turn)
        self.optimizer.zero_grad(set_to_none=True)
        losses["loss"].backward()
        nn.utils.clip_grad_norm_(self.detector.parameters(), self.settings.gradient_clip)
        self.optimizer.step()
        self.ema.update(self.detector, step)
        return losses, turn

    def learning_rate(self, turn: str) -> float:
        rate: float = self.optimizer.param_groups[list(self.parts).index(turn)]["lr"]
        return rate

    def state(self, done: int) -> State:
        """Return the state that `resume` loads."""
        return {
            "step": done,
            "detector": self.detector.state_dict(),
            "ema": self.ema.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def refuse_lost(self, means: dict[str, float], done: int) -> None:
        """Raise UserError if a loss is not finite."""
        if all(map(math.isfinite, means.values())):
            return
        rates = {part.rate_setting: part.learning_rate for part in self.parts.values()}
        lower = " or ".join(f"{name} (now {rate:g})" for name, rate in rates.items())
        raise UserError(
            f"the loss is not finite at step {done}: start again with a lower {lower}, or with "
            "training.precision=float32"
        )
