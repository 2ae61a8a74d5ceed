"""What an archive holds: a folder or prefix that is listed, a manifest of URIs, or an S3 inventory.

Whatever it is, it becomes an SQL query with the columns `uri`, `version`, `bytes`, `modified` and `path`, which is what
patterns match, and the columns that a manifest brings along. DuckDB runs it with bounded memory: millions of paths are
never in this process's own.
"""

from __future__ import annotations

import glob
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
from diffad_ray.images import IMAGE_SUFFIXES, is_named_image
from diffad_ray.scoring.patterns import check_column
from diffad_ray.table.layout import quoted
from diffad_ray.table.reading import file_list, reason_of

MANIFEST_NAME = re.compile(r".*\.(parquet|csv|csv\.gz|tsv)$", re.IGNORECASE)
INVENTORY_NAME = "/manifest.json"
_NAMES = {
    "uri": ("uri", "image_uri", "url", "path", "file"),
    "version": ("version", "image_version", "etag", "e_tag"),
    "bytes": ("bytes", "image_bytes", "size"),
    "modified": ("modified", "image_modified", "last_modified"),
}
"What a manifest may call the columns that we know."
_TYPES = {"uri": "VARCHAR", "version": "VARCHAR", "bytes": "BIGINT", "modified": "TIMESTAMPTZ"}
_SIGNED = r"(?i)[?&](X-Amz-Signature|X-Goog-Signature|sig|Signature)="
_PASSWORD = r"(?i)^[a-z0-9+.-]+://[^/@]*:[^/@]*@"


@dataclass(frozen=True)
class Archive:
    """An archive, ready to be selected from.

    Attributes:
        query: SQL of its images, maybe with doubles where a manifest has them.
        is_listed: whether versions are those of the store, so that a fetch can tell that an object was replaced.
        columns: those that a manifest brings along.
        other_files: files that are no images.
        left_out: what the listing left out, in sentences.
    """

    query: str
    is_listed: bool = True
    columns: dict[str, pa.DataType] = field(default_factory=dict)
    other_files: int = 0
    left_out: list[str] = field(default_factory=list)


def open_archive(
    location: str,
    connection: duckdb.DuckDBPyConnection,
    scratch: Path,
    enters: Callable[[str], bool] | None = None,
    table: str | None = None,
) -> Archive:
    """List a folder or prefix into a Parquet file in `scratch`, or open a manifest (.parquet, .csv, .tsv) or an S3
    inventory (its manifest.json).

    Args:
        connection: as `table.reading.connect` makes it; the archive's query runs on it.
        enters: which folders are listed, by their path below the archive; None lists all.
        table: a location that is not listed, if it lies in the archive.

    Raises:
        UserError: nothing is there, it can't be read, or it is no manifest.
    """
    try:
        if location.endswith(INVENTORY_NAME):
            return _inventory(location, connection, scratch)
        if MANIFEST_NAME.match(location):
            return _manifest(location, connection)
        return _listed(location, connection, scratch, enters, table)
    except FileNotFoundError as error:
        raise UserError(f"no archive at {location}: check the path or URI ({error})") from error
    except PermissionError as error:
        raise UserError(f"{location} can't be listed: {error}. Check the credentials in the environment") from error
    except (OSError, duckdb.Error) as error:
        raise UserError(f"{location} can't be read: {reason_of(error)}") from error


def _listed(
    location: str,
    connection: duckdb.DuckDBPyConnection,
    scratch: Path,
    enters: Callable[[str], bool] | None,
    table: str | None,
) -> Archive:
    """A folder or prefix, or a single image."""
    listing, omissions = scratch / "listing.parquet", storage.Omissions()
    with pq.ParquetWriter(listing, storage.LISTING, compression="zstd") as writer:
        for chunk in storage.listing(location, enters=enters, omissions=omissions, apart=table):
            writer.write_table(chunk)
    files = f"read_parquet({quoted(str(listing))})"
    query = f"SELECT uri, version, bytes, modified, {_path_sql(location)} AS path FROM {files} WHERE {_is_image('uri')}"
    ((others,),) = connection.execute(f"SELECT count(*) FROM {files} WHERE NOT {_is_image('uri')}").fetchall()
    return Archive(query, other_files=others, left_out=omissions.sentences())


def _is_image(column: str) -> str:
    """SQL: whether a name ends like an image's."""
    endings = "|".join(re.escape(suffix.removeprefix(".")) for suffix in sorted(IMAGE_SUFFIXES))
    return f"regexp_full_match(lower({column}), '(?s).*\\.({endings})')"


def _path_sql(location: str) -> str:
    """SQL: the path below the archive; of an archive of one image, its name."""
    root = location.rstrip("/") + "/"
    below = f"CASE WHEN starts_with(uri, {quoted(root)}) THEN substr(uri, {len(root) + 1})"
    return f"{below} ELSE {quoted(posixpath.basename(location))} END"


