"""The mean of images that look good: what the product normally looks like."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from diffad_ray.errors import UserError
from diffad_ray.images import for_display
from diffad_ray.reports.originals import Size, read_original

FEWEST = 3
"Images that a mean needs."
PATIENCE = 3
"So many unreadable images before the first readable one mean that the originals can't be reached."


class MeanImage(NamedTuple):
    """The mean [H,W,3] uint8 of images, or None and the reason why there is none."""

    pixels: np.ndarray | None
    problem: str = ""


def mean_image(uris: Iterable[str], size: Size, longest: int) -> MeanImage:
    """Return the mean of scored images of one size, with no side above `longest`.

    Images that are gone or replaced since they were scored are left out: they are examples, not figures.
    """
    total: np.ndarray | None = None
    count, unreadable, problem = 0, 0, "too few images look good"
    for uri in uris:
        try:
            picture = for_display(read_original(uri, size), longest).astype(np.float32)
        except UserError as error:
            problem, unreadable = str(error), unreadable + 1
            if not count and unreadable == PATIENCE:
                # Each of the others would wait as long for a store that does not answer.
                break
            continue
        total = picture if total is None else total + picture
        count += 1
    if total is None or count < FEWEST:
        return MeanImage(None, problem)
    return MeanImage(np.rint(total / count).astype(np.uint8))
