"""From the bytes of a text file to text: compression, encoding, and where bytes are that belong to no encoding."""

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
    (codecs.BOM_UTF32_LE, "utf-32"),  # begins as the mark of UTF-16 does
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
"What reading a compressed file that is not whole raises."


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """The bytes of a file, unpacked if gzip has packed them, whatever the name says."""
    with path.open("rb") as file:
        is_packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        if not is_packed:
            yield file
            return
        with gzip.GzipFile(fileobj=file) as unpacked:
            yield cast(BinaryIO, unpacked)


def encoding_of(head: bytes, told: str | None, subject: str) -> str:
    """The encoding that a file's mark names, else what the user has told, else UTF-8.

    Args:
        head: its first bytes.
        subject: what comes before the colon of an error.

    Raises:
        UserError: it is no text.
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
    """The text, its line ends as they are."""
    return io.TextIOWrapper(stream, encoding=encoding, errors="strict", newline="")


def undecodable(path: Path, encoding: str, subject: str, advice: str) -> UserError:
    """The error that names the first byte that is not of an encoding, with its line."""
    encoding = encoding.removesuffix("-sig")  # its decoder takes the mark away, and counts without it
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
