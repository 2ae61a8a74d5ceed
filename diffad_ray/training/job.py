"""A training from files to bundle in one process; the same with Ray and without."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from diffad_ray.bundles.bundle import Bundle, save_bundle
from diffad_ray.bundles.calibration import Calibration
from diffad_ray.detectors.base import DetectorSettings, Trainable
from diffad_ray.detectors.kinds import find_detector
from diffad_ray.familiarity.learning import MOST_SQUARES
from diffad_ray.inference.processor import has_bfloat16
from diffad_ray.inference.runtimes import require_openvino
from diffad_ray.inference.views import decoding_of, pieces
from diffad_ray.tensors import NormalSquares
from diffad_ray.training.batches import Images, World
from diffad_ray.training.checkpoints import TrainingFolder
from diffad_ray.training.defective import refuse_common
from diffad_ray.training.events import Events
from diffad_ray.training.finish import calibrated
from diffad_ray.training.loop import Report, train_loop
from diffad_ray.training.normals import load_normals, load_pieces, load_textures, read_images
from diffad_ray.training.settings import TrainingSettings
from diffad_ray.training.settle import WantedScoring, settle
from diffad_ray.versions import VERSION


@dataclass(frozen=True)
class TrainingJob:
    """The description of a training for its workers, of plain values that can be stored as JSON.

    Attributes:
        kind: of detector.
        detector_settings, training_settings: fields of `DetectorSettings` and `TrainingSettings`.
        learnt, held_back: locations of the normal images.
        data: where the images come from, and their fingerprint.
        textures: folder of images that lend pseudo-anomalies their appearance, or None.
        defective: locations of defective images, for a detector that learns from them.
        location: of the bundle to write.
    """

    kind: str
    detector_settings: dict[str, Any]
    training_settings: dict[str, Any]
    learnt: list[str]
    held_back: list[str]
    location: str
    textures: str | None = None
    defective: list[str] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)

    def settings(self) -> dict[str, Any]:
        """Return what identifies the training. An interrupted training continues only if these are equal."""
        lists = ("learnt", "held_back", "defective", "location")
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in lists}


@dataclass(frozen=True)
class _Learnt:
    """What one rank learns from: squares that the networks see, [N,S,S,3] uint8, and the files that can't be read."""

    normals: np.ndarray
    sources: np.ndarray
    textures: torch.Tensor | None
    defective: np.ndarray | None
    unreadable: dict[str, str]


def run_job(job: TrainingJob, world: World, on_report: Callable[[Report], None]) -> None:
    """Take part in a training as one rank; rank 0 writes checkpoints, losses and the bundle.

    The training continues from the last checkpoint at the job's location, if there is one.

    Raises:
        UserError: a defective image is one of the normal images as well, too few images can be read, or what the
            detector needs is missing here.
    """
    started = time.monotonic()
    detector_class = find_detector(job.kind)
    settings = TrainingSettings(**job.training_settings)
    torch.manual_seed(settings.seed)
    detector: Trainable = detector_class(detector_class.settings_class(**job.detector_settings))
    if settings.scoring_runtime == "openvino":
        require_openvino(detector.settings, world.device)
    detector.require_network()
    learnt = _load(job, detector.settings, settings, world)
    folder = TrainingFolder(job.location)
    modes: list[str] = []

    def report(step: Report) -> None:
        folder.add(step)
        events.add(step)
        modes[:] = [step.mode]
        on_report(step)

    resume = folder.load()
    with Events(settings.tensorboard if world.rank == 0 else None) as events:
        if detector.settings.part_names:
            images = Images(learnt.normals, learnt.textures, learnt.defective)
            detector = train_loop(detector, images, settings, world, resume, report, folder.save)
    learnt = replace(learnt, unreadable=_of_all_ranks(learnt.unreadable, world))
    if world.rank != 0:
        return
    facts = _facts(job, settings, world) | {
        "unreadable": learnt.unreadable,
        "losses": folder.losses[-1] if folder.losses else {},
        "mode": modes[0] if modes else "",
        "resumed": resume is not None,
        "seconds": round(time.monotonic() - started, 1),
    }
    calibration, tells = _finish(
        detector, job, settings, world, learnt, lambda line: on_report(_afterwards(settings, line))
    )
    save_bundle(Bundle(detector, calibration, facts | {"tells": tells}), job.location)
    folder.finish()


