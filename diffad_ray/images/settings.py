"""Settings of image decoding: the section `[images]` of a settings file."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ImageSettings:
    """Settings of image decoding.

    Attributes:
        white: the value of white in files with more than 8 bits, such as 4095 for a 12-bit camera. None estimates it
            from the normal images of a training. The value is saved with the detector.
    """

    white: int | None = None
