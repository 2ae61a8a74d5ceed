"""Makes the gate of a trained detector."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

import torch

from diffad_ray import storage
from diffad_ray.bundles.bundle import Bundle, load_bundle
from diffad_ray.detectors.judged import JudgedDetector
from diffad_ray.errors import UserError, percent
from diffad_ray.familiarity.samples import Tell
from diffad_ray.gates.bound import fewest_flagged
from diffad_ray.gates.bundle import LOOKS, Gate, look_by, save_gate
from diffad_ray.gates.evidence import Opening, opening
from diffad_ray.gates.learning import taught
from diffad_ray.gates.look import gaussians_of
from diffad_ray.gates.proof import Proof, components
from diffad_ray.gates.samples import Recipe, scored_samples
from diffad_ray.gates.student import Student
from diffad_ray.inference.engine import Engine, default_device
from diffad_ray.training.augmentation import Augmentation
from diffad_ray.training.defective import find_defective
from diffad_ray.training.normals import NormalImages, find_normals, load_normals, load_textures
from diffad_ray.training.settings import TrainingSettings
from diffad_ray.training.tune import training_images
from diffad_ray.versions import VERSION

MOST_SQUARES = 1500
PSEUDO_SHARE = 0.6
"Share of the student's samples with a pseudo-anomaly."
WORTHWHILE = 0.03
"Share of good images that a gate must pass more to be taken instead of one that costs less."
HELD_BACK = 0.4
"Of normal images that are given for the gate, the share that sets the limit."


@dataclass(frozen=True, kw_only=True)
class GateSettings:
    """How a gate is made.

    Attributes:
        normals: folder or URI of good images that the detector was not trained on; None takes those of its training.
        defects: folders of defective images, or tables of labels; the gate passes none of them that the detector flags.
        missed: share of what the detector flags that the gate may pass, in (0, 1).
        threshold: score from which the detector flags an image; None takes its own.
        samples: number of samples that the student learns from.
        epochs: times that it sees each of them.
        looks: which of the looks are tried.
        seed: of all random choices.
    """

    normals: str | None = None
    defects: tuple[str, ...] = ()
    missed: float = 0.001
    threshold: float | None = None
    samples: int = 2000
    epochs: int = 12
    looks: tuple[str, ...] = LOOKS
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.missed < 1:
            raise UserError(f"missed {self.missed} must lie between 0 and 1: 0.001 may lose one flagged image in 1,000")
        if self.samples < 64 or self.epochs < 1:
            raise UserError("a student needs 64 samples and 1 epoch at the least")
        if not self.looks or set(self.looks) - set(LOOKS):
            raise UserError(f"looks {self.looks} must be one or more of {', '.join(LOOKS)}")


@dataclass(frozen=True)
class MadeGate:
    """A gate that was made, where it opens at the threshold that it was made for, and which share of the held-back good
    images each look passes."""

    gate: Gate
    opening: Opening
    passes: dict[str, float]

    @property
    def flagged(self) -> dict[str, tuple[int, int]]:
        """For each group of images how many the detector flags, and of how many."""
        return {name: (flagged, of) for name, (flagged, of) in self.gate.facts["flagged"].items()}

    def summary(self) -> dict[str, Any]:
        """Return what a program wants to know of the gate."""
        found = self.opening
        return {
            "fingerprint": self.gate.fingerprint,
            "looks_by": self.gate.kind,
            "limit": found.limit,
            "threshold": found.threshold,
            "promise": found.missed,
            "flagged": found.flagged,
            "missed": asdict(found.proof),
            "passes": asdict(found.passes),
            "facts": self.gate.facts,
        }


def make_gate(detector: str, settings: GateSettings | None = None, tell: Tell = lambda doing: None) -> MadeGate:
    """Make the gate of a detector, and write it into the detector's bundle, whose other files stay as they are.

    Args:
        detector: folder or URI of a bundle.
        settings: by default those of `GateSettings`.
        tell: receives progress messages.

    Raises:
        UserError: there is no such detector, its images are gone, too few samples are flagged for the promise, or no
            gate would pass any image. Nothing has been written then.

    Example:
        >>> made = make_gate("detectors/part", GateSettings(missed=0.001))  # doctest: +SKIP
        >>> made.opening.passes.value  # the share of good images that need no detector  # doctest: +SKIP
        0.72
    """
    wanted, location = settings or GateSettings(), storage.normalised(detector)
    bundle = load_bundle(location)
    if not isinstance(bundle.detector, JudgedDetector):
        raise UserError(f"a detector of the kind {bundle.detector.kind} gives no log odds, and can't have a gate")
    looks = [kind for kind in wanted.looks if kind == "student" or gaussians_of(bundle.detector)]
    if not looks:
        raise UserError(
            f"{location} has no familiarity by Gabor features alone, so its gate can look by a student only"
        )
    threshold = bundle.calibration.threshold if wanted.threshold is None else wanted.threshold
    engine = Engine(bundle.detector, default_device())
    images, recipe = _images(bundle, wanted), _recipe(bundle, wanted.seed)
    named = [storage.normalised(location) for location in wanted.defects]
    defects = list(find_defective(named, {*images.learnt, *images.held_back}))
    student = None if looks == ["gaussians"] else _student(engine, images.learnt, recipe, wanted, threshold, tell)
    proof = Proof(engine, components(student, bundle.detector, looks), threshold, tell)
    proof.add_images(images.held_back, "normal")
    proof.add_images(defects, "defect")
    squares, _, _ = load_normals(images.held_back, bundle.detector.settings, MOST_SQUARES, wanted.seed)
    proof.add_samples(squares, recipe, fewest_flagged(wanted.missed))
    passes = {kind: opening(*proof.for_choice(kind)).passes.value for kind in looks}
    kind = next(kind for kind in looks if passes[kind] >= max(passes.values()) - WORTHWHILE)
    usual, spread = proof.scale()
    look = look_by(kind, student, bundle, torch.tensor(usual), torch.tensor(spread))
    gate = Gate(kind, look, proof.for_limit(kind), wanted.missed, _facts(wanted, proof, passes))
    found = gate.opening(threshold)
    if not len(found.gate):
        raise UserError(
            f"no gate would pass a good image of {location} if it may lose {percent(wanted.missed)} of what the "
            "detector flags: raise --missed, let the student learn from more --samples, or score without a gate"
        )
    return MadeGate(replace(gate, fingerprint=save_gate(gate, bundle, location)), found, passes)


def _images(bundle: Bundle, wanted: GateSettings) -> NormalImages:
    """Return the normal images that the student learns from, and those that set the limit."""
    if wanted.normals is None:
        return training_images(bundle, "--normals")
    most = TrainingSettings().max_images
    return find_normals(storage.normalised(wanted.normals), HELD_BACK, most, wanted.seed)


def _recipe(bundle: Bundle, seed: int) -> Recipe:
    """Return how samples are made: as in the training of the detector, as far as its record says."""
    detector, training = bundle.detector, bundle.facts.get("settings") or {}
    assert isinstance(detector, JudgedDetector)
    textures = bundle.facts.get("data", {}).get("textures")
    lent = load_textures(textures, detector.settings.image_size, seed) if textures else None
    return Recipe(Augmentation(**training.get("augmentation", {})), detector.settings.anomalies, lent, seed)


def _student(
    engine: Engine, learnt: list[str], recipe: Recipe, wanted: GateSettings, threshold: float, tell: Tell
) -> Student:
    squares, _, _ = load_normals(learnt, engine.detector.settings, MOST_SQUARES, wanted.seed)
    own = recipe.with_share(PSEUDO_SHARE, wanted.seed)
    samples = scored_samples(engine, squares, wanted.samples, own, tell)
    return taught(samples, threshold, wanted.epochs, wanted.seed, tell)


def _facts(wanted: GateSettings, proof: Proof, passes: dict[str, float]) -> dict[str, object]:
    return {
        "settings": asdict(wanted),
        "threshold": proof.threshold,
        "flagged": proof.flagged_by_group(),
        "passes": passes,
        "unreadable": proof.problems,
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"diffad-ray": VERSION, "torch": torch.__version__},
    }
