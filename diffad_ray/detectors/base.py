"""Base classes of the detectors: a scorer of images, and a scorer that learns from normal images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal, NamedTuple, Self, get_args

import torch
from torch import Tensor, nn

from diffad_ray.tensors import NormalSquares

Precision = Literal["float32", "bfloat16"]
RuntimeName = Literal["torch", "openvino"]
DTYPES: dict[Precision, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Mode(NamedTuple):
    """The memory format, `channels_last` or contiguous, and the arithmetic precision in which networks run."""

    channels_last: bool
    precision: Precision

    def __str__(self) -> str:
        return f"{self.precision} {'channels-last' if self.channels_last else 'contiguous'}"

    @property
    def memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def laid_out(self, images: Tensor) -> Tensor:
        """Return images [N,C,H,W] in this memory format."""
        return images.contiguous(memory_format=self.memory_format)


class Detection(NamedTuple):
    """Scores, maps and reconstructions of N images; float32."""

    score: Tensor
    "[N] anomaly scores, in log odds where the kind does not say otherwise; higher is more anomalous"
    anomaly_map: Tensor
    "[N,H,W] anomaly scores of the pixels, in the unit of `score`; where familiarity judges, sharper than what scores"
    reconstruction: Tensor | None
    "[N,3,H,W] in [0, 1]: the image reconstructed without its anomaly; None for a kind that reconstructs nothing"


class TrainingBatch(NamedTuple):
    """The images of one training step on one rank: N of them, in [0, 1], on one device.

    Attributes:
        normals: [N,3,H,W] normal images.
        foregrounds: [N,1,H,W] bool masks of the product; None means everywhere.
        textures: [K,3,H,W] images for the appearance of pseudo-anomalies, or None.
        defective: [N,3,H,W] images of defective parts, for detectors that learn from them, else None.
    """

    normals: Tensor
    foregrounds: Tensor | None = None
    textures: Tensor | None = None
    defective: Tensor | None = None


NETWORKS = "networks"
"Name of the only part of a detector whose networks all learn together."


class Part(NamedTuple):
    """A group of a detector's parameters that one optimiser trains.

    Attributes:
        name: one of `DetectorSettings.part_names`.
        parameters: the parameters of the part's networks.
        learning_rate: peak of the learning-rate schedule.
        span: first and last step of the part's training, as shares of all steps. After the last step the part keeps its
            averaged weights.
        betas: Adam's betas.
        rate_setting: name of the setting that a user should lower if the training diverges.
    """

    name: str
    parameters: list[nn.Parameter]
    learning_rate: float
    span: tuple[float, float] = (0.0, 1.0)
    betas: tuple[float, float] = (0.9, 0.999)
    rate_setting: str = "training.learning_rate"


@dataclass(frozen=True, kw_only=True)
class DetectorSettings(ABC):
    """Settings of every detector. Each of them changes scores, so all enter the fingerprint.

    Attributes:
        image_size: side in pixels of the networks' square inputs.
        view: `whole` stretches an image to one square; `tiles` cuts the image, at its own scale, into overlapping ones.
        tile_overlap: least overlap of adjacent tiles, as a share of their side, in [0, 0.9).
        tile_scale: factor in (0, 1] by which an image is shrunk before it is cut.
        white: the value of white in files with more than 8 bits, such as 4095 where a camera's 12 bits are stored in
            16. None takes the largest value of the file's type. Files of 8 bits ignore this setting.
        reduced_jpeg: JPEGs of at least four times `image_size` a side are decoded at 1/2, 1/4 or 1/8 of their size,
            which is faster. Both sides keep twice `image_size` at least. For the view `whole` alone.
        precision: arithmetic precision of the networks in scoring, chosen at the end of the training.
        channels_last: memory format of images and weights in scoring, chosen together with the precision. Kernels of
            the two formats round differently.
        cpu_batch, gpu_batch: squares that the networks see at a time in scoring, on a CPU and on a GPU. Kernels round
            differently for different numbers of them. On a CPU, a large batch leaves the cache, and one image that is
            served alone costs a whole batch; so the end of the training settles what pays. A GPU needs many.
        runtime: the library that computes the networks on CPUs, chosen together with the precision. GPUs take torch.
    """

    image_size: int = 128
    view: Literal["whole", "tiles"] = "whole"
    tile_overlap: float = 0.25
    tile_scale: float = 1.0
    white: int | None = None
    reduced_jpeg: bool = False
    precision: Precision = "float32"
    channels_last: bool = False
    cpu_batch: int = 4
    gpu_batch: int = 64
    runtime: RuntimeName = "torch"

    part_names: ClassVar[tuple[str, ...]] = (NETWORKS,)
    "Names of the parts that learn by gradients; empty for a kind without networks."

    def __post_init__(self) -> None:
        if self.view not in ("whole", "tiles"):
            raise ValueError(f"view {self.view!r} is neither 'whole' nor 'tiles'")
        if not 0 <= self.tile_overlap < 0.9:
            raise ValueError(f"tile_overlap {self.tile_overlap} must lie in [0, 0.9)")
        if not 0 < self.tile_scale <= 1:
            raise ValueError(f"tile_scale {self.tile_scale} must lie in (0, 1]")
        if self.white is not None and self.white < 1:
            raise ValueError(f"white {self.white} must be the value of white, such as 4095")
        if self.reduced_jpeg and self.view == "tiles":
            raise ValueError("reduced_jpeg is for the view 'whole': tiles show an image at its own scale")
        for name in ("cpu_batch", "gpu_batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} must be 1 or more")
        if self.runtime not in get_args(RuntimeName):
            raise ValueError(f"runtime {self.runtime!r} is none of {', '.join(get_args(RuntimeName))}")

    @property
    def mode(self) -> Mode:
        """The mode in which the networks run in scoring."""
        return Mode(self.channels_last, self.precision)

    def batch_on(self, device: torch.device) -> int:
        """Return the squares that the networks see at a time in scoring on a device."""
        return self.cpu_batch if device.type == "cpu" else self.gpu_batch

    @property
    def network_calls(self) -> int:
        """Calls of the largest network in the detection of one square; 0 for a kind without networks."""
        return 0

    @property
    def makes_pseudo_anomalies(self) -> bool:
        """Whether a training makes pseudo-anomalies, to which `--textures` lends its appearance."""
        return False

    @property
    def training_scales(self) -> tuple[float, ...]:
        """Sizes of training images, as shares of `image_size`; each training step draws one of them."""
        return (1.0,)

    def turn(self, step: int, steps: int) -> str:
        """Return the name of the part that learns at `step` of `steps`; parts with the same span alternate."""
        return NETWORKS

    @property
    def needs_onnxruntime(self) -> bool:
        """Whether the detector scores with a network in an ONNX file."""
        return False

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @abstractmethod
    def measured_on(self, images: Tensor) -> Self:
        """Return these settings with the statistics of normal images [N,3,H,W] in [0,1] filled in."""


class Scorer(nn.Module, ABC):
    """A module that scores images [N,3,H,W] in [0,1]; H and W are `settings.image_size` unless said otherwise."""

    kind: ClassVar[str]
    settings_class: ClassVar[type[DetectorSettings]]
    settings: DetectorSettings

    def __init__(self, settings: Any):
        super().__init__()
        self.settings = settings
        self.mode: Mode = settings.mode

    def run_in(self, mode: Mode) -> Self:
        """Convert the weights to the memory format of `mode`, and compute in that mode from now on."""
        self.mode = mode
        # nn.Module.to accepts the argument, but its type hints lack it.
        return self.to(memory_format=mode.memory_format)  # type: ignore[call-overload]

    def autocast(self, device: torch.device) -> torch.autocast:
        """Return the autocast context of the networks; the arithmetic around the networks stays in float32."""
        precision = self.mode.precision
        return torch.autocast(device.type, DTYPES[precision], enabled=precision != "float32")

    @abstractmethod
    def detect(self, images: Tensor) -> Detection:
        """Score images. An image's result depends on the image and the detector alone, not on the rest of the batch."""

    def anomaly_map(self, images: Tensor) -> Tensor:
        """Return the anomaly maps [N,H,W] of images [N,3,H,W] in [0,1]."""
        return self.detect(images).anomaly_map

    def score(self, images: Tensor) -> Tensor:
        """Return the scores [N] of images [N,3,H,W] in [0,1]."""
        return self.detect(images).score


