"""`contact_sheet`: what the networks are taught, as a picture."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from diffad_ray import storage
from diffad_ray.detectors.diffusion_ad import DiffusionADSettings
from diffad_ray.diffusion.noise import seeded_generator
from diffad_ray.errors import UserError
from diffad_ray.images.settings import ImageSettings
from diffad_ray.settings import build, merged, parse_overrides, read_settings_file
from diffad_ray.synthesis.foreground import with_foregrounds
from diffad_ray.synthesis.pseudo_anomalies import pseudo_anomalies
from diffad_ray.tensors import as_unit_tensor
from diffad_ray.training.normals import find_normals, find_white, load_normals, load_textures

GAP = 4
"White pixels around each image."


def contact_sheet(
    normals: str | Path,
    *,
    textures: str | Path | None = None,
    image_size: int | None = None,
    count: int = 8,
    seed: int = 0,
    settings_file: str | None = None,
    overrides: Sequence[str] = (),
) -> np.ndarray:
    """Normal image, the same with a pseudo-anomaly, and its mask: [H,W,3] uint8, a row a sample.

    The samples are made as in training, but of whole inputs without augmentation, and every one gets an anomaly, where
    `anomalies.share` of them do there.

    Args:
        normals: folder or URI with normal images, at any depth. Of fewer than `count`, some are shown again.
        textures: folder or URI of texture images for pseudo-anomalies; by default they are procedural.
        image_size: side in pixels of what the networks see; by default 128.
        count: rows.
        seed: of the choice of images and of the anomalies.
        settings_file: TOML of a training, of which `[detector]` counts; arguments win over it.
        overrides: `detector.key=value`, such as `detector.anomalies.strokes=0`, as training takes them.

    Raises:
        UserError: an input is not as it must be.
    """
    if count < 1:
        raise UserError(f"a sheet shows at least 1 sample, not {count}")
    override = parse_overrides(overrides)
    if unknown := override.keys() - {"detector", "images"}:
        raise UserError(f"{min(unknown)!r} changes nothing on this sheet: write detector.KEY=...")
    from_file = read_settings_file(settings_file) if settings_file else {}
    numbers = build(ImageSettings, merged(from_file.get("images", {}), override.get("images", {})), "images")
    white = {"white": numbers.white}
    values = merged(white, from_file.get("detector", {}), {"image_size": image_size}, override.get("detector", {}))
    settings = build(DiffusionADSettings, values, "detector")
    found = find_normals(storage.normalised(normals), 0.0, count, seed)
    if settings.white is None:
        settings = dataclasses.replace(settings, white=find_white([*found.held_back, *found.learnt]))
    squares, _, _ = load_normals([*found.held_back, *found.learnt], settings, count, seed)
    inputs = as_unit_tensor(squares[np.arange(count) % len(squares)])
    images, foregrounds = with_foregrounds(inputs)
    lent = load_textures(storage.normalised(textures), settings.image_size, seed) if textures else None

    anomalies = dataclasses.replace(settings.anomalies, share=1.0)
    made = pseudo_anomalies(images, lent, seeded_generator("cpu", seed), anomalies, foregrounds)
    columns = torch.stack([images, made.images, made.masks.expand_as(images)], dim=1)
    framed = torch.nn.functional.pad(columns, (GAP, 0, GAP, 0), value=1.0)
    sheet = framed.permute(0, 3, 1, 4, 2).flatten(0, 1).flatten(1, 2)
    closed = np.pad((sheet * 255).round().byte().numpy(), ((0, GAP), (0, GAP), (0, 0)), constant_values=255)
    return np.ascontiguousarray(closed)
