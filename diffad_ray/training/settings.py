"""How a detector is trained: the section `[training]` of a settings file."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from diffad_ray.bundles.calibration import FALSE_ALARM_RATE
from diffad_ray.training.augmentation import Augmentation


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """How a detector is trained.

    Attributes:
        minutes: time that the training may take, about. If it is given, the training chooses what is not given of the
            side, the view, the preset and the steps; None takes the defaults.
        smallest_defect: size in pixels of the images of the smallest defect that matters. If it is given, the training
            chooses side, view and scale of tiles so that such a defect keeps three pixels.
        steps: optimizer steps.
        batch_size: images a step, over all workers together.
        learning_rate: peak of the schedule, which rises linearly over `warmup` of the steps and falls as a cosine; None
            takes what suits the width of the networks.
        warmup: share of the steps, in [0, 1).
        ema_decay: of the averaged weights, which become the detector; ramps up over the first steps.
        gradient_clip: largest norm of the gradient.
        precision: arithmetic of the networks, in training and scoring; `auto` chooses by short trials.
        scoring_runtime: library that computes the networks when the detector scores on CPUs; `auto` takes OpenVINO
            where it is installed and clearly faster.
        scoring_batch: squares that the networks see at a time when the detector scores on CPUs; None tries some numbers
            and takes the smallest that is about as fast as the fastest.
        held_back: share of the normal images kept out of training for calibration, if no others are given for that.
        false_alarm_rate: share of normal images that the threshold may call anomalous.
        max_images: a larger set of images, and then of their tiles, is sampled down to this many, because each worker
            keeps its share in memory.
        checkpoint_seconds: time between checkpoints.
        report_every: steps between two lines of the loss table.
        augmentation: how the normal images are varied.
        tensorboard: folder for event files with the losses; None writes none. On a cluster, it is a folder of the node
            of rank 0.
        seed: of every random choice.
    """

    minutes: float | None = None
    smallest_defect: float | None = None
    steps: int = 2000
    batch_size: int = 16
    learning_rate: float | None = None
    warmup: float = 0.05
    ema_decay: float = 0.999
    gradient_clip: float = 1.0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    scoring_runtime: Literal["auto", "torch", "openvino"] = "auto"
    scoring_batch: int | None = None
    held_back: float = 0.1
    false_alarm_rate: float = FALSE_ALARM_RATE
    max_images: int = 20_000
    checkpoint_seconds: float = 120.0
    report_every: int = 10
    augmentation: Augmentation = field(default_factory=Augmentation)
    tensorboard: str | None = None
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
        for name in ("minutes", "smallest_defect"):
            if (value := getattr(self, name)) is not None and value <= 0:
                raise ValueError(f"{name} must be above 0, not {value}")
        if self.scoring_runtime not in ("auto", "torch", "openvino"):
            raise ValueError(f"scoring_runtime {self.scoring_runtime!r} is none of 'auto', 'torch', 'openvino'")
        if self.scoring_batch is not None and self.scoring_batch < 1:
            raise ValueError(f"scoring_batch must be 1 or more, not {self.scoring_batch}")
        if not 0 < self.false_alarm_rate < 1:
            raise ValueError(f"false_alarm_rate must lie between 0 and 1, not {self.false_alarm_rate}")
        if (self.learning_rate is not None and self.learning_rate <= 0) or self.gradient_clip <= 0:
            raise ValueError("learning_rate and gradient_clip must be above 0")
