"""A selection as a run makes it, with one detector for all images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diffad_ray.bundles.bundle import Bundle
from diffad_ray.scoring.selection import Routed, Selection, select_images
from diffad_ray.scoring.settings import ScoringSettings


def selected(archive: Path | str, bundle: Bundle, scratch: Path, **settings: Any) -> tuple[Selection, list[dict]]:
    """A selection from an archive, and its rows by URI; the table and what is temporary go below `scratch`."""
    routed = [Routed("detector", bundle, ())]
    folder = scratch / "scratch"
    folder.mkdir(exist_ok=True)
    found = select_images(str(archive), str(scratch / "table"), routed, ScoringSettings(**settings), folder)
    rows = found.connection.sql(f"SELECT * FROM {found.rows} ORDER BY image_uri").to_arrow_table().to_pylist()
    assert len(rows) == found.images
    return found, rows
