"""Detectors behind HTTP, on Ray Serve: the same scores as an archive's, for images that can't wait for the night."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.serve import Application

__all__ = ["app"]


def app(args: dict[str, Any]) -> Application:
    """Return the application for `serve deploy` and RayService; see `serving.deployment.app`."""
    from diffad_ray.serving.deployment import app as build

    return build(args)
