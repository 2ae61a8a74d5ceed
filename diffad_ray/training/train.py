"""`train`: from a folder of normal images to a detector bundle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from diffad_ray import storage
from diffad_ray.bundles.bundle import DESCRIPTION, Bundle, find_detector, load_bundle, load_description
from diffad_ray.detectors.base import DetectorSettings
from diffad_ray.errors import UserError
from diffad_ray.images.settings import ImageSettings
from diffad_ray.inference.engine import default_device
from diffad_ray.inference.views import pieces
from diffad_ray.progress import ProgressBar
from diffad_ray.settings import build, merged, parse_overrides, read_settings_file
from diffad_ray.tensors import as_unit_tensor
from diffad_ray.training.batches import World
from diffad_ray.training.checkpoints import TrainingFolder
from diffad_ray.training.defective import find_defective
from diffad_ray.training.job import TrainingJob, run_job
from diffad_ray.training.loop import Report
from diffad_ray.training.normals import (
    find_normals,
    find_textures,
    find_white,
    load_pieces,
    require_readable,
    versions_hash,
)
from diffad_ray.training.settings import TrainingSettings

MEASURED_IMAGES = 256
"Normal images, and squares seen of them, on which mean and standard deviation are measured."


def train(
    normals: str | Path,
    detector: str | Path,
    *,
    kind: str = "diffusion-ad",
    preset: str | None = None,
    image_size: int | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    textures: str | None = None,
    defects: Sequence[str] = (),
    calibrate_on: str | None = None,
    workers: int = 1,
    cpus_per_worker: int | None = None,
    settings_file: str | None = None,
    overrides: Sequence[str] = (),
    fresh: bool = False,
    show_progress: bool = False,
) -> Bundle:
    """Train a detector on images of good parts and write its bundle.

    An interrupted training, started again, goes on from its last checkpoint; a finished one is loaded.

    Args:
        normals: folder or URI with normal images, at any depth.
        detector: folder or URI of the bundle; losses and checkpoints go into its subfolder `training`.
        kind: of detector.
        preset: network sizes: `tiny`, `small`, `base` or `paper`.
        image_size: side in pixels of what the networks see, images or tiles of them; a multiple of 32.
        steps, batch_size: see `TrainingSettings`.
        textures: folder or URI of texture images for pseudo-anomalies; by default they are procedural.
        defects: for a detector that learns from defective images as well: folders or URIs of some, tables of labels
            or labelled data sets, of which the defective images are taken.
        calibrate_on: folder or URI of normal images that set the threshold, such as those of lots that are not learnt
            from; by default some of `normals` are held back for that. Images whose location lies in both are not
            learnt from.
        workers: Ray Train workers, a GPU each where there are enough; 0 trains in this process without Ray.
        cpus_per_worker: CPUs of a worker; by default the cores of its machine, shared among the workers there.
        settings_file: TOML with sections `[detector]`, `[training]` and `[images]`; arguments win over it.
        overrides: `section.key=value`, such as `training.learning_rate=1e-4`; these win over all.
        fresh: start over, deleting what an earlier training left at `detector`.
        show_progress: show a progress bar.

    Raises:
        UserError: an input is not as it must be; nothing has been written then.
    """
    normals, location = storage.normalised(normals), storage.normalised(detector)
    textures = storage.normalised(textures) if textures else None
    calibrate_on = storage.normalised(calibrate_on) if calibrate_on else None
    defects = [storage.normalised(place) for place in defects]
    from_file = read_settings_file(settings_file) if settings_file else {}
    override = parse_overrides(overrides, ("detector", "training", "images"))
    detector_class = find_detector(kind)
    detector_values: dict[str, Any] = merged(
        from_file.get("detector", {}), {"preset": preset, "image_size": image_size}, override.get("detector", {})
    )
    images = build(ImageSettings, merged(from_file.get("images", {}), override.get("images", {})), "images")
    detector_values = merged({"white": images.white}, detector_values)
    training_values = merged(
        from_file.get("training", {}), {"steps": steps, "batch_size": batch_size}, override.get("training", {})
    )
    settings = build(detector_class.settings_class, detector_values, "detector")
    training = build(TrainingSettings, training_values, "training")
    return train_as(
        normals,
        location,
        kind,
        settings,
        training,
        textures=textures,
        defects=defects,
        calibrate_on=calibrate_on,
        workers=workers,
        cpus_per_worker=cpus_per_worker,
        fresh=fresh,
        show_progress=show_progress,
    )


def train_as(
    normals: str,
    location: str,
    kind: str,
    settings: DetectorSettings,
    training: TrainingSettings,
    *,
    textures: str | None = None,
    defects: Sequence[str] = (),
    calibrate_on: str | None = None,
    workers: int = 0,
    cpus_per_worker: int | None = None,
    fresh: bool = False,
    show_progress: bool = False,
) -> Bundle:
    """`train` with settings that are complete but for what is measured on the images; locations are normalised."""
    if workers < 0 or (workers and training.batch_size % workers):
        raise UserError(f"batch_size {training.batch_size} can't be shared among {workers} workers: take a multiple")
    if workers:
        from diffad_ray.cluster import check_address  # loads Ray, which takes seconds

        check_address()
    learns_from = find_detector(kind).learns_from
    if textures and "textures" not in learns_from:
        raise UserError(f"a {kind} makes no pseudo-anomalies and takes no textures: leave --textures out")
    if defects and "defective" not in learns_from:
        raise UserError(f"a {kind} learns from normal images alone: leave --defects out")
    if not defects and "defective" in learns_from:
        raise UserError(
            f"a {kind} learns from defective images as well: give --defects with a folder of some, a table of labels "
            "(uri, label) or a labelled data set"
        )
    turns = {settings.turn(step, training.steps) for step in range(training.steps)}
    if idle := set(settings.part_names) - turns:
        raise UserError(
            f"{training.steps} steps leave the {' and the '.join(sorted(idle))} of a {kind} no turn: take more, or "
            "other shares of them in [detector]"
        )
    found = find_normals(normals, training.held_back, training.max_images, training.seed, calibrate_on)
    if settings.white is None:
        settings = replace(settings, white=find_white([*found.learnt, *found.held_back]))
    require_readable(found.held_back, settings.white)
    view = partial(pieces, settings=settings)
    sample, _ = load_pieces(found.learnt[:MEASURED_IMAGES], view, MEASURED_IMAGES, training.seed, settings.white)
    settings = settings.measured_on(as_unit_tensor(sample))
    if textures:
        find_textures(textures, training.seed)
    defective = find_defective(defects, {*found.learnt, *found.held_back})
    labelled = {"defects": sorted(defects), "defects_fingerprint": versions_hash(defective)} if defects else {}
    job = TrainingJob(
        kind=kind,
        detector_settings=asdict(settings),
        training_settings=asdict(training),
        learnt=found.learnt,
        held_back=found.held_back,
        defective=list(defective),
        location=location,
        textures=textures,
        data={
            "normals": normals,
            "fingerprint": found.fingerprint,
            "textures": textures,
            "calibrate_on": calibrate_on,
            **labelled,
        },
    )
    if fresh:
        storage.delete(f"{location}/{DESCRIPTION}")
        TrainingFolder(location).clear()
    is_finished = storage.exists(f"{location}/{DESCRIPTION}")
    if is_finished and "imported" in load_description(location)["training"]:
        raise UserError(f"{location} holds a detector that was imported: choose another folder")
    TrainingFolder(location).claim(job.settings())
    if is_finished:
        return load_bundle(location)

    with ProgressBar("training", training.steps, show_progress) as bar:

        def on_report(report: Report) -> None:
            losses = "  ".join(f"{name} {value:.4f}" for name, value in report.losses.items())
            bar.update(report.step, report.afterwards or f"{losses}  {report.images_per_second:.1f} images/s")

        if workers == 0:
            device = default_device()
            run_job(job, World(device=device), on_report)
        else:
            from diffad_ray.training.ray_trainer import run_on_ray

            run_on_ray(job, workers, cpus_per_worker, on_report)
    if not storage.exists(f"{location}/{DESCRIPTION}"):
        raise UserError(
            f"the detector was written on another machine of the cluster, at {location} there: give a URI that all "
            "machines reach, such as s3://bucket/detectors/name"
        )
    return load_bundle(location)
