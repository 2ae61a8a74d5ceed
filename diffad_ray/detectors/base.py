"""What every detector is: a scorer of images, and something that learns from normal ones."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal, NamedTuple, Self

import torch
from torch import Tensor, nn

from diffad_ray.tensors import NormalSquares

Precision = Literal["float32", "bfloat16"]
DTYPES: dict[Precision, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Mode(NamedTuple):
    """How networks run: `channels_last` or contiguous memory, and the precision of their arithmetic."""

    channels_last: bool
    precision: Precision

    def __str__(self) -> str:
        return f"{self.precision} {'channels-last' if self.channels_last else 'contiguous'}"

    @property
    def memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def laid_out(self, images: Tensor) -> Tensor:
        """Images [N,C,H,W] in this memory format."""
        return images.contiguous(memory_format=self.memory_format)


class Detection(NamedTuple):
    """What a detector says of N images; float32."""

    score: Tensor
    "[N]: how anomalous each image is, in log odds where the kind does not say otherwise; higher is worse"
    anomaly_map: Tensor
    "[N,H,W]: how anomalous each pixel is, in the same unit as `score`"
    reconstruction: Tensor | None
    "[N,3,H,W] in [0, 1]: the image without its anomaly, as the detector imagines it; None where it imagines nothing"


class TrainingBatch(NamedTuple):
    """What a rank learns from in one step: images in [0, 1], N of them, on one device.

    Attributes:
        normals: [N,3,H,W].
        foregrounds: [N,1,H,W] bool, where the product is; None is everywhere.
        textures: images [K,3,H,W] that lend pseudo-anomalies their appearance, or None.
        defective: images [N,3,H,W] of defective parts, for detectors that learn from them, else None.
    """

    normals: Tensor
    foregrounds: Tensor | None = None
    textures: Tensor | None = None
    defective: Tensor | None = None


NETWORKS = "networks"
"The part of a detector that learns all at once."


class Part(NamedTuple):
    """Parameters of a detector that learn together.

    Attributes:
        name: one of `DetectorSettings.part_names`.
        parameters: of its networks.
        learning_rate: peak of its schedule.
        span: the shares of the training's steps between which it learns. At the end it takes its averaged weights.
        betas: of Adam.
        rate_setting: that the user may lower if the training diverges.
    """

    name: str
    parameters: list[nn.Parameter]
    learning_rate: float
    span: tuple[float, float] = (0.0, 1.0)
    betas: tuple[float, float] = (0.9, 0.999)
    rate_setting: str = "training.learning_rate"


@dataclass(frozen=True, kw_only=True)
class DetectorSettings(ABC):
    """Settings that every detector has; all of them change a score, so all enter the fingerprint.

    Attributes:
        image_size: side in pixels of the squares that the networks see.
        view: `whole` stretches an image to one square; `tiles` cuts it, at its own scale, into overlapping ones.
        tile_overlap: share of a tile's side, in [0, 0.9), that it has in common with the next one, or more.
        tile_scale: factor in (0, 1] by which an image is shrunk before it is cut.
        white: the value of white in files that have room for more, such as 4095 where 12 bits of a camera are stored in
            16. None takes the largest value that a file can hold. Files of 8 bits are read as they are.
        precision: arithmetic of the networks in scoring, settled at the end of the training.
        channels_last: the memory format of images and weights in scoring, settled with the precision. Kernels of the
            two formats round differently.
    """

    image_size: int = 128
    view: Literal["whole", "tiles"] = "whole"
    tile_overlap: float = 0.25
    tile_scale: float = 1.0
    white: int | None = None
    precision: Precision = "float32"
    channels_last: bool = False

    part_names: ClassVar[tuple[str, ...]] = (NETWORKS,)
    "Of the parts that learn by gradients; none for a kind without networks."

    def __post_init__(self) -> None:
        if self.view not in ("whole", "tiles"):
            raise ValueError(f"view {self.view!r} is neither 'whole' nor 'tiles'")
        if not 0 <= self.tile_overlap < 0.9:
            raise ValueError(f"tile_overlap {self.tile_overlap} must lie in [0, 0.9)")
        if not 0 < self.tile_scale <= 1:
            raise ValueError(f"tile_scale {self.tile_scale} must lie in (0, 1]")
        if self.white is not None and self.white < 1:
            raise ValueError(f"white {self.white} must be the value of white, such as 4095")

    @property
    def mode(self) -> Mode:
        """How the networks run in scoring."""
        return Mode(self.channels_last, self.precision)

    @property
    def training_scales(self) -> tuple[float, ...]:
        """Sizes of training images, as shares of `image_size`; a training draws one a step."""
        return (1.0,)

    def turn(self, step: int, steps: int) -> str:
        """Name of the part that learns at a step of so many; parts with the same span take turns."""
        return NETWORKS

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @abstractmethod
    def measured_on(self, images: Tensor) -> Self:
        """These settings with what must be measured on normal images [N,3,H,W] in [0,1] filled in."""


class Scorer(nn.Module, ABC):
    """What gives images their scores. Images are [N,3,H,W] in [0,1], H and W as `settings.image_size` unless said
    otherwise."""

    kind: ClassVar[str]
    settings_class: ClassVar[type[DetectorSettings]]
    settings: DetectorSettings

    def __init__(self, settings: Any):
        super().__init__()
        self.settings = settings
        self.mode: Mode = settings.mode

    def run_in(self, mode: Mode) -> Self:
        """Lay the weights out and compute as `mode` says from now on."""
        self.mode = mode
        # nn.Module.to knows the argument, its type hints do not.
        return self.to(memory_format=mode.memory_format)  # type: ignore[call-overload]

    def autocast(self, device: torch.device) -> torch.autocast:
        """Context in which the networks run, and only they: the arithmetic around them stays in float32."""
        precision = self.mode.precision
        return torch.autocast(device.type, DTYPES[precision], enabled=precision != "float32")

    @abstractmethod
    def detect(self, images: Tensor) -> Detection:
        """Scores, maps and reconstructions. Deterministic: an image's result depends on it and the detector alone."""

    def anomaly_map(self, images: Tensor) -> Tensor:
        """Anomaly map [N,H,W] of images [N,3,H,W] in [0,1]."""
        return self.detect(images).anomaly_map

    def score(self, images: Tensor) -> Tensor:
        """Scores [N] of images [N,3,H,W] in [0,1]."""
        return self.detect(images).score


