"""Tables of labels: one row per image with its label, and optionally mask and product."""

from __future__ import annotations

from dataclasses import dataclass

import duckdb

from diffad_ray import storage
from diffad_ray.errors import UserError
from diffad_ray.labels.datasets import LabelledImage
from diffad_ray.labels.words import kind_of
from diffad_ray.lists.files import SUFFIXES, is_list_name
from diffad_ray.lists.places import WINDOWS_ADVICE, is_windows_path, place_sql, text_sql, with_slashes
from diffad_ray.lists.reading import UserList, open_list
from diffad_ray.scratch import scratch_folder
from diffad_ray.sql import connect, identifier, why

COLUMNS = {"uri": ("uri",), "label": ("label",), "mask_uri": ("mask_uri",), "product": ("product",)}
"Accepted names of each column. Only the first two columns are required."
_KNOWN = frozenset(name for names in COLUMNS.values() for name in names)
SAVE_AS_UTF8 = "Save it as UTF-8 (in Excel: CSV UTF-8)"


@dataclass(frozen=True)
class Label:
    """A row of a table of labels; its locations are as written in the table, but with forward slashes."""

    uri: str
    kind: str
    mask_uri: str | None
    product: str

    def resolved(self, table: str) -> LabelledImage:
        """Return the image; relative locations start at the folder of the table."""
        return LabelledImage(
            _beside(table, self.uri), self.kind, self.mask_uri and _beside(table, self.mask_uri), self.product
        )


def is_label_file(location: str) -> bool:
    """Return whether a location has the suffix of a table of labels."""
    return is_list_name(location)


def read_labels(location: str) -> list[Label]:
    """Read the labels of a CSV or TSV file with a header, a Parquet file, or a folder of such parts, in order.

    `words` defines which labels mean good, and which an unspecified defect; every other label is a kind of defect.

    Raises:
        UserError: the file is missing or not such a table, a label is empty, or an image is listed twice.
    """
    rows = _rows(location)
    file = storage.normalised(location).rpartition("/")[2]
    name = file[: -max(len(suffix) for suffix in SUFFIXES if file.lower().endswith(suffix))]
    labels: dict[str, Label] = {}
    for number, (uri, text, mask, product) in enumerate(rows, 1):
        if not uri or not text:
            raise UserError(f"row {number} of {location} has no {'label' if uri else 'uri'}")
        if is_windows_path(uri):
            raise UserError(f"{location} has Windows paths, such as {uri}: {WINDOWS_ADVICE}")
        if uri in labels:
            raise UserError(f"{location} lists {uri} twice: an image has one label")
        labels[uri] = Label(with_slashes(uri), kind_of(text), mask and with_slashes(mask), product or name)
    if not labels:
        raise UserError(f"the table of labels {location} has no rows")
    return list(labels.values())


def _rows(location: str) -> list[tuple[str | None, ...]]:
    """Read the known columns as text, so that 007 keeps its zeros; skip rows without any value."""
    if not is_label_file(location):
        raise UserError(f"{location} is no table of labels: its name must end with one of {', '.join(SUFFIXES)}")
    place = storage.normalised(location)
    try:
        with scratch_folder() as scratch, connect(place) as connection:
            listed = open_list(place, "table of labels", connection, scratch, _KNOWN, advice=SAVE_AS_UTF8)
            return _rows_of(listed, connection)
    except FileNotFoundError:
        raise UserError(f"there is no table of labels {location}") from None
    except OSError as error:
        raise UserError(f"the table of labels {location} can't be read: {error}") from error
    except duckdb.Error as error:
        raise UserError(f"the table of labels {location} can't be read: {why(error)}") from error


def _rows_of(listed: UserList, connection: duckdb.DuckDBPyConnection) -> list[tuple[str | None, ...]]:
    if listed.broken.lines:
        raise UserError(
            f"{listed.subject} can't be read: {listed.broken.first}. Put values that hold what separates columns in "
            "double quotes"
        )
    columns = {name: listed.column(accepted) for name, accepted in COLUMNS.items()}
    if missing := [name for name in ("uri", "label") if columns[name] is None]:
        raise UserError(
            f"{listed.subject} has no column {' and no column '.join(missing)}, only {', '.join(listed.columns)}: it "
            "needs uri and label, and may have mask_uri and product; its first line must name them"
        )
    selected = []
    for name, column in columns.items():
        sql = place_sql if name in ("uri", "mask_uri") else text_sql
        selected.append("NULL" if column is None else sql(column, listed.columns[column]))
    blank = " AND ".join(f"{identifier(name)} IS NULL" for name in listed.columns) if listed.is_text else "false"
    return connection.execute(f"SELECT {', '.join(selected)} FROM {listed.source} WHERE NOT ({blank})").fetchall()


def _beside(table: str, place: str) -> str:
    is_whole = "://" in place or place.startswith(("/", "~"))
    return storage.normalised(place if is_whole else f"{table.rpartition('/')[0]}/{place}")
