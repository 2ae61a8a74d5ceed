"""Normalised locations: local paths and URIs."""

from __future__ import annotations

import os
import re
from pathlib import Path

from diffad_ray.errors import UserError

# Bytes of local names that are not UTF-8 are lone surrogates in Python, which neither Parquet nor DuckDB accepts. In
# locations they are characters of the private use area.
TO_PRIVATE = {0xDC00 + byte: 0xEF00 + byte for byte in range(0x80, 0x100)}
FROM_PRIVATE = {private: surrogate for surrogate, private in TO_PRIVATE.items()}
PRIVATE = re.compile("[\uef80-\uefff]")
SECRET = re.compile(r"[^/]*:[^/]*@")


def normalised(location: str | Path) -> str:
    """Return an absolute local path without `..`, or a URI, both without a slash at the end.

    Raises:
        UserError: the URI contains a password or key.

    Example:
        >>> normalised("/data/lot1/../lot2/"), normalised("s3://bucket/lot2/")
        ('/data/lot2', 's3://bucket/lot2')
    """
    text = str(location)
    if text.startswith("file://"):
        text = text.removeprefix("file://")
    scheme, separator, rest = text.partition("://")
    if not separator:
        text = as_text(os.path.abspath(os.path.expanduser(text)))  # noqa: PTH100, PTH111 - pathlib keeps `..` or follows links
    elif SECRET.match(rest):
        host = rest.partition("/")[0].rpartition("@")[2]
        raise UserError(
            f"the URI {scheme}://...@{host} carries a password or key, which would end up in tables and logs: take it "
            f"out, and give it in the environment or as [storage.options.{scheme}] of a settings file"
        )
    return text.rstrip("/") or "/"


def is_local(location: str) -> bool:
    return "://" not in location or location.startswith("file://")


def as_text(path: str) -> str:
    """Convert a local path to valid Unicode: bytes 0x80 to 0xFF that are not UTF-8 become U+EF80 to U+EFFF."""
    return path if path.isascii() else path.translate(TO_PRIVATE)


def on_disk(path: str) -> str:
    """Undo `as_text`, except for parts of the path whose names on disk contain such characters."""
    if not PRIVATE.search(path):
        return path
    found = ""
    for part in path.split("/")[1:]:
        literal, raw = f"{found}/{part}", f"{found}/{part.translate(FROM_PRIVATE)}"
        found = raw if os.path.lexists(raw) and not os.path.lexists(literal) else literal
    return found
