"""The registered kinds of detectors. This module imports none of them, so the command line starts without torch."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from diffad_ray.errors import UserError

if TYPE_CHECKING:
    from diffad_ray.detectors.base import Trainable

KINDS = {
    "diffusion-ad": "diffad_ray.detectors.diffusion_ad:DiffusionAD",
    "anoddpm": "diffad_ray.detectors.ano_ddpm:AnoDDPM",
    "semantic-diffgan": "diffad_ray.detectors.semantic_diffgan:SemanticDiffGAN",
    "familiarity": "diffad_ray.detectors.familiarity_alone:FamiliarityAlone",
}
"Module and class by kind."


def find_detector(kind: str) -> type[Trainable]:
    """Return the detector class of a kind.

    Raises:
        UserError: no such kind is registered.

    Example:
        >>> find_detector("anoddpm").__name__
        'AnoDDPM'
    """
    if kind not in KINDS:
        raise UserError(f"unknown detector {kind!r}: take one of {', '.join(KINDS)}")
    module, name = KINDS[kind].split(":")
    found: type[Trainable] = getattr(import_module(module), name)
    return found
