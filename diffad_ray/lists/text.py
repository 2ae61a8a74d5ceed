"""Converts CSV and TSV lists to Parquet in batches of rows.

The separator is detected from the first lines. All values are stripped text; empty ones are null. Python's `csv` reads
the rows, because it reports the line of an error and accepts every kind of line end.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from diffad_ray.errors import UserError
from diffad_ray.images import is_named_image
from diffad_ray.lists.encodings import DAMAGED, as_text, encoding_of, opened, undecodable

BATCH_ROWS = 50_000
HEAD_CHARACTERS = 65_536
SAMPLE_ROWS = 20
"Number of rows from which the separator is detected."
SEPARATORS = (",", ";", "\t", "|")
_SEPARATOR_LINE = "sep="
"Start of Excel's separator line, as in `sep=;`."
_END = "\x00end of the list"
"Sentinel line after the last one: it is read as a row of its own, unless it is inside an unclosed quote."


class Form(NamedTuple):
    """The format of a text list: its separator, column names, and the number of rows before the data."""

    separator: str
    names: list[str]
    skipped: int


@dataclass
class Broken:
    """The number of lines with more fields than columns, and a description of the first."""

    lines: int = 0
    first: str = ""

    def add(self, line: int, fields: Sequence[str], columns: int) -> None:
        if not self.lines:
            shown = ", ".join(fields)
            self.first = f"line {line} has {len(fields)} fields, the header {columns}: {shown[:200]}"
        self.lines += 1


@dataclass
class TextTable:
    """The column names and number of rows written from a text list, and its broken lines."""

    names: list[str] = field(default_factory=list)
    rows: int = 0
    broken: Broken = field(default_factory=Broken)


def write_text(
    files: Iterable[tuple[Path, dict[str, str | None], str]],
    target: Path,
    separator: str,
    known: Set[str],
    encoding: str | None,
    advice: str,
) -> TextTable:
    """Write the rows of text files to one Parquet file.

    Args:
        files: path, values of the partition columns, and start of error messages, for each file.
        target: path of the Parquet file.
        separator: expected separator; the first lines may show another one.
        known: lower-case column names by which a header is recognised.
        encoding: encoding of files without a byte order mark; None takes UTF-8.
        advice: advice in the error for another encoding.

    Raises:
        UserError: a file is not such text, or its columns differ from the first file's.
    """
    table = TextTable()
    form: Form | None = None
    writer: pq.ParquetWriter | None = None
    try:
        for path, constants, subject in files:
            with opened(path) as stream:
                found = encoding
                try:
                    head = stream.read(4)
                    stream.seek(0)
                    found = encoding_of(head + stream.read(1000), encoding, subject)
                    stream.seek(0)
                    text = as_text(stream, found)
                    form, first = _form(text, separator, known, form, subject)
                    if writer is None:
                        table.names = [*form.names, *constants]
                        schema = pa.schema([(str(k), pa.string()) for k in range(len(table.names))])
                        writer = pq.ParquetWriter(target, schema, compression="zstd")
                    elif [*form.names, *constants] != table.names:
                        raise UserError(f"{subject}: it has other folders of the form name=value than the first part")
                    for rows in _batches(first, form, table.broken, subject):
                        arrays = [_column(values, subject) for values in rows]
                        arrays += [pa.array([value] * len(arrays[0]), pa.string()) for value in constants.values()]
                        writer.write_table(pa.table(arrays, schema=schema))
                        table.rows += len(arrays[0])
                except UnicodeDecodeError:
                    raise undecodable(path, found or "utf-8", subject, advice) from None
                except csv.Error as error:
                    raise UserError(
                        f"{subject}: a value has more than {csv.field_size_limit()} characters: close the quote that "
                        "opens before it"
                    ) from error
                except DAMAGED as error:
                    raise UserError(f"{subject}: it is damaged, packed by gzip and not whole") from error
    finally:
        if writer is not None:
            writer.close()
    return table


def _form(
    text: io.TextIOWrapper, separator: str, known: Set[str], first: Form | None, subject: str
) -> tuple[Form, Iterator[str]]:
    """Return the form of a text, and an iterator over all of its lines.

    Args:
        first: form of the list's first part, or None; later parts have its columns, with or without a header.
    """
    head: list[str] = []
    size = 0
    for line in text:
        head.append(line)
        size += len(line)
        if size > HEAD_CHARACTERS:
            break
    lines = chain(head, text)
    if first is None:
        return sniffed(head, separator, known, subject), lines
    names = next(_records(head, first.separator), (0, []))[1]
    has_header = [name.strip() for name in names] == first.names
    if not has_header and any(name.strip().lower() in known for name in names):
        raise UserError(f"{subject}: it has the columns {', '.join(names)}, the first part {', '.join(first.names)}")
    return first._replace(skipped=1 if has_header else 0), lines


def sniffed(head: Sequence[str], expected: str, known: Set[str], subject: str) -> Form:
    """Detect the form of a text from its first lines.

    The separator is the one that gives most known names in the header. If no name is known, it is the first one that
    splits the header and gives the same number of fields in each sampled line. A line that is one path is not a header.

    Raises:
        UserError: there is no line.
    """
    skipped, candidates = 0, [expected, *(c for c in SEPARATORS if c != expected)]
    lead = next((line for line in head if line.strip()), "").strip().strip('"').lower()
    if lead.startswith(_SEPARATOR_LINE) and len(lead) == len(_SEPARATOR_LINE) + 1:
        skipped, candidates = 1, [lead[-1]]
    elif lead == _SEPARATOR_LINE:  # a tab, stripped
        skipped, candidates = 1, ["\t"]
    samples = {c: [row for _, row in islice(_records(head, c), skipped, skipped + SAMPLE_ROWS)] for c in candidates}
    if not samples[candidates[0]]:
        raise UserError(f"{subject}: it has no header")
    headers = {c: [name.strip() for name in rows[0]] for c, rows in samples.items()}
    counts = {c: sum(name.lower() in known for name in names) for c, names in headers.items()}
    whole = samples[candidates[0]][0]
    separator = max(candidates, key=lambda c: counts[c])
    if not counts[separator]:
        cuts = [c for c in candidates if len(headers[c]) > 1 and len({len(row) for row in samples[c]}) == 1]
        if len(whole) == 1 and is_named_image(whole[0].strip()):
            cuts = []
        separator = next(iter(cuts), candidates[0])
    names = headers[separator]
    if not counts[separator] and len(names) == 1 and _is_place(names[0]):
        return Form(separator, ["uri"], skipped)
    return Form(separator, names, skipped + 1)


def _is_place(text: str) -> bool:
    return "/" in text or "\\" in text or is_named_image(text)


def _records(lines: Iterable[str], separator: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows that are not blank, each with the number of its last line."""
    reader = csv.reader(lines, delimiter=separator, skipinitialspace=separator != "\t")
    for row in reader:
        if any(value.strip() for value in row):
            yield reader.line_num, row


