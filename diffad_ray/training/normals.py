"""Normal images for training: found, split, decoded and cut to what the networks see."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TypeVar

import numpy as np
from torch import Tensor

from diffad_ray import storage
from diffad_ray.bundles.calibration import FEWEST_SCORES
from diffad_ray.detectors.base import DetectorSettings
from diffad_ray.errors import UserError, first_reasons
from diffad_ray.images import (
    DEFAULT_MAX_PIXELS,
    IN_FULL,
    Decoding,
    ImageError,
    check_side,
    decode_image,
    is_named_image,
    network_input,
    read_stored,
    resized,
    same_depth,
    usual_white,
)
from diffad_ray.images.samples import Stored
from diffad_ray.inference.views import decoding_of, pieces
from diffad_ray.read_ahead import read_ahead
from diffad_ray.synthesis.foreground import CONSENT, FOREGROUND_SIDE, foregrounds
from diffad_ray.tensors import as_unit_tensor

R = TypeVar("R")
READERS = 16
FEWEST_IMAGES = 4
FEWEST_HELD_BACK = 60
MOST_TEXTURES = 500
DEPTH_IMAGES = 16
"Images of a sample. If none of them has more than 8 bits a channel, no image is expected to."
RECOGNISED = "Images are recognised by their names' endings, such as .png, .jpg, .tif"


@dataclass(frozen=True)
class NormalImages:
    """Locations of the normal images of a training, split into those learnt from and those held back for calibration.

    Attributes:
        fingerprint: hash of all locations and versions. It tells which data a detector has seen, and for what.
    """

    learnt: list[str]
    held_back: list[str]
    fingerprint: str


def find_normals(
    folder: str, held_back: float, max_images: int, seed: int, calibrate_on: str | None = None
) -> NormalImages:
    """List a folder or prefix of normal images and split it at random. The same files and seed give the same split.

    At least 60 images are held back if three quarters of the images remain for training.

    Args:
        held_back: share of the images that is held back for calibration.
        max_images: a larger set is sampled down to this many images.
        calibrate_on: another folder of normal images. All of it is held back, and all other images are learnt from.

    Raises:
        UserError: the folder does not exist, can't be listed, or has too few images.
    """
    files, rng = _images_in(folder), np.random.default_rng(seed)
    if calibrate_on:
        apart = _images_in(calibrate_on)
        if len(apart) < FEWEST_SCORES:
            raise UserError(
                f"{calibrate_on} holds {len(apart)} images; a threshold needs {FEWEST_SCORES} at the very least, "
                "and 99 or more for a false-alarm rate of 1 %"
            )
        both = {f.uri for f in apart}
        files = [f for f in files if f.uri not in both]
    if len(files) < FEWEST_IMAGES:
        raise UserError(
            f"{folder} holds {len(files)} images{' beside those to calibrate on' if calibrate_on else ''}; good parts "
            f"must be {FEWEST_IMAGES} at the very least, and some hundreds to be learnt well. {RECOGNISED}"
        )
    chosen = [files[i] for i in rng.permutation(len(files))[:max_images]]
    if calibrate_on:
        kept = [apart[i] for i in rng.permutation(len(apart))[:max_images]]
        digest = versions_hash({"learnt from": _digest(files), "calibrated on": _digest(apart)})
    else:
        share = max(round(held_back * len(chosen)), min(FEWEST_HELD_BACK, len(chosen) // 4)) if held_back else 0
        count = max(share, FEWEST_SCORES)
        kept, chosen, digest = chosen[:count], chosen[count:], _digest(files)
    return NormalImages([f.uri for f in chosen], [f.uri for f in kept], digest)


def versions_hash(versions: Mapping[str, str]) -> str:
    """Return 16 hex digits of a hash over the locations and versions of images, in their order."""
    text = "\n".join(f"{uri} {version}" for uri, version in versions.items())
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _images_in(folder: str) -> list[storage.FileInfo]:
    """Return the files below a folder whose names are those of images, sorted; warn about what the listing left out."""
    omissions = storage.Omissions()
    try:
        return sorted((f for f in storage.walk(folder, omissions) if is_named_image(f.uri)), key=lambda f: f.uri)
    except FileNotFoundError:
        raise UserError(f"no folder {folder}: give a folder or URI that holds images") from None
    except OSError as error:
        raise UserError(f"{folder} can't be listed: {error}") from error
    finally:
        omissions.warn()


def _digest(files: Sequence[storage.FileInfo]) -> str:
    return versions_hash({f.uri: f.version for f in files})


def find_white(locations: Sequence[str]) -> int | None:
    """Return the white value of normal images (`images.usual_white`); None if a sample has 8 bits or fewer."""

    def stored(location: str) -> Stored:
        return read_stored(storage.read(location))

    sample = locations[:: max(1, len(locations) // DEPTH_IMAGES)]
    if not any(image.samples.bits > 8 for image in _readable(stored, sample, {})):
        return None
    return usual_white(_readable(stored, locations, {}))


def read_images(
    locations: Sequence[str], problems: dict[str, str], decoding: Decoding = IN_FULL
) -> Iterator[np.ndarray]:
    """Yield pixels [H,W,3], uint8 or uint16, of the readable images in order; add reasons by location to `problems`."""
    return _readable(partial(_pixels, decoding=decoding), locations, problems)


def load_pieces(
    locations: Sequence[str],
    cut: Callable[[np.ndarray], list[np.ndarray]],
    most: int,
    seed: int,
    decoding: Decoding = IN_FULL,
) -> tuple[np.ndarray, dict[str, str]]:
    """Return the squares [N,S,S,3] that `cut` makes of the readable images, and the reasons by unreadable location.

    If there are more than `most` squares, `most` of them are drawn with equal chances, and no others are kept in
    memory. The result is uint16 if any image has more than 8 bits a channel, else uint8.

    Raises:
        UserError: no image can be used.
    """
    squares, _, problems = _drawn(locations, cut, most, seed, decoding)
    return squares, problems


def _drawn(
    locations: Sequence[str],
    cut: Callable[[np.ndarray], list[np.ndarray]],
    most: int,
    seed: int,
    decoding: Decoding,
) -> tuple[np.ndarray, np.ndarray, dict[str, str]]:
    """Do what `load_pieces` does, and also return the index [N] of the image that each square is cut from."""
    problems: dict[str, str] = {}
    kept: list[np.ndarray] = []
    sources: list[int] = []
    seen, rng = 0, np.random.default_rng(seed)
    for source, squares in enumerate(_readable(lambda location: cut(_pixels(location, decoding)), locations, problems)):
        for square in squares:
            # Reservoir sampling, because the number of squares is known only after the last image.
            place = seen if seen < most else int(rng.integers(seen + 1))
            seen += 1
            if place < most:
                # A view would keep the whole image in memory.
                kept[place : place + 1] = [square.copy()]
                sources[place : place + 1] = [source]
    if not kept:
        raise UserError(f"none of {len(locations)} images can be used: {first_reasons(problems)}")
    return same_depth(kept), np.array(sources), problems


def load_normals(
    locations: Sequence[str], settings: DetectorSettings, most: int, seed: int
) -> tuple[np.ndarray, np.ndarray, dict[str, str]]:
    """Return the squares that the networks see of normal images, the index [N] of the image of each, and the problems.

    If the images show an object on a background, the squares have a fourth channel, [N,S,S,4]. It has the largest value
    of its type on the object and 0 elsewhere.
    """
    votes: list[bool] = []

    def with_foreground(pixels: np.ndarray) -> list[np.ndarray]:
        found, is_object = foregrounds(as_unit_tensor(network_input(pixels, FOREGROUND_SIDE)[None]))
        votes.append(bool(is_object))
        height, width = pixels.shape[:2]
        white = np.iinfo(pixels.dtype).max
        mask = resized(found[0].numpy().astype(pixels.dtype) * white, width, height)
        if not is_object:
            mask = np.full_like(mask, white)
        return pieces(np.dstack([pixels, mask]), settings)

    squares, sources, problems = _drawn(locations, with_foreground, most, seed, decoding_of(settings))
    if sum(votes) < CONSENT * len(votes):
        squares = np.ascontiguousarray(squares[..., :3])
    return squares, sources, problems


def find_textures(folder: str, seed: int) -> list[str]:
    """Return the locations of up to 500 images of a folder or prefix, chosen at random.

    Raises:
        UserError: the folder does not exist, can't be listed, or has no images.
    """
    files = _images_in(folder)
    if not files:
        raise UserError(f"{folder} holds no images that could lend pseudo-anomalies their textures. {RECOGNISED}")
    return [files[k].uri for k in np.random.default_rng(seed).permutation(len(files))[:MOST_TEXTURES]]


def load_textures(folder: str, image_size: int, seed: int) -> Tensor:
    """Return the images of `find_textures`, [K,3,S,S] in [0,1], which lend pseudo-anomalies their appearance."""
    found = find_textures(folder, seed)
    textures, _ = load_pieces(found, lambda pixels: [network_input(pixels, image_size)], MOST_TEXTURES, seed)
    return as_unit_tensor(textures)


def _pixels(location: str, decoding: Decoding) -> np.ndarray:
    pixels = decode_image(storage.read(location), DEFAULT_MAX_PIXELS, *decoding).pixels
    check_side(pixels)
    return pixels


def require_readable(locations: Sequence[str], decoding: Decoding) -> None:
    """Raise UserError if too few of the calibration images can be read. The search ends at the first readable ones."""
    problems: dict[str, str] = {}
    readable = sum(1 for _ in islice(read_images(locations, problems, decoding), FEWEST_SCORES))
    if readable < FEWEST_SCORES:
        raise UserError(
            f"of {len(locations)} images to set the threshold by {readable} can be read: {first_reasons(problems)}"
        )


def _readable(read: Callable[[str], R], locations: Sequence[str], problems: dict[str, str]) -> Iterator[R]:
    def attempt(location: str) -> R | None:
        try:
            return read(location)
        except (ImageError, OSError) as error:
            problems[location] = str(error)
            return None

    return (found for found in read_ahead(attempt, locations, READERS) if found is not None)
