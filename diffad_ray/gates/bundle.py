"""The gate of a detector as files: a folder `gate` in the detector's bundle, without pickle."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError

from diffad_ray import storage
from diffad_ray.bundles.bundle import Bundle
from diffad_ray.errors import UserError
from diffad_ray.gates.evidence import Evidence, Opening, opening
from diffad_ray.gates.look import Look, gaussians_of
from diffad_ray.gates.student import SIDE, Student

FOLDER, WEIGHTS, DESCRIPTION = "gate", "gate.safetensors", "gate.json"
GATE_SCHEMA = 1
LOOKS = ("student", "gaussians", "both")
STUDENT, EVIDENCE = "student.", "evidence."


@dataclass(frozen=True)
class Gate:
    """The gate of a detector.

    Attributes:
        kind: one of `LOOKS`, what it looks by.
        look: the module, in eval mode, on the CPU.
        evidence: what gate and detector say of images that set the limit.
        missed: the share of flagged images that may pass, in (0, 1).
        facts: record of how it was made.
        fingerprint: 16 hex digits, a hash of all that decides which images pass.
    """

    kind: str
    look: Look
    evidence: Evidence
    missed: float
    facts: dict[str, Any]
    fingerprint: str = ""

    def opening(self, threshold: float) -> Opening:
        """Return where the gate opens for a threshold of its detector."""
        return opening(self.evidence, threshold, self.missed)


def save_gate(gate: Gate, bundle: Bundle, location: str) -> str:
    """Write a gate into the bundle at a location, and return its fingerprint. The detector's files stay as they are."""
    folder = f"{storage.normalised(location)}/{FOLDER}"
    state = {f"{EVIDENCE}{name}": torch.from_numpy(np.ascontiguousarray(value)) for name, value in _fields(gate)}
    state |= {"usual": gate.look.usual, "spread": gate.look.spread}
    if gate.look.student is not None:
        state |= {STUDENT + name: value for name, value in gate.look.student.state_dict().items()}
    weights = safetensors.torch.save({name: value.detach().cpu().contiguous() for name, value in state.items()})
    description = {
        "schema_version": GATE_SCHEMA,
        "detector_fingerprint": bundle.fingerprint,
        "looks_by": gate.kind,
        "missed": gate.missed,
        "facts": gate.facts,
        "weights": {"file": WEIGHTS, "bytes": len(weights), "sha256": hashlib.sha256(weights).hexdigest()},
    }
    storage.delete(f"{folder}/{DESCRIPTION}")
    storage.write(f"{folder}/{WEIGHTS}", weights)
    storage.write(f"{folder}/{DESCRIPTION}", json.dumps(description, indent=1).encode())
    return _fingerprint(description)


def load_gate(location: str, bundle: Bundle) -> Gate:
    """Read the gate of a detector.

    Args:
        location: of the detector's bundle.
        bundle: the detector, whose familiarity the gate may use.

    Raises:
        UserError: there is none, it is damaged, was made for another detector, or by a newer version.
    """
    folder = f"{storage.normalised(location)}/{FOLDER}"
    make = f"make one with `diffad-ray gate {location}`"
    try:
        description = json.loads(storage.read(f"{folder}/{DESCRIPTION}"))
        weights = storage.read(f"{folder}/{WEIGHTS}")
    except FileNotFoundError:
        raise UserError(f"the detector {location} has no gate: {make}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{folder}/{DESCRIPTION} is damaged ({error}): {make}") from error
    except OSError as error:
        raise UserError(f"the gate of {location} can't be read: {error}") from error
    try:
        if description["schema_version"] != GATE_SCHEMA:
            raise UserError(f"the gate of {location} is of another version of diffad-ray: {make}")
        if description["detector_fingerprint"] != bundle.fingerprint:
            raise UserError(f"the gate of {location} was made for another detector: {make}")
        if hashlib.sha256(weights).hexdigest() != description["weights"]["sha256"]:
            raise UserError(f"{folder}/{WEIGHTS} is damaged: {make}")
        state = safetensors.torch.load(weights)
        evidence = Evidence(**{name: state.pop(f"{EVIDENCE}{name}").numpy() for name in ("group", "gate", "full")})
        look = _look(description["looks_by"], state, bundle)
        return Gate(
            description["looks_by"],
            look,
            evidence,
            float(description["missed"]),
            description["facts"],
            _fingerprint(description),
        )
    except (KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(f"the gate of {location} is damaged ({error}): {make}") from error


def _look(kind: str, state: dict[str, torch.Tensor], bundle: Bundle) -> Look:
    student = None
    if kind != "gaussians":
        student = Student(min(bundle.detector.settings.image_size, SIDE), is_fused=True)
        student.load_state_dict({n.removeprefix(STUDENT): v for n, v in state.items() if n.startswith(STUDENT)})
    return look_by(kind, student, bundle, state["usual"], state["spread"])


def look_by(kind: str, student: Student | None, bundle: Bundle, usual: torch.Tensor, spread: torch.Tensor) -> Look:
    """Return the look of a kind, one of `LOOKS`, for a detector.

    Raises:
        ValueError: there is no such kind, or the detector has no familiarity for it.
    """
    if kind not in LOOKS:
        raise ValueError(f"{kind!r} is none of {', '.join(LOOKS)}")
    familiarity = None if kind == "student" else gaussians_of(bundle.detector)
    if kind != "student" and familiarity is None:
        raise ValueError("the detector has no familiarity by Gabor features alone")
    return Look(student if kind != "gaussians" else None, familiarity, usual, spread)


def _fields(gate: Gate) -> list[tuple[str, np.ndarray]]:
    return [(name, getattr(gate.evidence, name)) for name in ("group", "gate", "full")]


def _fingerprint(description: dict[str, Any]) -> str:
    """Recomputed from what is in force, because a promise that was edited by hand makes another gate."""
    names = ("detector_fingerprint", "looks_by", "missed")
    text = json.dumps([*(description[name] for name in names), description["weights"]["sha256"]])
    return hashlib.sha256(text.encode()).hexdigest()[:16]
