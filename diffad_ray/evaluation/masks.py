"""Ground truth masks: which pixels of an image are defective."""

from __future__ import annotations

from io import BytesIO

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from diffad_ray import storage
from diffad_ray.images import DEFAULT_MAX_PIXELS, ImageError, read_stored, resized, shown
from diffad_ray.labels.datasets import LabelledImage

MOST_CLASSES = 16
"Largest number of distinct values above 0 in a mask of class numbers; a mask with soft edges has more."
LOSSY = (b"\xff\xd8\xff", b"VP8 ")
"The signature of JPEG, and the chunk of a lossy WebP."


def read_mask(data: bytes, max_pixels: int = DEFAULT_MAX_PIXELS) -> np.ndarray:
    """Read a mask [H,W] float32 from the bytes of an image file; pixels >= 0.5 are defective.

    Values above 0 are defective, since classes are numbered from 1. In a white-on-black mask with soft edges or lossy
    compression (JPEG), values from half of the largest one are defective, since small ones are noise. Transparent
    pixels are not defective. If all colours of a palette are black, its indices count.

    Raises:
        ImageError: the file is not a readable image.
    """
    stored = read_stored(data, max_pixels)
    # Integers of 32 bits don't say which value is white; in a mask the largest class is.
    largest = max(1, int(stored.values.max())) if stored.samples.bits >= 32 and not stored.samples.is_float else None
    values = shown(stored, largest).pixels.max(axis=2)
    image = _opened(data)
    if image is not None and (image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info):
        values = _visible(values, np.asarray(image.convert("RGBA"))[..., 3])
    elif image is not None and image.mode == "P" and not values.any():
        numbers = np.asarray(image)
        if numbers.shape == values.shape:
            return (numbers > 0).astype(np.float32)
    white = np.iinfo(values.dtype).max
    levels = np.count_nonzero(np.bincount(values.ravel())[1:])
    is_lossy = data.startswith(LOSSY[0]) or (data[:4] == b"RIFF" and LOSSY[1] in data[12:64])
    highest = int(values.max(initial=0))
    if highest > white // 2 and (is_lossy or levels > MOST_CLASSES):
        return values.astype(np.float32) / highest
    return (values > 0).astype(np.float32)


def _opened(data: bytes) -> Image.Image | None:
    """The image as Pillow sees it, for its transparency and palette; None of kinds that it does not know, which have
    neither."""
    try:
        return Image.open(BytesIO(data))
    except UnidentifiedImageError:
        return None


def _visible(values: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Set transparent pixels to 0; if no value above 0 remains, return the alpha channel as the mask."""
    if alpha.shape != values.shape or alpha.min() == alpha.max():
        return values
    seen = np.where(alpha > 0, values, 0)
    return seen if seen.any() else alpha


def truth_mask(image: LabelledImage, height: int, width: int) -> np.ndarray:
    """Return the ground truth [H,W] float32 of an image of height x width; pixels >= 0.5 are defective.

    Raises:
        ImageError: a defective image has no usable mask.
    """
    if not image.is_anomalous:
        return np.zeros((height, width), np.float32)
    if image.mask_uri is None:
        raise ImageError("unreadable", "no mask is there")
    try:
        mask = read_mask(storage.read(image.mask_uri))
    except (ImageError, OSError) as error:
        raise ImageError("unreadable", f"its mask {image.mask_uri} can't be read: {error}") from error
    if mask.shape != (height, width):
        size = f"{mask.shape[1]} x {mask.shape[0]} pixels, the image {width} x {height}"
        raise ImageError("unreadable", f"its mask {image.mask_uri} has {size}: they must be alike")
    if not mask.any():
        raise ImageError("unreadable", f"its mask {image.mask_uri} is empty, though the label says {image.kind}")
    return mask


def at_size(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize a mask [H,W] in [0,1] to a map's height x width, bool, and keep every region, however thin or small."""
    # The mask is resized as floats and then thresholded; rounding down would erode it.
    found = resized(mask, width, height) >= 0.5
    y, x = (mask >= 0.5).nonzero()
    cells = y * height // mask.shape[0] * width + x * width // mask.shape[1]
    if found.flat[cells].all():
        # All defective pixels are kept, as in masks of good images, which have none.
        return found
    count, region_of = cv2.connectedComponents((mask >= 0.5).astype(np.uint8), connectivity=8)
    regions, is_lost = region_of[y, x].astype(np.int64), np.ones(count, bool)
    is_lost[regions[found.flat[cells]]] = False
    mine = is_lost[regions]
    # Count the pixels of each lost region in each pixel of the map; the map pixels with the highest counts are set.
    keys, sizes = np.unique(regions[mine] * found.size + cells[mine], return_counts=True)
    regions, cells = np.divmod(keys, found.size)
    most = np.zeros(count)
    np.maximum.at(most, regions, sizes)
    found.flat[cells[sizes >= most[regions] / 2]] = True
    return found
