"""How numbers of image files are taken: the section `[images]` of a settings file."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ImageSettings:
    """How numbers of image files are taken.

    Attributes:
        white: the value of white in files that have room for more, such as 4095 for a camera of 12 bits; by default it
            is found from the normal images of a training. It becomes a part of the detector.
    """

    white: int | None = None
