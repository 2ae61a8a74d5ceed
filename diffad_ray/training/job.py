"""A training from files to bundle, as one process sees it: the same with Ray and without."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from typing import Any

import torch
import torch.distributed as dist

from diffad_ray.bundles.bundle import Bundle, find_detector, save_bundle
from diffad_ray.familiarity.learning import MOST_SQUARES
from diffad_ray.inference.views import pieces
from diffad_ray.tensors import NormalSquares
from diffad_ray.training.batches import Images, World
from diffad_ray.training.checkpoints import TrainingFolder
from diffad_ray.training.defective import refuse_common
from diffad_ray.training.finish import calibrated, settle_mode
from diffad_ray.training.loop import Report, train_loop
from diffad_ray.training.normals import load_normals, load_pieces, load_textures, read_images
from diffad_ray.training.settings import TrainingSettings


@dataclass(frozen=True)
class TrainingJob:
    """All that a worker needs to know; plain values, so that it travels and is stored as JSON.

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
        """What identifies the training: with these equal, an interrupted one can go on."""
        lists = ("learnt", "held_back", "defective", "location")
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in lists}


def _of_all_ranks(problems: dict[str, str], world: World) -> dict[str, str]:
    if world.size == 1:
        return problems
    parts: list[dict[str, str]] = [{} for _ in range(world.size)]
    dist.all_gather_object(parts, problems)
    return {location: reason for part in parts for location, reason in part.items()}


def run_job(job: TrainingJob, world: World, on_report: Callable[[Report], None]) -> None:
    """Take part in a training as one rank; rank 0 writes checkpoints, losses and the bundle.

    Goes on from the last checkpoint at the job's location, if there is one.
    """
    started = time.monotonic()
    detector_class = find_detector(job.kind)
    settings = TrainingSettings(**job.training_settings)
    torch.manual_seed(settings.seed)
    detector = detector_class(detector_class.settings_class(**job.detector_settings))
    learnt, share = job.learnt[world.rank :: world.size], -(-settings.max_images // world.size)
    normals, sources, problems = load_normals(learnt, detector.settings, share, settings.seed + world.rank)
    side = detector.settings.image_size
    textures = load_textures(job.textures, side, settings.seed) if job.textures else None
    defective = None
    if job.defective:
        # All of them on every rank, as they are few; so each rank can tell them from its normal ones.
        view = partial(pieces, settings=detector.settings)
        defective, unreadable = load_pieces(
            job.defective, view, settings.max_images, settings.seed, detector.settings.white
        )
        held_back, _ = load_pieces(job.held_back, view, len(job.held_back), settings.seed, detector.settings.white)
        problems |= unreadable
        refuse_common((normals, held_back), defective)

    folder = TrainingFolder(job.location)

    modes: list[str] = []

    def report(step: Report) -> None:
        folder.add(step)
        modes[:] = [step.mode]
        on_report(step)

    resume = folder.load()
    if detector.settings.part_names:
        images = Images(normals, textures, defective)
        detector = train_loop(detector, images, settings, world, resume, report, folder.save)
    problems = _of_all_ranks(problems, world)
    if world.rank != 0:
        return
    facts = {
        "data": job.data | ({"defective": job.defective} if job.defective else {}),
        "images": len(job.learnt),
        "unreadable": problems,
        "settings": asdict(settings),
        "losses": folder.losses[-1] if folder.losses else {},
        "mode": modes[0] if modes else "",
        "workers": world.size,
        "device": torch.cuda.get_device_name(world.device) if world.device.type == "cuda" else platform.processor(),
        "resumed": resume is not None,
        "seconds": round(time.monotonic() - started, 1),
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"diffad-ray": version("diffad-ray"), "torch": torch.__version__},
    }

    def tell(afterwards: str) -> None:
        on_report(Report(settings.steps, {}, 0.0, 0.0, "", afterwards))

    settle_mode(detector, settings.precision, world.device)
    if world.size > 1:
        # A rank has its share of the images alone: with many ranks too few to tell what is familiar.
        normals, sources, _ = load_normals(job.learnt, detector.settings, MOST_SQUARES, settings.seed)
    detector.fit(NormalSquares(normals, sources, textures, settings.steps, settings.seed, world.device), tell)
    unseen = read_images(job.held_back, problems, detector.settings.white)

    def scored(count: int) -> None:
        tell(f"threshold: {count} of {len(job.held_back)} good images scored")

    calibration = calibrated(detector, unseen, settings.false_alarm_rate, world.device, scored)
    save_bundle(Bundle(detector, calibration, facts), job.location)
    folder.finish()
