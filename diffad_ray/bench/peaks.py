"""The peaks of a device: arithmetic in each precision, memory, and decoding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec

import numpy as np
import torch
import torch.nn.functional as F

from diffad_ray.detectors.base import DTYPES, Precision
from diffad_ray.inference.acceleration import least_seconds

SIDE = {"cpu": 1024, "cuda": 8192}
"Of the square matrices that are multiplied."
CONVOLUTION = {"cpu": (4, 128, 64), "cuda": (64, 256, 64)}
"Images, channels and side of a convolution of 3 x 3."
COPIED = {"cpu": 1 << 28, "cuda": 1 << 32}
"Bytes that are copied: more than caches hold."
DECODED_SIDE = 256
FORMATS = {".jpg": "JPEG", ".png": "PNG", ".tif": "TIFF", ".bmp": "BMP", ".webp": "WebP"}


@dataclass(frozen=True)
class Peaks:
    """What a device reaches at most.

    Attributes:
        matrix_product, convolution: operations a second by precision; a multiplication and an addition are two.
        copy: bytes a second that are read and written in a copy.
        decode: images a second and core by format, each of 256 x 256 pixels.
    """

    matrix_product: dict[str, float]
    convolution: dict[str, float]
    copy: float
    decode: dict[str, float]

    def operations(self, precision: Precision) -> float:
        """Return the larger peak of a precision, in operations a second."""
        return max(self.matrix_product[precision], self.convolution[precision])


@torch.inference_mode()
def peaks_of(device: torch.device) -> Peaks:
    """Measure the peaks of a device, with the threads that torch has; decoding takes one core."""
    side, (images, channels, size) = SIDE[device.type], CONVOLUTION[device.type]
    products, convolutions = {}, {}
    for name, dtype in DTYPES.items():
        a, b = (torch.randn((side, side), device=device, dtype=dtype) for _ in range(2))
        x = torch.randn((images, channels, size, size), device=device, dtype=dtype)
        x = x.contiguous(memory_format=torch.channels_last)
        w = torch.randn((channels, channels, 3, 3), device=device, dtype=dtype)
        runs: dict[str, Callable[[], object]] = {
            "product": partial(torch.matmul, a, b),
            "convolution": partial(F.conv2d, x, w, padding=1),
        }
        seconds = least_seconds(runs, device)
        products[str(name)] = 2 * side**3 / seconds["product"]
        convolutions[str(name)] = 2 * 9 * images * (channels * size) ** 2 / seconds["convolution"]
    source = torch.zeros(COPIED[device.type], dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copied = least_seconds({"copy": lambda: target.copy_(source)}, device)["copy"]
    return Peaks(products, convolutions, 2 * len(source) / copied, _decoding())


def _decoding() -> dict[str, float]:
    """Return the images a second that one core decodes, by format; nothing where OpenCV is not installed."""
    if find_spec("cv2") is None:
        # A bare GPU machine has torch alone, and the rest is measured all the same.
        return {}
    import cv2

    from diffad_ray.demo.surfaces import normal
    from diffad_ray.images import decode_image

    cv2.setNumThreads(1)
    pixels = normal("weave", np.random.default_rng(0), DECODED_SIDE).image
    files = {name: cv2.imencode(ending, pixels)[1].tobytes() for ending, name in FORMATS.items()}
    runs = {name: partial(decode_image, data) for name, data in files.items()}
    return {name: 1 / seconds for name, seconds in least_seconds(runs, torch.device("cpu")).items()}