class Fitted(NamedTuple):
    """What `Trainable.fit` found.

    Attributes:
        scores: scores of some of the normal images, each by statistics that were fitted without it (cross-fitting), so
            that they tell as held-back images do how high new ones score; empty for a kind that can't.
        tells: image AUROC by which the parts of a detector tell pseudo-anomalies from normal squares, by their names;
            empty for a kind of one part.
    """

    scores: Sequence[float] = ()
    tells: Mapping[str, float] = {}


class Trainable(Scorer):
    """A scorer that is trained: its parts by gradient steps, then the rest by `fit`."""

    learns_from: ClassVar[frozenset[str]] = frozenset()
    "`defective` if the training uses defective images in addition to normal ones."

    largest_side: ClassVar[int] = 256
    "Largest side in pixels that a training chooses itself for squares; a larger one would tell the kind no more."

    @abstractmethod
    def parts(self, learning_rate: float | None) -> list[Part]:
        """Return the parts that learn by gradients; an empty list for a kind without networks.

        Args:
            learning_rate: peak rate; None takes a rate that suits the networks.
        """

    @abstractmethod
    def training_losses(self, batch: TrainingBatch, generator: torch.Generator, turn: str) -> dict[str, Tensor]:
        """Return named scalar losses of one step; the part `turn` minimises the one called `loss`.

        Args:
            batch: images on the generator's device.
            generator: source of every random number of the step.
            turn: name of the part that learns in this step, see `DetectorSettings.turn`.
        """

    def require_network(self) -> None:
        """Refuse to train with a network from outside that is missing, or does not fit.

        Raises:
            UserError: a package or a file is missing, can't be used, or would not be.
        """

    def fit(self, normals: NormalSquares, tell: Callable[[str], None]) -> Fitted:
        """Fit statistics of normal images after the gradient steps, in the precision and memory format of scoring.

        Args:
            normals: normal squares.
            tell: receives progress messages.

        Raises:
            UserError: the images are too few for this kind.
        """
        return Fitted()

    def forward(self, batch: TrainingBatch, generator: torch.Generator, turn: str) -> dict[str, Tensor]:
        """Call `training_losses`; DistributedDataParallel synchronises gradients through `forward` alone.

        All parts but `turn` are frozen; gradients still pass through the frozen ones.
        """
        for part in self.parts(None):
            for parameter in part.parameters:
                parameter.requires_grad_(part.name == turn)
        return self.training_losses(batch, generator, turn)
