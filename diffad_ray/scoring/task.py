"""What is to be scored, from arguments, settings file and overrides to one value that is complete and checked."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from diffad_ray import storage
from diffad_ray.bundles.bundle import load_bundle
from diffad_ray.cluster_settings import ClusterSettings
from diffad_ray.errors import UserError, percent
from diffad_ray.gates.bundle import load_gate
from diffad_ray.images.settings import ImageSettings
from diffad_ray.scoring.first_look import OpenGate
from diffad_ray.scoring.selection import Routed
from diffad_ray.scoring.settings import ScoringSettings
from diffad_ray.settings import build, read_settings
from diffad_ray.table.gates import PlannedGate
from diffad_ray.table.thresholds import in_force

_OF_CLUSTER = {one.name for one in fields(ClusterSettings)}


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is to be scored, and how.

    Attributes:
        archive, table: normalised locations.
        detectors: in the order of the routes, each loaded once, and last the one for what no route matches.
        settings, storage, cluster: complete settings.
        force: whether images that the table has are scored again.
        missing_masks: whether alerts alone are scored again that were judged below the threshold and have no masks.
        applied: by fingerprint, the thresholds that people have put in force.
    """

    archive: str
    table: str
    detectors: list[Routed]
    settings: ScoringSettings
    storage: storage.StorageSettings
    cluster: ClusterSettings
    force: bool = False
    missing_masks: bool = False
    applied: Mapping[str, float] = field(default_factory=dict)

    @property
    def gates(self) -> dict[str, OpenGate]:
        """The gates that take a first look, by fingerprint of the detector."""
        return {detector.bundle.fingerprint: detector.gate for detector in self.detectors if detector.gate}

    @property
    def thresholds(self) -> dict[str, float]:
        """The score from which an image is anomalous, by fingerprint: that of the settings, else the one in force for
        the table, else the detector's own."""
        if self.settings.threshold is not None:
            return {detector.bundle.fingerprint: self.settings.threshold for detector in self.detectors}
        own = {detector.bundle.fingerprint: detector.bundle.calibration.threshold for detector in self.detectors}
        return {fingerprint: self.applied.get(fingerprint, threshold) for fingerprint, threshold in own.items()}

    @property
    def work(self) -> str:
        """Hash of everything that makes a difference to the rows: who asks for it again goes on with an interrupted
        run."""
        rows = {name: value for name, value in asdict(self.settings).items() if name not in ("readers", "shard_images")}
        judges = [(d.patterns, d.bundle.fingerprint, asdict(d.bundle.calibration)) for d in self.detectors]
        again = [self.force, self.missing_masks]
        gates = [asdict(gate.planned) for gate in self.gates.values()]
        work = [self.archive, again, rows, judges, self.thresholds, gates]
        return hashlib.sha256(json.dumps(work).encode()).hexdigest()[:16]


def make_task(
    archive: str | Path,
    table: str | Path,
    detector: str | Path | None,
    *,
    force: bool = False,
    missing_masks: bool = False,
    settings: Mapping[str, Any],
    settings_file: str | None = None,
    overrides: Sequence[str] = (),
) -> Task:
    """Read the settings and load the detectors; from now on this process reads and writes with these settings.

    Args:
        archive, table, detector, force, missing_masks, settings_file, overrides: as `score` takes them.
        settings: any of `ScoringSettings` and `ClusterSettings`; `routes` may map patterns to detectors.

    Raises:
        UserError: a setting is invalid, or a detector can't be loaded.
    """
    if force and missing_masks:
        raise UserError("--force scores all images again, those without masks included: give one of the two")
    given = dict(settings)
    if isinstance(routes := given.get("routes"), Mapping):
        # Without any, those of the settings file are in force.
        pairs = [{"pattern": pattern, "detector": str(location)} for pattern, location in routes.items()]
        given["routes"] = pairs or None
    of_cluster = {name: given.pop(name) for name in _OF_CLUSTER & given.keys()}
    arguments = {"scoring": given, "cluster": of_cluster}
    tables = read_settings(settings_file, overrides, arguments, ("scoring", "storage", "images", "cluster"))
    storage_settings = build(storage.StorageSettings, tables.get("storage", {}), "storage")
    storage.configure(storage_settings)
    scoring = build(ScoringSettings, tables["scoring"], "scoring")
    if missing_masks and scoring.gate:
        raise UserError("--missing-masks wants the detector's masks, which a gate can't give: leave out the gate")
    cluster = build(ClusterSettings, tables["cluster"], "cluster")
    detectors = _detectors(scoring, detector)
    location = storage.normalised(table)
    _check_white(build(ImageSettings, tables.get("images", {}), "images").white, detectors)
    task = Task(
        archive=storage.normalised(archive),
        table=location,
        detectors=detectors,
        settings=scoring,
        storage=storage_settings,
        cluster=cluster,
        force=force,
        missing_masks=missing_masks,
        applied={fingerprint: one.reject for fingerprint, one in in_force(location).items()},
    )
    return replace(task, detectors=[_gated(routed, task) for routed in detectors]) if scoring.gate else task


def _gated(routed: Routed, task: Task) -> Routed:
    """Return a detector with its gate, opened for the threshold in force.

    Raises:
        UserError: a detector has no gate, or one that can't keep its promise at the threshold in force.
    """
    location, bundle = routed.location, routed.bundle
    gate, threshold = load_gate(location, bundle), task.thresholds[bundle.fingerprint]
    opening = gate.opening(threshold)
    if not len(opening.gate):
        raise UserError(
            f"the gate of {location} can't promise to miss at most {percent(gate.missed)} at the threshold "
            f"{threshold:.4g} and pass any image: make one for this threshold by "
            f"`diffad-ray gate {location} --threshold {threshold:.4g}`, or score without --gate"
        )
    planned = PlannedGate(
        detector=bundle.name,
        detector_fingerprint=bundle.fingerprint,
        fingerprint=gate.fingerprint,
        limit=opening.limit,
        promise=gate.missed,
        audit=task.settings.audit,
    )
    return routed._replace(gate=OpenGate(planned, opening))


def _check_white(white: int | None, detectors: Sequence[Routed]) -> None:
    """Raise UserError where the settings name another value of white than a detector was trained with: a score depends
    on it, so it is the detector's alone."""
    for detector in detectors:
        own = detector.bundle.detector.settings.white
        if white is not None and own != white:
            trained = "without one" if own is None else f"with {own}"
            raise UserError(
                f"`[images] white` is {white}, and the detector {detector.location} was trained {trained}: train it "
                "with this setting, or leave the setting out"
            )


def _detectors(settings: ScoringSettings, default: str | Path | None) -> list[Routed]:
    """The detectors in the order of the routes, each loaded once, and last the one for what no route matches."""
    wanted: list[tuple[str, tuple[str, ...]]] = [
        (storage.normalised(route.detector), (route.pattern,)) for route in settings.routes
    ]
    if default is not None:
        wanted.append((storage.normalised(default), ()))
    if not wanted:
        raise UserError("no detector is given: name one with --detector, or some with --route 'PATTERN=DETECTOR'")
    bundles = {location: load_bundle(location) for location in dict(wanted)}
    return [Routed(location, bundles[location], patterns) for location, patterns in wanted]
