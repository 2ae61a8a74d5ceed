"""Finds defective images for detectors that learn from them, and keeps them apart from the normal ones."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence, Set

import numpy as np

from diffad_ray import storage
from diffad_ray.errors import UserError
from diffad_ray.images import is_named_image
from diffad_ray.labels.reading import dataset_among, find_labelled
from diffad_ray.labels.tables import is_label_file
from diffad_ray.labels.words import is_good_folder

MASK_FOLDERS = frozenset({"ground_truth", "masks", "label"})


def find_defective(locations: Sequence[str], normals: Set[str]) -> dict[str, str]:
    """Return versions by location of the defective images in folders, tables of labels and labelled data sets, sorted.

    Tables and data sets contribute the images that are not good. Other folders contribute all images, at any depth.
    Images named by a table are not looked up, so their version is "".

    Args:
        locations: folders, tables or data sets.
        normals: locations of the normal images of the same training.

    Raises:
        UserError: a location does not exist or has no defective image, or an image is also one of the normal ones.
    """
    found: dict[str, str] = {}
    for location in locations:
        found |= _defective_of(location)
    if both := sorted(found.keys() & normals):
        raise UserError(
            f"{len(both)} images are among the normal and among the defective ones, such as {both[0]}: an image is "
            "one or the other"
        )
    return dict(sorted(found.items()))


def _defective_of(location: str) -> dict[str, str]:
    if is_label_file(location):
        found = {image.uri: "" for image in find_labelled(location).images if image.is_anomalous}
    else:
        omissions = storage.Omissions()
        try:
            listed = storage.walk(location, omissions)
            files = {file.uri: file.version for file in listed if is_named_image(file.uri)}
        except FileNotFoundError:
            raise UserError(f"no folder {location}: give a folder or URI that holds images") from None
        except OSError as error:
            raise UserError(f"{location} can't be listed: {error}") from error
        omissions.warn()
        paths = [uri.removeprefix(location).lstrip("/") for uri in files]
        if (dataset := dataset_among(location, paths)) is not None:
            found = {image.uri: files.get(image.uri, "") for image in dataset.images if image.is_anomalous}
        else:
            _refuse_doubtful(location, paths)
            found = files
    if not found:
        raise UserError(
            f"{location} holds no defective images; they are recognised by endings such as .png, .jpg, .tif"
        )
    return found


def _refuse_doubtful(location: str, paths: Sequence[str]) -> None:
    """Raise UserError if a folder has the name of a folder of good images or of masks."""
    name = location.rsplit("/", 1)[-1]
    for path in paths:
        for folder in (name, *path.split("/")[:-1]):
            if is_good_folder(folder) or folder.lower() in MASK_FOLDERS:
                what = "good images" if is_good_folder(folder) else "masks"
                raise UserError(
                    f"{location} holds a folder {folder!r}, as of {what}, with {path}: give the folders of the "
                    "defective images, each with its own --defects"
                )


def refuse_common(normals: Sequence[np.ndarray], defective: np.ndarray) -> None:
    """Raise UserError if a defective square [N,S,S,3] has the same pixels as a normal one: one image has two names."""
    seen = {_digest(square) for squares in normals for square in squares[..., :3]}
    if common := sum(_digest(square) in seen for square in defective):
        raise UserError(
            f"{common} of {len(defective)} defective images are among the normal ones under other names, with the same "
            "pixels: an image is one or the other"
        )


def _digest(square: np.ndarray) -> bytes:
    # One 16-bit image makes its whole set 16-bit, and the other set may have 8 bits.
    deep = square.astype(np.uint16) * 257 if square.dtype == np.uint8 else square
    return hashlib.blake2b(np.ascontiguousarray(deep).tobytes(), digest_size=16).digest()
