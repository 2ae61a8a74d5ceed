"""The files of a list: a single file, or the parts in a folder as written by Spark."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from urllib.parse import unquote

from diffad_ray import storage
from diffad_ray.storage import FileInfo
from diffad_ray.storage.failures import from_fsspec
from diffad_ray.storage.locations import on_disk

SUFFIXES = (".csv", ".tsv", ".parquet", ".csv.gz", ".tsv.gz")
WHOLE_BYTES = 64 * 2**20
"Objects up to this size are read whole by `storage.read`, which retries."
_PART = re.compile(r"part-[^.]*")
_PARTITION = re.compile(r"([^=/]+)=([^/]*)")
_NO_VALUE = "__HIVE_DEFAULT_PARTITION__"


def is_list_name(location: str) -> bool:
    """Return whether a location has the suffix of a list."""
    return location.lower().endswith(SUFFIXES)


def is_parquet(location: str) -> bool:
    return location.lower().endswith(".parquet")


def list_files(location: str) -> list[FileInfo]:
    """Return the file of a list, or the parts of a folder or prefix, sorted; an empty list if there are no parts.

    Empty files are not parts, nor are files and folders whose names begin with `_` or `.`.

    Raises:
        FileNotFoundError: there is nothing at that location.
    """
    below = list(storage.walk(location))
    if [file.uri for file in below] == [location]:
        return below
    return [file for file in below if _is_part(file, location)]


def _is_part(file: FileInfo, location: str) -> bool:
    names = file.uri.removeprefix(location).strip("/").split("/")
    if file.bytes == 0 or any(name.startswith(("_", ".")) for name in names):
        return False
    if is_parquet(location):
        return is_parquet(names[-1])
    return (is_list_name(names[-1]) and not is_parquet(names[-1])) or _PART.fullmatch(names[-1]) is not None


def partitions(file: str, location: str) -> dict[str, str | None]:
    """Return the Hive partition columns of a part: {"line": "1"} for `line=1/part-0.parquet`."""
    folders = file.removeprefix(location).split("/")[:-1]
    found = [_PARTITION.fullmatch(folder) for folder in folders]
    return {match[1]: None if match[2] == _NO_VALUE else unquote(match[2]) for match in found if match}


def local_file(file: FileInfo, copy: Path) -> Path:
    """Return a local path to a file: its own path, or that of a copy of the object at `copy`."""
    if storage.is_local(file.uri):
        return Path(on_disk(file.uri))
    if file.bytes <= WHOLE_BYTES:
        copy.write_bytes(storage.read(file.uri))
        return copy
    try:
        with storage.filesystem(file.uri).open(file.uri, "rb") as source, copy.open("wb") as target:
            shutil.copyfileobj(source, target, 2**22)
    except Exception as error:  # noqa: BLE001 - each system raises what its client does
        raise from_fsspec(error, file.uri) from None
    return copy