class Trainable(Scorer):
    """A scorer that learns: its parts by gradients, in training steps, and then the rest by `fit`."""

    learns_from: ClassVar[frozenset[str]] = frozenset()
    "Which of `textures` and `defective` its training takes beside normal images."

    @abstractmethod
    def parts(self, learning_rate: float | None) -> list[Part]:
        """What learns by gradients, and when; at the given peak rate, or at what suits the networks where it is None.

        A kind without networks has none.
        """

    @abstractmethod
    def training_losses(self, batch: TrainingBatch, generator: torch.Generator, turn: str) -> dict[str, Tensor]:
        """Named scalar losses of one step; `loss` is the one to minimise, by the part whose turn it is.

        Args:
            batch: on the generator's device.
            generator: source of every random number of the step.
            turn: name of the part whose turn it is, see `DetectorSettings.turn`.
        """

    def fit(self, normals: NormalSquares, tell: Callable[[str], None]) -> None:
        """Learn from normal images what is not learnt by gradients, when all parts have learnt. The precision and the
        memory format of scoring are settled by then.

        Args:
            tell: is told now and then what is done, and how far that is.

        Raises:
            UserError: the images are too few for this kind.
        """

    def forward(self, batch: TrainingBatch, generator: torch.Generator, turn: str) -> dict[str, Tensor]:
        """`training_losses`, under the name through which DistributedDataParallel synchronises gradients.

        The parts whose turn it is not are frozen, though gradients pass through them.
        """
        for part in self.parts(None):
            for parameter in part.parameters:
                parameter.requires_grad_(part.name == turn)
        return self.training_losses(batch, generator, turn)
