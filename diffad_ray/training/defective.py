"""Defective images for detectors that learn from them: found, and kept apart from the normal ones."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence, Set

import numpy as np

from diffad_ray import storage
from diffad_ray.errors import UserError
from diffad_ray.images import is_named_image
from diffad_ray.labels.datasets import GOOD
from diffad_ray.labels.layouts import recognise
from diffad_ray.labels.reading import read_dataset
from diffad_ray.labels.tables import is_label_file


def find_defective(locations: Sequence[str], normals: Set[str]) -> list[str]:
    """Locations of the defective images of folders, tables of labels and labelled data sets, each once, sorted.

    Of tables and data sets the images that are not good are taken, of other folders all images, at any depth.

    Args:
        locations: none gives no images.
        normals: locations of the normal images of the same training.

    Raises:
        UserError: one of them is not there, holds no defective image, or an image is among the normal ones as well.
    """
    defective = sorted({uri for location in locations for uri in _defective_of(location)})
    if both := [uri for uri in defective if uri in normals]:
        raise UserError(
            f"{len(both)} images are among the normal and among the defective ones, such as {both[0]}: an image is "
            "one or the other"
        )
    return defective


def _defective_of(location: str) -> list[str]:
    if is_label_file(location):
        found = [image.uri for image in read_dataset(location).images if image.is_anomalous]
    else:
        try:
            files = [file.uri for file in storage.walk(location) if is_named_image(file.uri)]
        except FileNotFoundError:
            raise UserError(f"no folder {location}: give a folder or URI that holds images") from None
        except OSError as error:
            raise UserError(f"{location} can't be listed: {error}") from error
        inside = [uri.removeprefix(location).lstrip("/") for uri in files]
        if recognise(location, inside):
            found = [image.uri for image in read_dataset(location).images if image.is_anomalous]
        elif good := [uri for uri, path in zip(files, inside, strict=True) if GOOD in path.split("/")[:-1]]:
            raise UserError(
                f"{location} holds images in a folder {GOOD!r}, such as {good[0]}: give the folders of the defective "
                "ones, each with its own --defects"
            )
        else:
            found = files
    if not found:
        raise UserError(
            f"{location} holds no defective images; they are recognised by endings such as .png, .jpg, .tif"
        )
    return found


def refuse_common(normals: np.ndarray, defective: np.ndarray) -> None:
    """Raise UserError if any of the squares [N,S,S,3] are in both sets: the same image under two names."""
    seen = {_digest(square) for square in normals[..., :3]}
    if common := sum(_digest(square) in seen for square in defective):
        raise UserError(
            f"{common} of {len(defective)} defective images are among the normal ones under other names, with the same "
            "pixels: an image is one or the other"
        )


def _digest(square: np.ndarray) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(square).tobytes(), digest_size=16).digest()
