"""Which files an archive's listing takes for images."""

from __future__ import annotations

IMAGE_SUFFIXES: frozenset[str] = frozenset(
    {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".dib", ".tif", ".tiff", ".webp", ".gif"}
    | {".pbm", ".pgm", ".ppm", ".pnm", ".jp2", ".j2k", ".avif"}
)
_SUFFIXES = tuple(IMAGE_SUFFIXES)


def is_named_image(location: str) -> bool:
    """Whether a file's name ends as an image's does."""
    return location.lower().endswith(_SUFFIXES)
