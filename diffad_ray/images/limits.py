"""Limits of image sizes, and the error for files that can't be decoded."""

from __future__ import annotations

from typing import Literal

DEFAULT_MAX_PIXELS = 100_000_000
LONGEST_SIDE = 1_000_000
"Longest side in pixels of an image, because libpng writes no longer one and the mask of an image is a PNG of its size."
SMALLEST_SIDE = 16
"Shortest side in pixels of an image that is scored; smaller images are mostly thumbnails or mistakes."


class ImageError(Exception):
    """A file can't be decoded to pixels; the message tells the user why."""

    status: Literal["unreadable", "too_large"]

    def __init__(self, status: Literal["unreadable", "too_large"], message: str) -> None:
        super().__init__(status, message)  # both arguments, so that the error can be pickled
        self.status = status

    def __str__(self) -> str:
        return str(self.args[1])


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Raise ImageError if an image has no pixels, more than `max_pixels`, or a side over `LONGEST_SIDE`."""
    if width < 1 or height < 1:
        raise ImageError("unreadable", f"has no pixels: {width} x {height}")
    if width * height > max_pixels:
        raise ImageError("too_large", f"{width} x {height} pixels, more than the limit of {max_pixels:,}")
    if max(width, height) > LONGEST_SIDE:
        raise ImageError("too_large", f"{width} x {height} pixels, a side of more than {LONGEST_SIDE:,}: cut it up")


def unsupported(kind: str, advice: str = "convert it to an 8- or 16-bit PNG or TIFF") -> ImageError:
    """Return the error for an intact file of an unsupported kind, such as "a 12-bit JPEG"."""
    return ImageError("unreadable", f"{kind}, a kind that is not supported: {advice}")
