"""`train`: from a folder of normal images to a detector bundle."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from diffad_ray import storage
from diffad_ray.bundles.bundle import DESCRIPTION, Bundle, load_bundle, load_description
from diffad_ray.detectors.base import DetectorSettings
from diffad_ray.detectors.kinds import find_detector
from diffad_ray.errors import UserError
from diffad_ray.images.settings import ImageSettings
from diffad_ray.inference.engine import default_device
from diffad_ray.inference.views import decoding_of, pieces
from diffad_ray.progress import ProgressBar
from diffad_ray.settings import build, merged
from diffad_ray.tensors import as_unit_tensor
from diffad_ray.training.batches import World
from diffad_ray.training.checkpoints import TrainingFolder
from diffad_ray.training.choices import Tables, choices, earlier
from diffad_ray.training.defective import find_defective
from diffad_ray.training.job import TrainingJob, run_job
from diffad_ray.training.loop import Report
from diffad_ray.training.normals import (
    NormalImages,
    find_normals,
    find_textures,
    find_white,
    load_pieces,
    require_readable,
    versions_hash,
)
from diffad_ray.training.settings import TrainingSettings
from diffad_ray.training.sources import Sources

MEASURED_IMAGES = 256
"Normal images, and squares of them, on which mean and standard deviation are measured."


def train(
    sources: str | Path | Sources,
    detector: str | Path,
    *,
    kind: str = "diffusion-ad",
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    workers: int = 1,
    cpus_per_worker: int | None = None,
    fresh: bool = False,
    show_progress: bool = False,
) -> Bundle:
    """Train a detector on images of good parts and write its bundle.

    An interrupted training that is started again continues from its last checkpoint. A finished one is loaded.

    Args:
        sources: folder or URI of normal images, or `Sources` with textures, defects and calibration images as well.
        detector: folder or URI of the bundle. Losses and checkpoints are written to its subfolder `training`.
        kind: of detector.
        settings: values of `DetectorSettings`, `TrainingSettings` and `ImageSettings` by section: `detector`,
            `training`, `images`. Other sections are ignored, so one file can serve training and scoring
            (`diffad_ray.settings.read_settings`).
        workers: Ray Train workers, each with a GPU if there are enough; 0 trains in this process without Ray.
        cpus_per_worker: CPUs of a worker; by default the cores of its machine, shared among the workers there.
        fresh: delete what an earlier training left at `detector`, and start over.
        show_progress: show a progress bar.

    Raises:
        UserError: an input or a setting is invalid. Nothing has been written then.

    Example:
        >>> train("parts/good", "detectors/part",
        ...       settings={"detector": {"preset": "tiny"}, "training": {"steps": 800}})  # doctest: +SKIP
    """
    sources = (sources if isinstance(sources, Sources) else Sources(str(sources))).normalised()
    location = storage.normalised(detector)
    tables = settings or {}
    chosen, training = _built(kind, tables)
    _check_workers(workers, training.batch_size)
    sources.require_suitable(kind, chosen)
    found = find_normals(sources.normals, training.held_back, training.max_images, training.seed, sources.calibrate_on)
    if training.minutes or training.smallest_defect:
        before = None if fresh else earlier(TrainingFolder(location).settings(), training)
        runner = partial(_on_worker, workers=workers, cpus_per_worker=cpus_per_worker)
        selected = before or _told(
            choices(kind, tables, found.learnt, decoding_of(chosen), workers, runner), show_progress
        )
        chosen, training = _built(kind, merged(selected, tables))
    _require_a_turn_for_each_part(kind, chosen, training.steps)
    job = _job(sources, found, location, kind, chosen, training)
    if fresh:
        storage.delete(f"{location}/{DESCRIPTION}")
        TrainingFolder(location).clear()
    is_finished = storage.exists(f"{location}/{DESCRIPTION}")
    if is_finished and "imported" in load_description(location)["training"]:
        raise UserError(f"{location} holds a detector that was imported: choose another folder")
    TrainingFolder(location).claim(job.settings())
    if not is_finished:
        _run(job, training.steps, workers, cpus_per_worker, show_progress)
    return load_bundle(location)


def _check_workers(workers: int, batch_size: int) -> None:
    if workers < 0 or (workers and batch_size % workers):
        raise UserError(f"batch_size {batch_size} can't be shared among {workers} workers: take a multiple")
    if workers:
        from diffad_ray.cluster import check_address  # loads Ray, which takes seconds

        check_address()


def _built(kind: str, tables: Mapping[str, Mapping[str, Any]]) -> tuple[DetectorSettings, TrainingSettings]:
    images = build(ImageSettings, tables.get("images", {}), "images")
    values = merged({"white": images.white}, tables.get("detector", {}))
    settings = build(find_detector(kind).settings_class, values, "detector")
    return settings, build(TrainingSettings, tables.get("training", {}), "training")


def _require_a_turn_for_each_part(kind: str, settings: DetectorSettings, steps: int) -> None:
    turns = {settings.turn(step, steps) for step in range(steps)}
    if idle := set(settings.part_names) - turns:
        raise UserError(
            f"{steps} steps leave the {' and the '.join(sorted(idle))} of a {kind} no turn: take more steps, or other "
            "shares of them in [detector]"
        )


def _told(found: tuple[Tables, list[str]], visible: bool) -> Tables:
    """Return settings that a training has chosen, and tell the reasons."""
    selected, reasons = found
    for reason in reasons if visible else ():
        print(f"training: {reason}", file=sys.stderr, flush=True)
    return selected


def _on_worker(task: Callable[[World], float], workers: int, cpus_per_worker: int | None) -> float:
    """Run a function where the training will run."""
    if workers == 0:
        return task(World(device=default_device()))
    from diffad_ray.training.ray_trainer import on_worker

    return on_worker(task, workers, cpus_per_worker)


def _job(
    sources: Sources,
    found: NormalImages,
    location: str,
    kind: str,
    settings: DetectorSettings,
    training: TrainingSettings,
) -> TrainingJob:
    """Complete the settings with what is measured on the images, and describe the training."""
    if settings.white is None:
        settings = replace(settings, white=find_white([*found.learnt, *found.held_back]))
    require_readable(found.held_back, decoding_of(settings))
    view = partial(pieces, settings=settings)
    sample, _ = load_pieces(found.learnt[:MEASURED_IMAGES], view, MEASURED_IMAGES, training.seed, decoding_of(settings))
    settings = settings.measured_on(as_unit_tensor(sample))
    if sources.textures:
        find_textures(sources.textures, training.seed)
    defects = sorted(sources.defects)
    defective = find_defective(defects, {*found.learnt, *found.held_back})
    labelled = {"defects": defects, "defects_fingerprint": versions_hash(defective)} if defects else {}
    return TrainingJob(
        kind=kind,
        detector_settings=asdict(settings),
        training_settings=asdict(training),
        learnt=found.learnt,
        held_back=found.held_back,
        defective=list(defective),
        location=location,
        textures=sources.textures,
        data={
            "normals": sources.normals,
            "fingerprint": found.fingerprint,
            "textures": sources.textures,
            "calibrate_on": sources.calibrate_on,
            **labelled,
        },
    )


def _run(job: TrainingJob, steps: int, workers: int, cpus_per_worker: int | None, show_progress: bool) -> None:
    with ProgressBar("training", steps, show_progress) as bar:

        def on_report(report: Report) -> None:
            losses = "  ".join(f"{name} {value:.4f}" for name, value in report.losses.items())
            bar.update(report.step, report.afterwards or f"{losses}  {report.images_per_second:.1f} images/s")

        if workers == 0:
            run_job(job, World(device=default_device()), on_report)
        else:
            from diffad_ray.training.ray_trainer import run_on_ray

            run_on_ray(job, workers, cpus_per_worker, on_report)
    if not storage.exists(f"{job.location}/{DESCRIPTION}"):
        raise UserError(
            f"the detector was written on another machine of the cluster, at {job.location} there: give a URI that all "
            "machines reach, such as s3://bucket/detectors/name"
        )
