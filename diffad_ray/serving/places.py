"""Images that a request names by URI: fetched from below an allowed prefix, and from nowhere else."""

from __future__ import annotations

import os
from collections.abc import Iterable

from diffad_ray import storage
from diffad_ray.errors import UserError
from diffad_ray.scoring.load import fetch
from diffad_ray.serving.refusals import Refused
from diffad_ray.storage import FileInfo

REDIRECTING = ("http", "https", "ftp")
"Schemes whose servers may lead a request elsewhere."
LONGEST = 2048


def checked_prefixes(prefixes: Iterable[str]) -> tuple[str, ...]:
    """Return normalised prefixes.

    Raises:
        UserError: one is on the web, or is the root of this machine's disk.
    """
    found = []
    for prefix in prefixes:
        scheme, separator, rest = prefix.partition("://")
        if not separator or scheme == "file":
            scheme = ""
        location = storage.normalised(prefix)
        if scheme.lower() in REDIRECTING:
            raise UserError(
                f"the prefix {prefix} is on the web, where a server may redirect to any other: leave it out"
            )
        if location == "/" or (scheme and not rest.strip("/")):
            raise UserError(f"the prefix {prefix} allows everything: name a folder or a bucket")
        found.append(os.path.realpath(location) if not scheme else location)
    return tuple(found)


def allowed(uri: str, prefixes: tuple[str, ...]) -> str:
    """Return the normalised location of a URI below one of the prefixes; nothing is requested from any store.

    Raises:
        Refused: 403 for every other location, and for a local path that leads out of its prefix by a link.
    """
    refusal = Refused(403, "the URI lies below none of the prefixes that this server allows")
    if len(uri) > LONGEST or any(ord(character) < 32 for character in uri):
        raise refusal
    scheme, separator, rest = uri.partition("://")
    parts = (rest if separator else uri).split("/")
    if ".." in parts or "." in parts or "" in parts[1:]:
        raise refusal
    try:
        location = storage.normalised(uri)
    except UserError:
        raise refusal from None
    if separator and scheme != "file":
        inside = location
    elif separator or os.path.isabs(uri):  # noqa: PTH117 - a location is text
        inside = os.path.realpath(location)
    else:
        raise refusal
    if not any(inside.startswith(f"{prefix}/") for prefix in prefixes):
        raise refusal
    return inside


def fetched(location: str, max_bytes: int) -> tuple[bytes, FileInfo]:
    """Return the bytes of an image at an allowed location, and what the store says of it.

    Raises:
        Refused: there is none, it is too large, or its store does not give it.
    """
    store, key = storage.open_store(location)
    try:
        info = store.info(key)
    except (FileNotFoundError, NotADirectoryError):
        raise Refused.of_image("missing", "there is no such image") from None
    except PermissionError as error:
        raise Refused.of_image("denied", str(error)) from error
    except OSError as error:
        raise Refused.of_image("timeout", f"{type(error).__name__}: {error}") from error
    if info.bytes > max_bytes:
        raise Refused.of_image("too_large", f"the file has {info.bytes} bytes, more than {max_bytes}")
    found = fetch(location, info.bytes, info.version)
    if isinstance(found, bytes):
        return found, info
    raise Refused.of_image(found.status, found.error or "")  # type: ignore[arg-type]
