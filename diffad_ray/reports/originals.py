"""Images that were scored, read again to be shown, as long as they still are what was scored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from diffad_ray import storage
from diffad_ray.errors import UserError
from diffad_ray.images import DEFAULT_MAX_PIXELS, ImageError, read_stored, shown, usual_white
from diffad_ray.table.views import ask_views

if TYPE_CHECKING:
    # The page of a review starts in a second because nothing imports torch.
    from diffad_ray.detectors.base import DetectorSettings

Size: TypeAlias = tuple[int, int]
"Width and height in pixels."


def read_original(uri: str, size: Size | None, detector: DetectorSettings | None = None) -> np.ndarray:
    """The pixels [H,W,3] of an image that was scored.

    Args:
        size: as the table has it; None where no table knows the image.
        detector: whose value of white is taken; without one, an image is as bright as its brightest value allows.

    Raises:
        UserError: its file is gone, can't be read, or is another.
    """
    try:
        stored = read_stored(storage.read(uri), max_pixels(size))
        pixels = shown(stored, detector.white if detector else usual_white([stored])).pixels
    except FileNotFoundError as error:
        raise UserError(f"the image {uri} is gone since it was scored") from error
    except OSError as error:
        raise UserError(f"the image {uri} can't be read: {error}") from error
    except ImageError as error:
        raise UserError(f"{uri} is not the image any more that was scored: {error}") from error
    height, width = pixels.shape[:2]
    if size is not None and size != (width, height):
        raise UserError(
            f"{uri} is not the image any more that was scored: it has {width} x {height} pixels, "
            f"the table says {size[0]} x {size[1]}"
        )
    return pixels


def max_pixels(size: Size | None) -> int:
    """The limit for an image of a size: a table may have been scored with a higher one than the default."""
    return DEFAULT_MAX_PIXELS if size is None else max(DEFAULT_MAX_PIXELS, size[0] * size[1])


def sizes_in(table: str, uris: Sequence[str]) -> dict[str, Size]:
    """The sizes of those images that have a score in a table, as they were when they were last scored.

    Raises:
        UserError: there is no table.
    """
    sql = (
        "SELECT image_uri, width, height FROM scores WHERE status = 'ok' AND image_uri IN (SELECT unnest(?)) "
        "ORDER BY scored_at"
    )
    rows = ask_views(table, lambda views: views.execute(sql, [list(uris)]).fetchall())
    return {uri: (width, height) for uri, width, height in rows}
