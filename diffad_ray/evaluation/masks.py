"""Ground truth masks: reads which pixels are defective from an image file."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from diffad_ray.images import DEFAULT_MAX_PIXELS, read_stored, shown

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
