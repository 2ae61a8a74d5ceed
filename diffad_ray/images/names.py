"""Suffixes by which image files are recognised in an archive's listing."""

from __future__ import annotations

IMAGE_SUFFIXES: frozenset[str] = frozenset(
    {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".dib", ".tif", ".tiff", ".webp", ".gif"}
    | {".pbm", ".pgm", ".ppm", ".pnm", ".jp2", ".j2k", ".avif"}
)
_SUFFIXES = tuple(IMAGE_SUFFIXES)


def is_named_image(location: str) -> bool:
    """Return whether a location has the suffix of an image, in any case.

    Example:
        >>> is_named_image("lot7/PART.JPG"), is_named_image("lot7/notes.txt")
        (True, False)
    """
    return location.lower().endswith(_SUFFIXES)
