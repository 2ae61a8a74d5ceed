"""Fetch and decode: from a row of the manifest to the pixels that the networks see, or the reason why not."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from diffad_ray import storage
from diffad_ray.images import ImageError, decode_image, network_input

MAX_BYTES = 512 * 2**20
"A larger file is refused before it is fetched."


class LoadedImage(NamedTuple):
    """An image as the networks see it, and as it was found."""

    status: str
    error: str | None
    width: int | None
    height: int | None
    mode: str | None
    pixels: np.ndarray | None
    "[S,S,3] uint8 or uint16; None unless status is ok"


def fetch(uri: str) -> bytes | LoadedImage:
    """The bytes of an object, or an image that says why there are none."""
    try:
        return storage.read(uri)
    except FileNotFoundError:
        return _failed("missing", "the image was listed but is gone")
    except PermissionError as error:
        return _failed("denied", str(error))
    except TimeoutError as error:
        return _failed("timeout", str(error))
    except OSError as error:
        return _failed("failed", f"{type(error).__name__}: {error}")


def load_image(uri: str, size_in_bytes: int, image_size: int, max_pixels: int) -> LoadedImage:
    """Fetch and decode one image; never raises for what a file or a store may do."""
    if size_in_bytes > MAX_BYTES:
        return _failed("too_large", f"the file has {size_in_bytes} bytes, more than {MAX_BYTES}")
    data = fetch(uri)
    if isinstance(data, LoadedImage):
        return data
    try:
        image = decode_image(data, max_pixels)
        height, width = image.pixels.shape[:2]
        return LoadedImage("ok", None, width, height, image.mode, network_input(image.pixels, image_size))
    except ImageError as error:
        return _failed(error.status, str(error))
    except MemoryError:
        return _failed("too_large", "decoding it needs more memory than the worker has")


def _failed(status: str, error: str) -> LoadedImage:
    return LoadedImage(status, error, None, None, None, None)
