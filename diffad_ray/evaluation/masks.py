"""Ground truth masks: which pixels of an image file stand for a defect."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from PIL import Image

from diffad_ray.images import DEFAULT_MAX_PIXELS, decode_image

MOST_CLASSES = 16
"Values above 0 that a mask of classes has at most; a soft edge has more."
LOSSY = (b"\xff\xd8\xff", b"VP8 ")
"How JPEG begins, and the chunk of WebP whose pixels are not exactly what was stored."


def read_mask(data: bytes, max_pixels: int = DEFAULT_MAX_PIXELS) -> np.ndarray:
    """The mask [H,W] float32 of a file; at least 0.5 is defective.

    Any value above 0 is defective, as classes are numbered from 1. Where a mask is white on black and its edges are
    soft, or it was stored with loss (JPEG), it is defective from half of its largest value on: what is near to 0 there
    is noise. What is transparent is not defective; a palette's numbers count where its colours say nothing.

    Raises:
        ImageError: the file is no image that can be read.
    """
    values = decode_image(data, max_pixels).pixels.max(axis=2)
    with Image.open(BytesIO(data)) as image:
        if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
            values = _visible(values, np.asarray(image.convert("RGBA"))[..., 3])
        elif image.mode == "I" or (image.mode == "P" and not values.any()):
            numbers = np.asarray(image)
            if numbers.shape == values.shape:
                # Decoding scales 32 bits to 16, which makes nothing of small numbers.
                return (numbers > 0).astype(np.float32)
    white = np.iinfo(values.dtype).max
    levels = np.count_nonzero(np.bincount(values.ravel())[1:])
    is_lossy = data.startswith(LOSSY[0]) or (data[:4] == b"RIFF" and LOSSY[1] in data[12:64])
    highest = int(values.max(initial=0))
    if highest > white // 2 and (is_lossy or levels > MOST_CLASSES):
        return values.astype(np.float32) / highest
    return (values > 0).astype(np.float32)


def _visible(values: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Values without those that are transparent; where nothing but transparency is drawn, the opaque ones."""
    if alpha.shape != values.shape or alpha.min() == alpha.max():
        return values
    seen = np.where(alpha > 0, values, 0)
    return seen if seen.any() else alpha
