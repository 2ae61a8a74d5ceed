"""Reads the directories of a TIFF: its pages, the main page, and the position of its segments (TIFF 6.0, BigTIFF).

Pillow, OpenCV and others disagree on TIFFs: on the byte order of compressed samples, on signs, planes, transparency and
missing rows. Here a page is read as specified, or refused with the reason.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from diffad_ray.images.limits import ImageError, check_size

_FORMATS = {1: "B", 2: "B", 3: "H", 4: "I", 6: "b", 7: "B", 8: "h", 9: "i", 13: "I", 16: "Q", 17: "q", 18: "Q"}
"`struct` formats by TIFF's type number; no tag that is read has fractions."
_MOST_PAGES, _MOST_NUMBERS = 10_000, 2**20
_REDUCED, _MASK = 1, 4
"Bits of NewSubfileType."

NEW_SUBFILE_TYPE, SUBFILE_TYPE, WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC = 254, 255, 256, 257, 258, 259, 262
FILL_ORDER, STRIP_PLACES, ORIENTATION, CHANNELS, STRIP_ROWS, STRIP_BYTES, PLANES = 266, 273, 274, 277, 278, 279, 284
PREDICTOR, COLOUR_MAP, TILE_WIDTH, TILE_HEIGHT, TILE_PLACES, TILE_BYTES = 317, 320, 322, 323, 324, 325
SUB_PAGES, INKS, EXTRA_CHANNELS, SAMPLE_FORMAT, JPEG_TABLES, SUBSAMPLING = 330, 332, 338, 339, 347, 530
_READ = frozenset(range(NEW_SUBFILE_TYPE, PLANES + 1)) | frozenset(range(PREDICTOR, TILE_BYTES + 1))
_READ |= {SUB_PAGES, INKS, EXTRA_CHANNELS, SAMPLE_FORMAT, JPEG_TABLES, SUBSAMPLING}
"Tags that are read; others, which may have any size, are skipped."


class Segment(NamedTuple):
    """A strip or tile of a page: its byte range in the file, and its area in the image."""

    place: int
    bytes: int
    plane: int
    top: int
    left: int
    rows: int
    columns: int


@dataclass(frozen=True)
class Page:
    """A page of a TIFF with its tags as stored."""

    order: str
    "byte order: < or >"
    tags: dict[int, tuple[int, ...]]

    def one(self, tag: int, default: int) -> int:
        return next(iter(self.tags.get(tag, ())), default)

    @property
    def width(self) -> int:
        return self.one(WIDTH, 0)

    @property
    def height(self) -> int:
        return self.one(HEIGHT, 0)

    @property
    def is_whole(self) -> bool:
        """Whether the page is neither a reduced copy of another page nor a mask."""
        return not self.one(NEW_SUBFILE_TYPE, 0) & (_REDUCED | _MASK) and self.one(SUBFILE_TYPE, 1) != 2

    @property
    def channels(self) -> int:
        return self.one(CHANNELS, 1)

    @property
    def is_planar(self) -> bool:
        """Whether the channels are stored as separate planes."""
        return self.one(PLANES, 1) == 2 and self.channels > 1

    @property
    def is_tiled(self) -> bool:
        return TILE_WIDTH in self.tags

    @property
    def compression(self) -> int:
        return self.one(COMPRESSION, 1)

    @cached_property
    def segment_size(self) -> tuple[int, int]:
        """Rows and columns of a strip or tile; the last strip may have fewer rows, tiles are padded."""
        if self.is_tiled:
            return self.one(TILE_HEIGHT, 0), self.one(TILE_WIDTH, 0)
        return min(self.one(STRIP_ROWS, self.height) or self.height, self.height), self.width

    def check_sizes(self, max_pixels: int) -> None:
        """Raise ImageError if the page, or a segment of it, is empty or too large."""
        check_size(self.width, self.height, max_pixels)
        check_size(*self.segment_size[::-1], max_pixels)

    def segments(self, size: int) -> list[Segment]:
        """Return the strips or tiles of the page, ordered by plane and position.

        Args:
            size: size of the file in bytes.

        Raises:
            ImageError: segments are missing, or lie outside of the file.
        """
        rows, columns = self.segment_size
        planes = self.channels if self.is_planar else 1
        tops, lefts = range(0, self.height, rows), range(0, self.width, columns)
        count = planes * len(tops) * len(lefts)
        places = self.tags.get(TILE_PLACES if self.is_tiled else STRIP_PLACES, ())
        lengths = self.tags.get(TILE_BYTES if self.is_tiled else STRIP_BYTES, ())
        if not lengths and self.compression == 1:
            lengths = (2**62,) * len(places)  # old writers omit the lengths of uncompressed segments
        if (named := min(len(places), len(lengths))) < count:
            raise ImageError("unreadable", f"cut off: the TIFF names {named} of the {count} parts of its picture")
        corners = ((plane, top, left) for plane in range(planes) for top in tops for left in lefts)
        segments = []
        for place, length, (plane, top, left) in zip(places, lengths, corners, strict=False):
            if place <= 0 or length <= 0 or place >= size:
                raise ImageError("unreadable", "cut off: parts of the TIFF's picture were never written")
            if place + length > size and length < 2**62:
                needed = place + length
                raise ImageError("unreadable", f"cut off: the TIFF has {size} bytes, its picture needs {needed}")
            height = rows if self.is_tiled else min(rows, self.height - top)
            segments.append(Segment(place, min(length, size - place), plane, top, left, height, columns))
        return segments


class Chosen(NamedTuple):
    """The main page, and a note on omitted pages."""

    page: Page
    note: str


def picture(data: bytes) -> Chosen:
    """Choose the first page that is neither a reduced copy nor a mask; if all are, the largest page.

    Raises:
        ImageError: the directory is damaged, or the file has no page.
    """
    pages = _chain(data, _first(data))
    whole = [page for page in pages if page.is_whole]
    if not whole:
        below = [sub for page in pages for place in page.tags.get(SUB_PAGES, ()) for sub in _chain(data, place)]
        whole = [page for page in below if page.is_whole][:1]
    if not whole:
        return Chosen(max(pages, key=lambda page: page.width * page.height), "")
    return Chosen(whole[0], f"page 1 of {len(whole)}" if len(whole) > 1 else "")


def is_big(data: bytes) -> bool:
    """Return whether a TIFF is a BigTIFF, which has 64-bit offsets."""
    return 43 in data[2:4]


def _order(data: bytes) -> str:
    return "<" if data[:2] == b"II" else ">"


def _first(data: bytes) -> int:
    place: int = _unpack(data, f"{_order(data)}Q", 8)[0] if is_big(data) else _unpack(data, f"{_order(data)}I", 4)[0]
    return place


def _chain(data: bytes, place: int) -> list[Page]:
    """Read the chain of pages that starts at an offset; each page contains the offset of the next."""
    order, pages, seen = _order(data), list[Page](), set[int]()
    count_form, entry_form, next_form = ("Q", "HHQ", "Q") if is_big(data) else ("H", "HHI", "I")
    entry_bytes = struct.calcsize(f"={entry_form}") + struct.calcsize(next_form)
    while place and place not in seen and len(pages) < _MOST_PAGES:
        seen.add(place)
        try:
            (count,) = _unpack(data, order + count_form, place)
            start = place + struct.calcsize(count_form)
            tags: dict[int, tuple[int, ...]] = {}
            for entry in range(start, start + count * entry_bytes, entry_bytes):
                tag, kind, number = _unpack(data, order + entry_form, entry)
                if tag in _READ and kind in _FORMATS and tag not in tags:
                    tags[tag] = _values(data, order, kind, number, entry + entry_bytes - struct.calcsize(next_form))
            (place,) = _unpack(data, order + next_form, start + count * entry_bytes)
        except ImageError:
            if pages and pages[0].is_whole:
                break  # damage after the main page does not matter
            raise
        pages.append(Page(order, tags))
    if not pages:
        raise ImageError("unreadable", "damaged TIFF: it has no page")
    return pages


def _values(data: bytes, order: str, kind: int, number: int, place: int) -> tuple[int, ...]:
    """Read the values of a tag, from the entry itself or from the offset that the entry contains."""
    form = _FORMATS[kind]
    if number * struct.calcsize(form) > (8 if is_big(data) else 4):
        (place,) = _unpack(data, order + ("Q" if is_big(data) else "I"), place)
    if number > _MOST_NUMBERS or place + number * struct.calcsize(form) > len(data):
        return ()  # a missing tag is an error only where it is needed
    return _unpack(data, f"{order}{number}{form}", place)


def _unpack(data: bytes, form: str, place: int) -> tuple[int, ...]:
    try:
        return struct.unpack_from(form, data, place)
    except struct.error:
        raise ImageError("unreadable", f"cut off: the TIFF has {len(data)} bytes, its directory lies beyond") from None
