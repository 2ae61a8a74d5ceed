"""From the bytes of an image file to RGB pixels, or to the reason why there are none.

Archives hold whatever was dropped into them, so nothing here trusts a file: its size is read before anything is
decoded, and every failure becomes an `ImageError` that says what was found. No global state is read or changed, so
many threads may decode at once.
"""

from diffad_ray.images.decode import DecodedImage, decode_image, read_stored, shown
from diffad_ray.images.limits import DEFAULT_MAX_PIXELS, SMALLEST_SIDE, ImageError
from diffad_ray.images.names import IMAGE_SUFFIXES, is_named_image
from diffad_ray.images.pixels import check_side, for_display, network_input, resized, same_depth
from diffad_ray.images.samples import usual_white

__all__ = [
    "DEFAULT_MAX_PIXELS",
    "IMAGE_SUFFIXES",
    "SMALLEST_SIDE",
    "DecodedImage",
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
