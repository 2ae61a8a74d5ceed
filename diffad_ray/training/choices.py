"""What a training chooses itself, given a time budget or the size of the smallest defect."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Any

from diffad_ray.detectors.kinds import find_detector
from diffad_ray.errors import UserError, first_reasons
from diffad_ray.images import Decoding, same_depth
from diffad_ray.inference.views import pieces
from diffad_ray.settings import build, merged
from diffad_ray.training.budget import OnWorker, budget
from diffad_ray.training.normals import read_images
from diffad_ray.training.settings import TrainingSettings
from diffad_ray.training.sight import sight

MEASURED, TRIAL_SQUARES = 32, 64
"Images whose sizes and detail are measured, and squares of them for trial steps."
CHOSEN = {"detector": ("image_size", "view", "tile_scale", "preset"), "training": ("steps",)}
"What is chosen, by section."
Tables = Mapping[str, Mapping[str, Any]]


def choices(
    kind: str, tables: Tables, normals: list[str], decoding: Decoding, workers: int, on_worker: OnWorker
) -> tuple[Tables, list[str]]:
    """Return settings by section for what a training chooses itself, and the reasons.

    Args:
        tables: values of the settings by section, as far as they are given; these are not chosen.
        normals: locations of normal images in a random order.
        decoding: how the training decodes them.
        workers: number of ranks that share a batch.
        on_worker: runs trial steps where the training will run.

    Raises:
        UserError: none of the images can be read.
    """
    kind_of = find_detector(kind)
    training = build(TrainingSettings, tables.get("training", {}), "training")
    given = tables.get("detector", {})
    problems: dict[str, str] = {}
    images = list(islice(read_images(normals, problems, decoding), MEASURED))
    if not images:
        raise UserError(f"none of {len(normals)} images can be used: {first_reasons(problems)}")
    seen = sight(images, training.smallest_defect, kind_of.largest_side, given)
    found: dict[str, Any] = merged({"detector": seen.settings}, {"detector": given})
    reasons = [seen.reason]
    if training.minutes is not None and kind_of.settings_class.part_names:
        settings = build(kind_of.settings_class, found["detector"], "detector")
        squares = [square for image in images for square in pieces(image, settings)]
        every = max(1, len(squares) // TRIAL_SQUARES)
        within = budget(kind, merged(tables, found), workers, same_depth(squares[::every][:TRIAL_SQUARES]), on_worker)
        found = merged(found, within.settings)
        reasons.append(within.reason)
    return found, reasons


def earlier(stored: Mapping[str, Any] | None, training: TrainingSettings) -> Tables | None:
    """Return what an interrupted training with the same budget and smallest defect chose; None if there is none.

    Trials of another day would choose other steps, and the training could not go on.

    Args:
        stored: what `TrainingFolder.claim` wrote.
    """
    if stored is None:
        return None
    asked = ("minutes", "smallest_defect")
    if any(stored["training_settings"].get(name) != getattr(training, name) for name in asked):
        return None
    return {
        section: {name: stored[f"{section}_settings"][name] for name in names if name in stored[f"{section}_settings"]}
        for section, names in CHOSEN.items()
    }
