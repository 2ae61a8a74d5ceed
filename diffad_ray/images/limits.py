"""Which sizes of images are taken, and the one error of those that give no pixels."""

from __future__ import annotations

from typing import Literal

DEFAULT_MAX_PIXELS = 100_000_000
SMALLEST_SIDE = 16
"An image with a shorter side, in pixels, is not scored: it shows nothing, and is mostly a thumbnail or a mistake."


class ImageError(Exception):
    """A file that gives no pixels; the message says why in the user's words."""

    status: Literal["unreadable", "too_large"]

    def __init__(self, status: Literal["unreadable", "too_large"], message: str) -> None:
        super().__init__(status, message)  # both, so that it survives pickling between processes
        self.status = status

    def __str__(self) -> str:
        return str(self.args[1])


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Raises ImageError where a header's size is nothing or too much."""
    if width < 1 or height < 1:
        raise ImageError("unreadable", f"has no pixels: {width} x {height}")
    if width * height > max_pixels:
        raise ImageError("too_large", f"{width} x {height} pixels, more than the limit of {max_pixels:,}")


def unsupported(kind: str, advice: str = "convert it to an 8- or 16-bit PNG or TIFF") -> ImageError:
    """The error of a whole file of a kind that is not read, such as "a 12-bit JPEG"."""
    return ImageError("unreadable", f"{kind}, a kind that is not supported: {advice}")
