"""diffad_ray: finds defects in archives of millions of inspection images, on a Ray cluster.

    from diffad_ray import train, score, evaluate, query, load_detector, import_checkpoint, tune, contact_sheet

Names are imported when they are first used, so that the detectors need torch alone.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from diffad_ray.versions import VERSION

if TYPE_CHECKING:
    from diffad_ray.analytics.query import query as query
    from diffad_ray.bundles.bundle import load_bundle as load_detector
    from diffad_ray.errors import UserError as UserError
    from diffad_ray.evaluation.evaluate import evaluate as evaluate
    from diffad_ray.reports.contact_sheet import contact_sheet as contact_sheet
    from diffad_ray.scoring.pipeline import score as score
    from diffad_ray.training.import_checkpoint import import_checkpoint as import_checkpoint
    from diffad_ray.training.train import train as train
    from diffad_ray.training.tune import tune as tune

_HOMES = {
    "train": ("diffad_ray.training.train", "train"),
    "score": ("diffad_ray.scoring.pipeline", "score"),
    "evaluate": ("diffad_ray.evaluation.evaluate", "evaluate"),
    "query": ("diffad_ray.analytics.query", "query"),
    "load_detector": ("diffad_ray.bundles.bundle", "load_bundle"),
    "import_checkpoint": ("diffad_ray.training.import_checkpoint", "import_checkpoint"),
    "tune": ("diffad_ray.training.tune", "tune"),
    "contact_sheet": ("diffad_ray.reports.contact_sheet", "contact_sheet"),
    "UserError": ("diffad_ray.errors", "UserError"),
}
__all__ = [
    "UserError",
    "contact_sheet",
    "evaluate",
    "import_checkpoint",
    "load_detector",
    "query",
    "score",
    "train",
    "tune",
]
__version__ = VERSION


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'diffad_ray' has no attribute {name!r}")
    module, attribute = _HOMES[name]
    return getattr(import_module(module), attribute)
