"""An archive as an SQL query: a folder or prefix that is listed, a manifest of URIs, or an S3 inventory.

The query has the columns `uri`, `version`, `bytes`, `modified` and `path`, which patterns match, and the columns of a
manifest. DuckDB runs it with bounded memory, so this process never holds millions of paths.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.orc as orc
import pyarrow.parquet as pq

from diffad_ray import storage
from diffad_ray.errors import UserError
from diffad_ray.images import IMAGE_SUFFIXES
from diffad_ray.lists.files import is_list_name
from diffad_ray.scoring.manifest import open_manifest
from diffad_ray.sql import quoted, why
from diffad_ray.table.reading import file_list

INVENTORY_NAME = "/manifest.json"


@dataclass(frozen=True)
class Archive:
    """An archive, ready to be selected from.

    Attributes:
        query: SQL of its images. A manifest may name an image twice.
        is_listed: whether the versions are those of the store, so that a fetch can detect a replaced object.
        columns: columns of a manifest.
        untyped: those of them that are text because the manifest has no types.
        other_files: number of files that are not images.
        notes: sentences for the user, also about what the listing left out.
    """

    query: str
    is_listed: bool = True
    columns: dict[str, pa.DataType] = field(default_factory=dict)
    untyped: frozenset[str] = frozenset()
    other_files: int = 0
    notes: list[str] = field(default_factory=list)


def open_archive(
    location: str,
    connection: duckdb.DuckDBPyConnection,
    scratch: Path,
    encoding: str | None = None,
    enters: Callable[[str], bool] | None = None,
    table: str | None = None,
) -> Archive:
    """List a folder or prefix, or open a manifest or an S3 inventory.

    A listing becomes a Parquet file in `scratch`. A manifest is a .parquet, .csv or .tsv file, or a folder of such
    parts. An inventory is named by its manifest.json.

    Args:
        connection: from `sql.connect`; the query of the archive runs on it.
        encoding: encoding of a manifest that is text without a byte order mark; None means UTF-8.
        enters: decides by the path below the archive which folders are listed; None lists all.
        table: a location that is not listed if it lies in the archive.

    Raises:
        UserError: the location does not exist, can't be read, or is not a manifest.
    """
    try:
        if location.endswith(INVENTORY_NAME):
            return _inventory(location, connection, scratch)
        if is_list_name(location):
            query, columns, untyped, notes = open_manifest(location, connection, scratch, encoding)
            return Archive(query, is_listed=False, columns=columns, untyped=untyped, notes=notes)
        return _listed(location, connection, scratch, enters, table)
    except FileNotFoundError as error:
        raise UserError(f"no archive at {location}: check the path or URI ({error})") from error
    except PermissionError as error:
        raise UserError(f"{location} can't be listed: {error}. Check the credentials in the environment") from error
    except OSError as error:
        raise UserError(f"{location} can't be read: {error}") from error
    except duckdb.Error as error:
        raise UserError(f"{location} can't be read: {why(error)}") from error


def _listed(
    location: str,
    connection: duckdb.DuckDBPyConnection,
    scratch: Path,
    enters: Callable[[str], bool] | None,
    table: str | None,
) -> Archive:
    """List a folder or prefix, or a single image."""
    listing, omissions = scratch / "listing.parquet", storage.Omissions()
    with pq.ParquetWriter(listing, storage.LISTING, compression="zstd") as writer:
        for chunk in storage.listing(location, enters=enters, omissions=omissions, apart=table):
            writer.write_table(chunk)
    files = f"read_parquet({quoted(str(listing))})"
    query = f"SELECT uri, version, bytes, modified, {_path_sql(location)} AS path FROM {files} WHERE {_is_image('uri')}"
    ((others,),) = connection.execute(f"SELECT count(*) FROM {files} WHERE NOT {_is_image('uri')}").fetchall()
    return Archive(query, other_files=others, notes=omissions.sentences())


def _is_image(column: str) -> str:
    """Return SQL that is true if a name has the ending of an image."""
    endings = "|".join(re.escape(suffix.removeprefix(".")) for suffix in sorted(IMAGE_SUFFIXES))
    return f"regexp_full_match(lower({column}), '(?s).*\\.({endings})')"


def _path_sql(location: str) -> str:
    """Return SQL of the path below the archive, or of the file name if the archive is one image."""
    root = location.rstrip("/") + "/"
    below = f"CASE WHEN starts_with(uri, {quoted(root)}) THEN substr(uri, {len(root) + 1})"
    return f"{below} ELSE {quoted(posixpath.basename(location))} END"


def _inventory(location: str, connection: duckdb.DuckDBPyConnection, scratch: Path) -> Archive:
    """Open an S3 inventory in CSV, Parquet or ORC, with the newest version of each object that is an image."""
    try:
        described: dict[str, Any] = json.loads(storage.read(location))
        bucket, form = described["sourceBucket"], described["fileFormat"].lower()
        target = described["destinationBucket"].rsplit(":", 1)[-1]
        keys = [file["key"] for file in described["files"]]
        fields = [name.strip() for name in described["fileSchema"].split(",")] if form == "csv" else []
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(f"{location} is no S3 inventory's manifest.json ({error!r} is wrong in it)") from error
    scheme = location.partition("://")[0] if "://" in location else ""
    if not keys:
        raise UserError(f"the inventory {location} names no files")
    files = [f"{scheme}://{target}/{key}" for key in keys] if scheme else [_beside(location, key) for key in keys]
    if form == "orc":
        files = [_orc_as_parquet(file, scratch / f"inventory-{k}.parquet") for k, file in enumerate(files)]
    listed = file_list(files)
    if form == "csv":
        names = "[" + ", ".join(quoted(_snake(name)) for name in fields) + "]"
        form_of_csv = "header = false, all_varchar = true, delim = ',', quote = '\"', hive_partitioning = false"
        reader = f"read_csv({listed}, {form_of_csv}, names = {names})"
        # Keys of a CSV inventory are URL-encoded, with plus signs for blanks.
        key = "url_decode(replace(key, '+', ' '))"
    else:
        reader, key = f"read_parquet({listed}, union_by_name = true, hive_partitioning = false)", "key"
    names_found = {row[0] for row in connection.execute(f"DESCRIBE SELECT * FROM {reader}").fetchall()}
    kept = "coalesce(is_latest::VARCHAR, 'true') = 'true'" if "is_latest" in names_found else "true"
    if "is_delete_marker" in names_found:
        kept += " AND coalesce(is_delete_marker::VARCHAR, 'false') = 'false'"
    columns = {"e_tag": "''", "size": "0", "last_modified_date": "NULL"}
    columns |= {name: name for name in columns if name in names_found}
    source = (
        f"SELECT {quoted(f's3://{bucket}/')} || {key} AS uri, coalesce({columns['e_tag']}, '') AS version, "
        f"TRY_CAST({columns['size']} AS BIGINT) AS bytes, "
        f"TRY_CAST({columns['last_modified_date']} AS TIMESTAMPTZ) AS modified, {key} AS path "
        f"FROM {reader} WHERE {kept}"
    )
    # Hidden keys are left out, as in the listing of a bucket.
    is_hidden = f"regexp_matches(path, {quoted(storage.HIDDEN.pattern)})"
    omissions = storage.Omissions()
    hidden = connection.execute(f"SELECT path FROM ({source}) WHERE {is_hidden}")
    while paths := hidden.fetchmany(10_000):
        for (path,) in paths:
            omissions.add_hidden_key(f"s3://{bucket}/", path)
    source = f"SELECT * FROM ({source}) WHERE NOT {is_hidden}"
    ((others,),) = connection.execute(f"SELECT count(*) FROM ({source}) WHERE NOT {_is_image('path')}").fetchall()
    images = f"SELECT * FROM ({source}) WHERE {_is_image('path')}"
    return Archive(images, other_files=others, notes=omissions.sentences())


def _beside(location: str, key: str) -> str:
    """Return a file of an inventory that was copied to a local folder: beside the manifest, or below it by its key."""
    folder = Path(location).parent
    path = (folder / key).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise UserError(f"the inventory {location} names a file outside its folder: {key}")
    return str(path if path.exists() else folder / posixpath.basename(key))


def _orc_as_parquet(file: str, target: Path) -> str:
    """Convert an ORC file to Parquet, because DuckDB does not read ORC, and return its path."""
    stripes = orc.ORCFile(pa.BufferReader(storage.read(file)))
    with pq.ParquetWriter(target, stripes.schema) as writer:
        for stripe in range(stripes.nstripes):
            writer.write_batch(stripes.read_stripe(stripe))
    return str(target)


def _snake(name: str) -> str:
    """Return a column name of a CSV inventory as a Parquet inventory spells it: `last_modified_date`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower().replace("etag", "e_tag").replace("e__tag", "e_tag")