def _load(job: TrainingJob, settings: DetectorSettings, training: TrainingSettings, world: World) -> _Learnt:
    """Load this rank's share of the normal images, and all textures and defective images."""
    own, share = job.learnt[world.rank :: world.size], -(-training.max_images // world.size)
    normals, sources, unreadable = load_normals(own, settings, share, training.seed + world.rank)
    textures = load_textures(job.textures, settings.image_size, training.seed) if job.textures else None
    if not job.defective:
        return _Learnt(normals, sources, textures, None, unreadable)
    # Every rank loads all of them, as they are few, and can compare them with its own normal images.
    view = partial(pieces, settings=settings)
    most, seed, decoding = training.max_images, training.seed, decoding_of(settings)
    defective, problems = load_pieces(job.defective, view, most, seed, decoding)
    held_back, _ = load_pieces(job.held_back, view, len(job.held_back), seed, decoding)
    refuse_common((normals, held_back), defective)
    return _Learnt(normals, sources, textures, defective, unreadable | problems)


def _of_all_ranks(problems: dict[str, str], world: World) -> dict[str, str]:
    if world.size == 1:
        return problems
    parts: list[dict[str, str]] = [{} for _ in range(world.size)]
    dist.all_gather_object(parts, problems)
    return {location: reason for part in parts for location, reason in part.items()}


def _facts(job: TrainingJob, settings: TrainingSettings, world: World) -> dict[str, Any]:
    """Return the facts of the training that do not depend on its course."""
    return {
        "data": job.data | ({"defective": job.defective} if job.defective else {}),
        "images": len(job.learnt),
        "settings": asdict(settings),
        "workers": world.size,
        "device": torch.cuda.get_device_name(world.device) if world.device.type == "cuda" else platform.processor(),
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"diffad-ray": VERSION, "torch": torch.__version__},
    }


def _afterwards(settings: TrainingSettings, line: str) -> Report:
    """Return a report of the time between the last step and the bundle."""
    return Report(settings.steps, {}, 0.0, 0.0, "", line)


def _finish(
    detector: Trainable,
    job: TrainingJob,
    settings: TrainingSettings,
    world: World,
    learnt: _Learnt,
    tell: Callable[[str], None],
) -> tuple[Calibration, dict[str, float]]:
    """Settle how the detector computes, fit what gradients don't teach, and calibrate it on held-back images.

    Returns the calibration, and how well the parts of the detector tell pseudo-anomalies; see `Fitted`.

    Held-back images that can't be read are added to `learnt.unreadable`.
    """
    wanted = WantedScoring(precision=settings.precision, runtime=settings.scoring_runtime, batch=settings.scoring_batch)
    settle(detector, wanted, learnt.normals, world.device)
    normals, sources = learnt.normals, learnt.sources
    if world.size > 1:
        # A rank has its share of the images only. With many ranks that is too few for familiarity.
        normals, sources, _ = load_normals(job.learnt, detector.settings, MOST_SQUARES, settings.seed)
    reduced = settings.precision != "float32" and has_bfloat16(world.device)
    squares = NormalSquares(normals, sources, learnt.textures, settings.steps, settings.seed, world.device, reduced)
    fitted = detector.fit(squares, tell)
    # Who names images to calibrate on wants the threshold for images as those, of another lot for example.
    cross_fitted = () if job.data.get("calibrate_on") else fitted.scores
    unseen = read_images(job.held_back, learnt.unreadable, decoding_of(detector.settings))

    def scored(count: int) -> None:
        tell(f"threshold: {count} of {len(job.held_back)} good images scored")

    return (
        calibrated(detector, unseen, settings.false_alarm_rate, world.device, scored, cross_fitted),
        dict(fitted.tells),
    )
