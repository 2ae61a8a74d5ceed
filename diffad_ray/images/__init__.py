"""Decodes the bytes of image files to RGB pixels, or raises the reason why that is impossible.

Archives contain arbitrary files, so no file is trusted: the size is checked before decoding, and every failure becomes
an `ImageError` that names the cause. No global state is used, so many threads may decode at once.
"""

from diffad_ray.images.decode import IN_FULL, DecodedImage, Decoding, decode_image, read_stored, shown
from diffad_ray.images.limits import DEFAULT_MAX_PIXELS, SMALLEST_SIDE, ImageError
from diffad_ray.images.names import IMAGE_SUFFIXES, is_named_image
from diffad_ray.images.pixels import check_side, for_display, network_input, resized, same_depth
from diffad_ray.images.samples import usual_white

__all__ = [
    "DEFAULT_MAX_PIXELS",
    "IMAGE_SUFFIXES",
    "IN_FULL",
    "SMALLEST_SIDE",
    "DecodedImage",
    "Decoding",
    "ImageError",
    "check_side",
    "decode_image",
    "for_display",
    "is_named_image",
    "network_input",
    "read_stored",
    "resized",
    "same_depth",
    "shown",
    "usual_white",
]
