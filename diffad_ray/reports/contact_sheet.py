"""`contact_sheet`: what the networks are taught, as a picture."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diffad_ray.detectors.diffusion_ad import DiffusionADSettings
from diffad_ray.diffusion.noise import seeded_generator
from diffad_ray.errors import UserError
from diffad_ray.images.settings import ImageSettings
from diffad_ray.settings import build, merged
from diffad_ray.synthesis.foreground import with_foregrounds
from diffad_ray.synthesis.pseudo_anomalies import pseudo_anomalies
from diffad_ray.tensors import as_unit_tensor
from diffad_ray.training.normals import find_normals, find_white, load_normals, load_textures
from diffad_ray.training.sources import Sources

GAP = 4
"White pixels around each image."


def contact_sheet(
    sources: str | Path | Sources,
    *,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    count: int = 8,
    seed: int = 0,
) -> np.ndarray:
    """Return a picture of training samples, [H,W,3] uint8: normal image, pseudo-anomaly and mask, one row a sample.

    The samples are made as in training, but from whole inputs without augmentation. Each gets an anomaly, while in
    training `anomalies.share` of them do.

    Args:
        sources: folder or URI of normal images, or `Sources` with textures as well. If there are fewer images than
            rows, some are shown again.
        settings: values of `DiffusionADSettings` and `ImageSettings` by section, `detector` and `images`.
        count: rows.
        seed: of the choice of images and of the anomalies.

    Raises:
        UserError: an input or a setting is invalid.

    Example:
        >>> contact_sheet("parts/good", settings={"detector": {"image_size": 256}}, count=4)  # doctest: +SKIP
    """
    if count < 1:
        raise UserError(f"a sheet shows at least 1 sample, not {count}")
    sources = (sources if isinstance(sources, Sources) else Sources(str(sources))).normalised()
    given = settings or {}
    white = build(ImageSettings, given.get("images", {}), "images").white
    chosen = build(DiffusionADSettings, merged({"white": white}, given.get("detector", {})), "detector")
    found = find_normals(sources.normals, 0.0, count, seed)
    if chosen.white is None:
        chosen = dataclasses.replace(chosen, white=find_white([*found.held_back, *found.learnt]))
    squares, _, _ = load_normals([*found.held_back, *found.learnt], chosen, count, seed)
    inputs = as_unit_tensor(squares[np.arange(count) % len(squares)])
    images, foregrounds = with_foregrounds(inputs)
    lent = load_textures(sources.textures, chosen.image_size, seed) if sources.textures else None

    anomalies = dataclasses.replace(chosen.anomalies, share=1.0)
    made = pseudo_anomalies(images, lent, seeded_generator("cpu", seed), anomalies, foregrounds)
    columns = torch.stack([images, made.images, made.masks.expand_as(images)], dim=1)
    framed = torch.nn.functional.pad(columns, (GAP, 0, GAP, 0), value=1.0)
    sheet = framed.permute(0, 3, 1, 4, 2).flatten(0, 1).flatten(1, 2)
    closed = np.pad((sheet * 255).round().byte().numpy(), ((0, GAP), (0, GAP), (0, 0)), constant_values=255)
    return np.ascontiguousarray(closed)