def _manifest(location: str, connection: duckdb.DuckDBPyConnection) -> Archive:
    """A table of URIs; relative ones are taken from the manifest's folder."""
    if not storage.exists(location):
        raise FileNotFoundError(f"{location} does not exist")
    reader = _manifest_reader(location, connection)
    described = connection.execute(f"DESCRIBE SELECT * FROM {reader}").fetchall()
    names = {row[0].lower(): row[0] for row in reversed(described)}
    known = {column: next((names[n] for n in accepted if n in names), None) for column, accepted in _NAMES.items()}
    if known["uri"] is None and len(names) == 1:
        (known["uri"],) = names.values()
    if known["uri"] is None:
        listed = ", ".join(row[0] for row in described)
        raise UserError(f"the manifest {location} has the columns {listed}: call the one of the URIs `uri`")
    extra = [row[0] for row in described if row[0] not in known.values()]
    for name in extra:
        check_column(name, f"the manifest {location}")
    selected = [
        f"{'NULL' if name is None else f'TRY_CAST({_identifier(name)} AS {_TYPES[column]})'} AS {column}"
        for column, name in known.items()
    ]
    selected += [_identifier(name) for name in extra]
    folder = posixpath.dirname(location)
    is_whole = "contains(uri, '://') OR starts_with(uri, '/')"
    query = (
        f"SELECT * REPLACE (CASE WHEN {is_whole} THEN uri ELSE {quoted(folder + '/')} || uri END AS uri, "
        "coalesce(version, '') AS version, coalesce(bytes, 0) AS bytes), "
        "regexp_replace(uri, '^[a-z0-9+.-]+://[^/]*/|^/', '') AS path "
        f"FROM (SELECT {', '.join(selected)} FROM {reader}) WHERE coalesce(uri, '') <> ''"
    )
    for pattern, kind in ((_SIGNED, "signed"), (_PASSWORD, "with a password")):
        secret = f"SELECT count(*) FROM ({query}) WHERE regexp_matches(uri, {quoted(pattern)})"
        ((count,),) = connection.execute(secret).fetchall()
        if count:
            raise UserError(
                f"{count} URIs of the manifest {location} are {kind}: whoever reads the table could use them. Give "
                "plain URIs (s3://bucket/key), and credentials through the environment"
            )
    types = connection.sql(f"SELECT {', '.join(map(_identifier, extra)) or 1} FROM ({query}) LIMIT 0").to_arrow_table()
    columns = {name: types.schema.field(name).type for name in extra}
    return Archive(query, is_listed=False, columns=columns)


def _manifest_reader(location: str, connection: duckdb.DuckDBPyConnection) -> str:
    """SQL that reads a manifest's file. Of a CSV nothing is guessed but whether its first line is a header: it names a
    column that we know, or its one column looks like no image."""
    file = quoted(glob.escape(location))
    if location.lower().endswith(".parquet"):
        return f"read_parquet({file}, hive_partitioning = false)"
    delimiter = r"e'\t'" if location.lower().endswith(".tsv") else "','"
    options = f"all_varchar = true, delim = {delimiter}, quote = '\"', escape = '\"', hive_partitioning = false"
    first = connection.execute(f"SELECT * FROM read_csv({file}, {options}, header = false) LIMIT 1").fetchall()
    values = [str(value or "") for value in first[0]] if first else []
    is_named = any(value.strip().lower() in accepted for value in values for accepted in _NAMES.values())
    has_header = is_named or len(values) != 1 or not ("/" in values[0] or is_named_image(values[0]))
    return f"read_csv({file}, {options}, header = {str(has_header).lower()})"


def _inventory(location: str, connection: duckdb.DuckDBPyConnection, scratch: Path) -> Archive:
    """An S3 inventory of the formats CSV, Parquet or ORC: the newest version of each object that is an image."""
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
        # Keys of a CSV inventory are URL-encoded, blanks as plus signs.
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
    # As where a bucket is listed.
    is_hidden = f"regexp_matches(path, {quoted(storage.HIDDEN.pattern)})"
    omissions = storage.Omissions()
    hidden = connection.execute(f"SELECT path FROM ({source}) WHERE {is_hidden}")
    while paths := hidden.fetchmany(10_000):
        for (path,) in paths:
            omissions.add_hidden_key(f"s3://{bucket}/", path)
    source = f"SELECT * FROM ({source}) WHERE NOT {is_hidden}"
    ((others,),) = connection.execute(f"SELECT count(*) FROM ({source}) WHERE NOT {_is_image('path')}").fetchall()
    images = f"SELECT * FROM ({source}) WHERE {_is_image('path')}"
    return Archive(images, other_files=others, left_out=omissions.sentences())


def _beside(location: str, key: str) -> str:
    """A file of an inventory that was copied to a local folder: beside its manifest, or below it as its key says."""
    folder = Path(location).parent
    path = (folder / key).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise UserError(f"the inventory {location} names a file outside its folder: {key}")
    return str(path if path.exists() else folder / posixpath.basename(key))


def _orc_as_parquet(file: str, target: Path) -> str:
    """DuckDB reads no ORC."""
    stripes = orc.ORCFile(pa.BufferReader(storage.read(file)))
    with pq.ParquetWriter(target, stripes.schema) as writer:
        for stripe in range(stripes.nstripes):
            writer.write_batch(stripes.read_stripe(stripe))
    return str(target)


def _identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _snake(name: str) -> str:
    """`LastModifiedDate` of a CSV inventory is `last_modified_date` in a Parquet one."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower().replace("etag", "e_tag").replace("e__tag", "e_tag")
