"""Tables of labels: a row an image with its label, and maybe its mask and product."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from diffad_ray import storage
from diffad_ray.errors import UserError
from diffad_ray.labels.datasets import DEFECT, GOOD, LabelledImage

SUFFIXES = (".csv", ".tsv", ".parquet")
COLUMNS = ("uri", "label", "mask_uri", "product")
"Only the first two must be there."
GOOD_WORDS = frozenset({"good", "ok", "normal", "0", "false"})
DEFECT_WORDS = frozenset({"defect", "defective", "anomaly", "anomalous", "1", "true"})


@dataclass(frozen=True)
class Label:
    """A row of a table of labels, its places as they are written there."""

    uri: str
    kind: str
    mask_uri: str | None
    product: str

    def resolved(self, table: str) -> LabelledImage:
        """The image, with relative places taken from the folder of the table of labels."""
        return LabelledImage(
            _beside(table, self.uri), self.kind, self.mask_uri and _beside(table, self.mask_uri), self.product
        )


def is_label_file(location: str) -> bool:
    """Whether a location is named as a table of labels."""
    return location.lower().endswith(SUFFIXES)


def read_labels(location: str) -> list[Label]:
    """The labels of a CSV (with a header), TSV or Parquet file, in its order.

    `good`, `ok`, `normal`, `0` and `false` mean good; `1`, `true`, `defect`, `defective`, `anomaly` and `anomalous`
    mean a defect of no known kind; every other label is a kind of defect.

    Raises:
        UserError: the file is not there or not such a table, a label is empty, or an image is listed twice.
    """
    columns = _columns(storage.normalised(location))
    if missing := [name for name in COLUMNS[:2] if name not in columns]:
        raise UserError(
            f"the table of labels {location} has no column {' and no column '.join(missing)}, only "
            f"{', '.join(columns)}: it needs uri and label, and may have mask_uri and product"
        )
    name = location.rsplit("/", 1)[-1].rpartition(".")[0]
    labels: dict[str, Label] = {}
    for row in range(len(columns["uri"])):
        uri, text, mask, product = ((columns[c][row] or "").strip() if c in columns else "" for c in COLUMNS)
        if not uri or not text:
            raise UserError(f"row {row + 1} of {location} has no {'label' if uri else 'uri'}")
        if uri in labels:
            raise UserError(f"{location} lists {uri} twice: an image has one label")
        word = text.lower()
        kind = GOOD if word in GOOD_WORDS else DEFECT if word in DEFECT_WORDS else text
        labels[uri] = Label(uri, kind, mask or None, product or name)
    if not labels:
        raise UserError(f"the table of labels {location} has no rows")
    return list(labels.values())


def _columns(location: str) -> dict[str, list[str | None]]:
    """The columns of a table by name, as texts: 007 is a name and no number."""
    if not is_label_file(location):
        raise UserError(f"{location} is no table of labels: its name must end with one of {', '.join(SUFFIXES)}")
    try:
        data = storage.read(location)
    except FileNotFoundError:
        raise UserError(f"there is no table of labels {location}") from None
    except OSError as error:
        raise UserError(f"the table of labels {location} can't be read: {error}") from error
    try:
        if location.lower().endswith(".parquet"):
            # Without Arrow's threads: a process that ends by an error message as they start aborts now and then.
            file = pq.ParquetFile(io.BytesIO(data), pre_buffer=False)
            known = [name for name in _each_once(file.schema_arrow.names) if name in COLUMNS]
            table = file.read(known, use_threads=False)
            texts = {name: table[name].cast(pa.string()).to_pylist() for name in known}
            return {name: texts.get(name, []) for name in file.schema_arrow.names}
        return _columns_of_text(data.decode("utf-8-sig"), "\t" if location.lower().endswith(".tsv") else ",")
    except (pa.ArrowException, OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{location} is no table of labels: {error}") from error


def _columns_of_text(text: str, delimiter: str) -> dict[str, list[str | None]]:
    """The columns of a CSV or TSV with a header; empty lines are no rows."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows: list[list[str]] = []
    for row in reader:
        if len(row) > 1 or (row and row[0].strip()):
            if rows and len(row) != len(rows[0]):
                raise csv.Error(f"line {reader.line_num} has {len(row)} fields, the header {len(rows[0])}")
            rows.append(row)
    if not rows:
        raise csv.Error("it has no header")
    names = _each_once([name.strip() for name in rows[0]])
    return {name: [row[k] for row in rows[1:]] for k, name in enumerate(names)}


def _each_once(names: list[str]) -> list[str]:
    """Names of columns; of those that count none may be there twice."""
    if twice := [name for name in COLUMNS if names.count(name) > 1]:
        raise csv.Error(f"it has the column {twice[0]} twice")
    return names


def _beside(table: str, place: str) -> str:
    is_whole = "://" in place or place.startswith(("/", "~"))
    return storage.normalised(place if is_whole else f"{table.rpartition('/')[0]}/{place}")
