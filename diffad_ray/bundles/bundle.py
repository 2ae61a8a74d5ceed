"""The detector bundle: a folder with `model.safetensors` and `detector.json`, at any location, without pickle."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any

import safetensors.torch
from safetensors import SafetensorError

from diffad_ray import storage
from diffad_ray.bundles.calibration import Calibration
from diffad_ray.detectors.base import Trainable
from diffad_ray.detectors.kinds import find_detector
from diffad_ray.errors import UserError
from diffad_ray.versions import BUNDLE_SCHEMA

WEIGHTS, DESCRIPTION = "model.safetensors", "detector.json"


@dataclass
class Bundle:
    """A detector with its calibration and the record of its training.

    Attributes:
        detector: the module, in eval mode, on the CPU.
        calibration: the distribution of normal scores, and the threshold.
        facts: record of the training: data, steps, losses, machine, code version.
        name: short name for tables; the last part of the bundle's location.
        fingerprint: 16 hex digits, a hash of the weights and of all settings that change a score.
    """

    detector: Trainable
    calibration: Calibration
    facts: dict[str, Any] = field(default_factory=dict)
    name: str = ""
    fingerprint: str = ""

    def summary(self) -> dict[str, Any]:
        """Return what a program wants to know of a training: names, settings, threshold, and the record."""
        calibration = self.calibration
        return {
            "name": self.name,
            "fingerprint": self.fingerprint,
            "kind": self.detector.kind,
            "threshold": calibration.threshold,
            "false_alarm_rate": calibration.false_alarm_rate,
            "calibration_images": calibration.images,
            "settings": self.detector.settings.as_dict(),
            "training": self.facts,
        }


def _fingerprint(kind: str, settings: dict[str, Any], weights_sha256: str) -> str:
    settings_text = json.dumps(settings, sort_keys=True)
    return hashlib.sha256(f"{kind}\n{settings_text}\n{weights_sha256}".encode()).hexdigest()[:16]


def save_bundle(bundle: Bundle, location: str) -> Bundle:
    """Write a bundle, and return it with name and fingerprint filled in.

    The description is written last and contains the hash of the weights, so that an interrupted write is detected.
    """
    location = storage.normalised(location)
    settings = json.loads(json.dumps(bundle.detector.settings.as_dict()))
    kind = bundle.detector.kind
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in bundle.detector.state_dict().items()}
    # A single metadata key, because safetensors writes several in random order, which would change the hash.
    weights = safetensors.torch.save(state, {"detector": json.dumps({"kind": kind, "settings": settings})})
    digest = hashlib.sha256(weights).hexdigest()
    bundle.name = location.rsplit("/", 1)[-1]
    bundle.fingerprint = _fingerprint(kind, settings, digest)
    description = {
        "schema_version": BUNDLE_SCHEMA,
        "kind": kind,
        "fingerprint": bundle.fingerprint,
        "settings": settings,
        "calibration": asdict(bundle.calibration),
        "training": bundle.facts,
        "weights": {"file": WEIGHTS, "bytes": len(weights), "sha256": digest},
    }
    storage.delete(f"{location}/{DESCRIPTION}")
    storage.write(f"{location}/{WEIGHTS}", weights)
    storage.write(f"{location}/{DESCRIPTION}", json.dumps(description, indent=1).encode())
    return bundle


def load_description(location: str) -> dict[str, Any]:
    """Read `detector.json`.

    Raises:
        UserError: there is none, it is damaged, or its schema version is not one that this code reads.
    """
    location = storage.normalised(location)
    try:
        description = json.loads(storage.read(f"{location}/{DESCRIPTION}"))
    except FileNotFoundError:
        raise UserError(
            f"no detector at {location}: it has no {DESCRIPTION}. Train one there with "
            f"`diffad-ray train FOLDER --detector {location}`, or finish an interrupted training by the same command"
        ) from None
    except PermissionError as error:
        raise UserError(f"the detector at {location} can't be read: {error}") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{location}/{DESCRIPTION} is damaged ({error}): copy the bundle again") from error
    version = description.get("schema_version") if isinstance(description, dict) else None
    if isinstance(version, int) and version < BUNDLE_SCHEMA:
        raise UserError(
            f"the detector at {location} was written by a version of diffad-ray before its first release, whose scores "
            "this one can't repeat: train it again"
        )
    if not isinstance(version, int) or version > BUNDLE_SCHEMA:
        raise UserError(
            f"the detector at {location} has schema version {version}, this diffad-ray reads up to "
            f"{BUNDLE_SCHEMA}: update it with `pip install -U diffad-ray`"
        )
    return description


def load_bundle(location: str) -> Bundle:
    """Read a bundle from a folder or URI, onto the CPU.

    Raises:
        UserError: there is none, it is damaged, or it was written by a newer version.

    Example:
        >>> bundle = load_bundle("detectors/screws")  # doctest: +SKIP
        >>> bundle.detector.score(images)  # [N,3,H,W] in [0, 1] -> [N]  # doctest: +SKIP
    """
    location = storage.normalised(location)
    description = load_description(location)
    try:
        weights = storage.read(f"{location}/{WEIGHTS}")
    except FileNotFoundError:
        raise UserError(f"the detector at {location} lacks {WEIGHTS}: copy the bundle again") from None
    try:
        expected = description["weights"]
        if hashlib.sha256(weights).hexdigest() != expected["sha256"]:
            raise UserError(
                f"{location}/{WEIGHTS} is damaged: {len(weights)} bytes with another hash than the "
                f"{expected['bytes']} bytes that {DESCRIPTION} names. Copy the bundle again"
            )
        detector_class = find_detector(description["kind"])
        settings = description["settings"]
        detector = detector_class(detector_class.settings_class(**settings))
        detector.load_state_dict(safetensors.torch.load(weights))
        return Bundle(
            detector=detector.eval(),
            calibration=Calibration(**description["calibration"]),
            facts=description["training"],
            name=location.rsplit("/", 1)[-1],
            # The fingerprint is recomputed, because settings that were edited by hand make another detector.
            fingerprint=_fingerprint(description["kind"], description["settings"], expected["sha256"]),
        )
    except (KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(f"the detector at {location} is damaged ({error}): copy the bundle again") from error
