"""What a header says of the numbers in an opened file."""

from __future__ import annotations

from typing import NamedTuple

from PIL import ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.TiffImagePlugin import TiffImageFile

from diffad_ray.images.containers import jpeg2000_size
from diffad_ray.images.limits import ImageError, check_size

_CHANNELS = {"P": "palette", "PA": "palette", "CMYK": "CMYK", "YCbCr": "YCbCr", "LAB": "LAB"}
_PNG_CHANNELS = {0: "grey", 2: "RGB", 3: "palette", 4: "grey+alpha", 6: "RGBA"}
_CHANNELS |= {"LA": "grey+alpha", "La": "grey+alpha", "RGB": "RGB", "RGBA": "RGBA", "RGBX": "RGB", "RGBa": "RGBA"}


class Samples(NamedTuple):
    """What a header says of the numbers in a file."""

    bits: int
    channels: str
    white: int
    "the largest value that a sample can have"
    is_float: bool = False
    is_white_zero: bool = False
    "the values are upside down, and Pillow leaves them so"

    @property
    def mode(self) -> str:
        return f"{'float' if self.is_float else f'{self.bits}-bit'} {self.channels}"


def samples(image: ImageFile.ImageFile, data: bytes, max_pixels: int) -> Samples:
    """Read depth and channels off an opened image; checks what Pillow doesn't look at.

    Raises:
        ImageError: a size is too large, or the libraries would take the numbers for others than they are.
    """
    channels = _CHANNELS.get(image.mode, "grey")
    bits = 8
    if isinstance(image, TiffImageFile):
        tags = image.tag_v2
        tile_width, tile_height = (max(1, int(tags.get(tag, 1))) for tag in (322, 323))
        check_size(tile_width, tile_height, max_pixels)  # a tile can dwarf its image
        bits, sample_format = max(tags.get(258, (1,))), tags.get(339, (1,))[0]
        if sample_format == 2 and bits == 8:
            raise ImageError("unreadable", "holds signed 8-bit values, which Pillow takes for unsigned ones")
        if tags.get(284) == 2 and bits > 8 and channels != "grey":
            raise ImageError("unreadable", f"holds {bits}-bit colours in separate planes, which no library here reads")
        white = 2 ** (bits - 1) - 1 if sample_format == 2 else 1 if sample_format == 3 else 2**bits - 1
        is_white_zero = tags.get(262) == 0 and image.mode[0] in "IF"
        return Samples(bits, channels, white, sample_format == 3, is_white_zero)
    if isinstance(image, PpmImageFile):
        if image.mode == "1":
            return Samples(1, channels, 1)
        arguments = image.tile[0].args
        white = arguments[1] if isinstance(arguments, tuple) else 65535 if arguments == "I;16B" else 255
        return Samples(white.bit_length(), channels, white)
    if isinstance(image, PngImageFile):
        bits, channels = data[24], _PNG_CHANNELS[data[25]]
    elif isinstance(image, BmpImageFile) and image.mode in "1P":
        bits = data[28] if data[14] >= 40 else data[24]
    elif isinstance(image, GifImageFile):
        channels = "palette"
    elif isinstance(image, Jpeg2KImageFile):
        width, height, bits = jpeg2000_size(data)
        check_size(width, height, max_pixels)  # the codestream decides, and the header around it may say less
    return Samples(bits, channels, 2**bits - 1)
