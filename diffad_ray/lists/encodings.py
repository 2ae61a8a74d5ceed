"""Decodes text files: decompression, detection of the encoding, and the position of bytes that can't be decoded."""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from diffad_ray.errors import UserError

CHUNK = 2**20
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # precedes UTF-16, whose mark is a prefix of this one
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_OTHERS = {
    b"PK\x03\x04": "an Excel workbook or a ZIP file: save it as CSV UTF-8",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook: save it as CSV UTF-8",
    b"PAR1": "a Parquet file: let its name end in .parquet",
    b"%PDF": "a PDF file: give a table of text",
}
DAMAGED = (EOFError, gzip.BadGzipFile, zlib.error)
"Exceptions on reading a damaged or truncated gzip file."


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Open a file for binary reading, and decompress it if its content is gzip, whatever its name."""
    with path.open("rb") as file:
        is_packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        if not is_packed:
            yield file
            return
        with gzip.GzipFile(fileobj=file) as unpacked:
            yield cast(BinaryIO, unpacked)


def encoding_of(head: bytes, told: str | None, subject: str) -> str:
    """Return the encoding named by a file's byte order mark, else the user's, else UTF-8.

    Args:
        head: first bytes of the file.
        told: the user's encoding, or None.
        subject: text before the colon of an error message.

    Raises:
        UserError: the file is not text.
    """
    for magic, what in _OTHERS.items():
        if head.startswith(magic):
            raise UserError(f"{subject}: it is {what}")
    for mark, encoding in _MARKS:
        if head.startswith(mark):
            return encoding
    if told is None and b"\0" in head[:1000]:
        where = head.index(b"\0")
        raise UserError(
            f"{subject}: it has a NUL byte at byte {where + 1}, so it is damaged, or UTF-16 without its mark: save it "
            "as UTF-8"
        )
    return told or "utf-8"


def as_text(stream: BinaryIO, encoding: str) -> io.TextIOWrapper:
    """Wrap a binary stream as text, and keep its line ends."""
    return io.TextIOWrapper(stream, encoding=encoding, errors="strict", newline="")


def undecodable(path: Path, encoding: str, subject: str, advice: str) -> UserError:
    """Return the error that names the first byte that can't be decoded, and its line."""
    encoding = encoding.removesuffix("-sig")  # the -sig decoder drops the mark, which would shift the byte count
    decoder = codecs.getincrementaldecoder(encoding)()
    lines, start = 1, 0
    with opened(path) as stream:
        while True:
            chunk = stream.read(CHUNK)
            held = len(decoder.getstate()[0])
            try:
                lines += _line_ends(decoder.decode(chunk, final=not chunk))
            except UnicodeDecodeError as error:
                lines += _line_ends(error.object[: error.start].decode(encoding, "ignore"))
                where = start - held + error.start + 1
                byte = error.object[error.start]
                return UserError(
                    f"{subject}: it is not {encoding.upper()}, line {lines} holds the byte 0x{byte:02X} (byte {where} "
                    f"of the file). {advice}"
                )
            start += len(chunk)
            if not chunk:
                return UserError(f"{subject}: it is not {encoding.upper()}. {advice}")


def _line_ends(text: str) -> int:
    return text.count("\n") + text.replace("\r\n", "").count("\r")