def _batches(lines: Iterable[str], form: Form, broken: Broken, subject: str) -> Iterator[list[tuple[str, ...]]]:
    """Yield the columns of the rows below the header, in batches of at most `BATCH_ROWS` rows."""
    width = len(form.names)
    # csv.reader reports an unclosed quote only in strict mode, which refuses blanks after a closing quote. The sentinel
    # line detects unclosed quotes instead.
    reader = csv.reader(chain(lines, [_END]), delimiter=form.separator, skipinitialspace=form.separator != "\t")
    waiting = form.skipped
    while waiting:
        waiting -= any(value.strip() for value in next(reader))
    before = reader.line_num
    while rows := list(islice(reader, BATCH_ROWS)):
        if any(_END in value for value in rows[-1]):
            if rows[-1] != [_END]:
                text = "".join(rows[-1])
                opened_in = reader.line_num - text.count("\n") - (not text.endswith(f"\n{_END}"))
                raise UserError(f"{subject}: a quote opens in line {opened_in}, and none closes it")
            del rows[-1]
        if set(map(len, rows)) != {width}:
            rows = _mended(rows, width, before, broken)
        before = reader.line_num
        if rows:
            yield list(zip(*rows, strict=True))


def _mended(rows: list[list[str]], width: int, before: int, broken: Broken) -> list[list[str]]:
    """Return the rows with `width` fields each: pad short rows, cut empty fields after the last column, skip blanks.

    Rows with more fields are added to `broken`.

    Args:
        before: number of the line before the first row.
    """
    mended = []
    line = before
    for row in rows:
        line += 1
        if len(row) > width and not any(value.strip() for value in row[width:]):
            row = row[:width]
        if len(row) > width:
            broken.add(line, row, width)
        elif row and (len(row) > 1 or row[0].strip()):
            mended.append(row + [""] * (width - len(row)))
        line += sum(value.count("\n") for value in row)
    return mended


def _column(values: Sequence[str], subject: str) -> pa.Array:
    array = pa.array(values, pa.string())
    if pc.any(pc.match_substring(array, "\0")).as_py():
        value = next(value for value in values if "\0" in value)
        raise UserError(
            f"{subject}: it has a NUL character in {value.split(chr(0))[0]!r}: it is damaged, write it again"
        )
    stripped = pc.utf8_trim_whitespace(array)
    return pc.if_else(pc.equal(stripped, ""), pa.scalar(None, pa.string()), stripped)
