"""Archives that are lists: manifests of URIs, and S3 inventories."""

from __future__ import annotations

import csv
import gzip
import json
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.orc
import pyarrow.parquet as pq
import pytest
from selecting import selected

from diffad_ray import UserError, storage
from diffad_ray.bundles.bundle import Bundle
from diffad_ray.scoring.load import LoadedImage, fetch
from diffad_ray.scoring.manifest import refuse_absent


def test_manifests(two_lines: Path, bundle: Bundle, tmp_path: Path) -> None:
    uris = [str(two_lines / "line1" / "top" / f"{k}.png") for k in range(5)]
    pq.write_table(pa.table({"uri": uris, "station": [1, 2, 3, 4, 5]}), tmp_path / "list.parquet")
    found, rows = selected(tmp_path / "list.parquet", bundle, tmp_path)
    assert [row["image_uri"] for row in rows] == uris
    assert [row["station"] for row in rows] == [1, 2, 3, 4, 5]
    assert found.columns.field("station").type == pa.int64()
    assert not found.archive.is_listed
    (tmp_path / "list.csv").write_text("uri,etag\n" + "".join(f"archive/line1/top/{k}.png,v{k}\n" for k in (0, 1, 1)))
    found, rows = selected(tmp_path / "list.csv", bundle, tmp_path)
    assert [row["image_uri"] for row in rows] == uris[:2], "relative URIs start at the manifest's folder"
    assert [row["image_version"] for row in rows] == ["v0", "v1"]
    assert "1 entries of the manifest name an image a second time" in found.notes
    (tmp_path / "odd.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="call the one of the URIs `uri`"):
        selected(tmp_path / "odd.csv", bundle, tmp_path)
    (tmp_path / "signed.csv").write_text("uri\ns3://a/b.png?X-Amz-Signature=abc\n")
    with pytest.raises(UserError, match="signed") as error:
        selected(tmp_path / "signed.csv", bundle, tmp_path)
    assert "abc" not in str(error.value)
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match="can't be read"):
        selected(tmp_path / "broken.parquet", bundle, tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "uris"),
    [
        ("plain.csv", "/a/1.png\n/a/2.png\n", ["/a/1.png", "/a/2.png"]),
        ("odd;names.csv", "uri\n/a/1;x.png\n/a/2|y.png\n", ["/a/1;x.png", "/a/2|y.png"]),
        ("quoted.csv", 'uri,note\n"/a/1,2.png","a ""b"""\n', ["/a/1,2.png"]),
        ("two.csv", "id,uri\n7,/a/1.png\n", ["/a/1.png"]),
        ("tabs.tsv", "uri\tsize\n/a/1.png\t5\n", ["/a/1.png"]),
        ("one.csv", "image\n/a/1.png\n", ["/a/1.png"]),
    ],
)
def test_csv_manifests(name: str, text: str, uris: list[str], bundle: Bundle, tmp_path: Path) -> None:
    folder = tmp_path / "day=2026-11-21"
    folder.mkdir()
    (folder / name).write_text(text.replace("id,uri", "part,uri"))
    found, rows = selected(folder / name, bundle, tmp_path)
    assert [row["image_uri"] for row in rows] == uris
    assert "day" not in found.columns.names


@pytest.mark.parametrize(
    ("text", "because"),
    [
        ("uri\nsftp://user:hush@host/a.png\n", "with a password"),
        ("uri\ns3://a/b.png?x-amz-signature=hush\n", "signed"),
        ("uri,shard\n/a.png,1\n", "taken already"),
        ("uri,My Column\n/a.png,1\n", "small letters, digits and _ for its name, such as my_column"),
        ("uri\na.png;A\nb.png;B\n", "2 of 2 URIs of the manifest look like several columns, such as a.png;A"),
        ('"uri;station"\n"a.png;A"\n', "has one column, uri;station: separate its columns by commas"),
        ("uri\nC:\\plant\\1.png\n", r"1 of 1 URIs of the manifest are Windows paths, such as C:\\plant\\1.png"),
        ("a.png,A\nb.png,B\n", "its first line must hold the names of the columns"),
        ("uri,station\n,A\n,B\na.png,C\n", "2 of 3 rows of the manifest have no URI, such as the one of A"),
    ],
)
def test_refused_manifests(text: str, because: str, bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(UserError, match=because) as error:
        selected(tmp_path / "list.csv", bundle, tmp_path)
    assert "hush" not in str(error.value)


def test_manifests_of_spreadsheets_and_of_windows(bundle: Bundle, tmp_path: Path) -> None:
    text = "\ufeffURI;Size ; line\r\na\\1.png ;5;A\r\nC:\\plant\\2.png;;B\r\n\"'b/3.png'\";7;\r\n;;D\r\n;;\r\n"
    (tmp_path / "list.csv").write_text(text, newline="")
    found, rows = selected(tmp_path / "list.csv", bundle, tmp_path)
    uris = [f"{tmp_path}/a/1.png", f"{tmp_path}/b/3.png", "C:\\plant\\2.png"]
    assert [(row["image_uri"], row["image_bytes"], row["line"]) for row in rows] == [
        (uris[0], 5, "A"),
        (uris[1], 7, None),
        (uris[2], 0, "B"),
    ]
    assert found.notes == [
        "1 of 4 rows of the manifest have no URI, such as the one of D: they are left out",
        "1 of 3 URIs of the manifest are Windows paths, such as C:\\plant\\2.png: this machine can't read them, "
        "so they get the status missing",
        "1 URIs of the manifest have backslashes, such as a\\1.png: they are taken for slashes",
    ]
    loaded = fetch(uris[2], 0, None)
    assert isinstance(loaded, LoadedImage)
    assert (loaded.status, loaded.error) == ("missing", "a Windows path in the manifest, which this machine can't read")


@pytest.mark.parametrize(
    ("moment", "understood"),
    [
        ("2026-11-20T22:00:00+02:00", datetime(2026, 11, 20, 20, tzinfo=UTC)),
        ("2026-11-20T22:00", datetime(2026, 11, 20, 22, tzinfo=UTC)),
        ("2026-11-20", datetime(2026, 11, 20, tzinfo=UTC)),
        (1795212000, datetime(2026, 11, 20, 22, tzinfo=UTC)),
        ("1795212000", datetime(2026, 11, 20, 22, tzinfo=UTC)),
        (1795212000.5, datetime(2026, 11, 20, 22, 0, 0, 500_000, tzinfo=UTC)),
        (1795212000_000, datetime(2026, 11, 20, 22, tzinfo=UTC)),
        (pd.Timestamp("2026-11-20T22:00"), datetime(2026, 11, 20, 22, tzinfo=UTC)),
        (pd.Timestamp("2026-11-20T22:00", tz="Europe/Berlin"), datetime(2026, 11, 20, 21, tzinfo=UTC)),
        ("20.11.2026 22:00", None),
        ("20261120", None),
        ("infinity", None),
    ],
)
def test_moments(moment: object, understood: datetime | None, bundle: Bundle, tmp_path: Path) -> None:
    moments = [moment] if understood else [moment, "2026-11-20", "2026-11-20"]
    uris = [f"s3://plant/{k}.png" for k in range(len(moments))]
    pd.DataFrame({"uri": uris, "modified": moments}).to_parquet(tmp_path / "list.parquet")
    found, rows = selected(tmp_path / "list.parquet", bundle, tmp_path)
    assert rows[0]["image_modified"] == understood
    if understood is None:
        (note,) = found.notes
        assert note.startswith(f"1 of 3 values of modified are no moments that can be read, such as {moment}")


def test_a_quote_that_closes_too_late_is_noticed(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text('uri,line\n"a.png,1\n b.png",2\nc.png,3\n')
    found, rows = selected(tmp_path / "list.csv", bundle, tmp_path)
    assert len(rows) == 2
    (note,) = found.notes
    assert note.startswith("1 URIs of the manifest hold a line end, such as 'a.png,1\\n b.png': a quote")
    (tmp_path / "list.csv").write_text("uri,line\n")
    with pytest.raises(UserError, match="names no images: it has no row with a URI"):
        selected(tmp_path / "list.csv", bundle, tmp_path)


def test_sizes_that_can_not_be_read(bundle: Bundle, tmp_path: Path) -> None:
    sizes = ["12", "", "5 KB", "1024.0", "-1", "nan", "3"]
    lines = [f"s3://plant/{k}.png,{size}" for k, size in enumerate(sizes)]
    (tmp_path / "list.csv").write_text("\n".join(["uri,bytes", *lines]))
    found, rows = selected(tmp_path / "list.csv", bundle, tmp_path)
    assert [row["image_bytes"] for row in rows] == [12, 0, 0, 1024, 0, 0, 3]
    (note,) = found.notes
    assert note.startswith("2 of 5 values of bytes are no numbers of bytes that can be read, such as -1: they count as")
    (tmp_path / "list.csv").write_text("\n".join(["uri,bytes", *lines[2:5:2]]))
    with pytest.raises(UserError, match=r"2 of 2 values of bytes .* such as -1: write whole numbers, or leave the col"):
        selected(tmp_path / "list.csv", bundle, tmp_path)


def test_types_that_no_table_takes(bundle: Bundle, tmp_path: Path) -> None:
    for values in (pa.array([[1]]), pa.array([{"a": 1}]), pa.array(["1.20"]).cast(pa.decimal128(5, 2))):
        pq.write_table(pa.table({"uri": ["s3://a/b.png"], "odd": values}), tmp_path / "list.parquet")
        with pytest.raises(
            UserError, match=r"gives the column 'odd' values of the type .* does not take: write numbers"
        ):
            selected(tmp_path / "list.parquet", bundle, tmp_path)


def test_parts_on_an_object_store(s3: str, bundle: Bundle, tmp_path: Path) -> None:
    pq.write_table(pa.table({"uri": ["a.png"]}), tmp_path / "part.parquet")
    storage.write(f"{s3}/lists/day.parquet/line=1/part-0.snappy.parquet", (tmp_path / "part.parquet").read_bytes())
    storage.write(f"{s3}/lists/day.parquet/_SUCCESS", b"")
    storage.write(f"{s3}/lists/day.csv/part-0.csv.gz", gzip.compress(b"uri;line\na.png;1\n"))
    for kind in ("parquet", "csv"):
        _, rows = selected(f"{s3}/lists/day.{kind}", bundle, tmp_path)
        assert [(row["image_uri"], row["line"]) for row in rows] == [(f"{s3}/lists/a.png", "1")]
    with pytest.raises(UserError, match=r"no archive at .*other\.csv"):
        selected(f"{s3}/lists/other.csv", bundle, tmp_path)


def test_a_manifest_of_images_that_are_elsewhere(bundle: Bundle, two_lines: Path, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("uri\narchive/line1/top/0.png\ngone.png\n")
    found, _ = selected(tmp_path / "list.csv", bundle, tmp_path)
    refuse_absent(found.connection, found.rows, str(tmp_path / "list.csv"))
    (tmp_path / "list.csv").write_text("uri\nline1/top/0.png\ngone.png\n")
    found, _ = selected(tmp_path / "list.csv", bundle, tmp_path)
    with pytest.raises(UserError, match=r"none of 2 images .* is there, such as .*URIs start at the manifest's folder"):
        refuse_absent(found.connection, found.rows, str(tmp_path / "list.csv"))
    (tmp_path / "list.csv").write_text("uri\ns3://plant/0.png\n")
    found, _ = selected(tmp_path / "list.csv", bundle, tmp_path)
    refuse_absent(found.connection, found.rows, str(tmp_path / "list.csv"))


@pytest.mark.parametrize("form", ["CSV", "Parquet", "ORC"])
def test_s3_inventories(form: str, bundle: Bundle, tmp_path: Path) -> None:
    folder = tmp_path / "inventory"
    folder.mkdir()
    keys = ["parts/a b.png", "parts/ü+1.png", "parts/notes.txt", "parts/gone.png", "parts/old.png"]
    rows = [
        {"bucket": "plant", "key": key, "size": 10 + k, "e_tag": f"tag{k}", "is_latest": key != "parts/old.png"}
        | {"is_delete_marker": key == "parts/gone.png", "last_modified_date": datetime(2026, 1, 1 + k, tzinfo=UTC)}
        for k, key in enumerate(keys)
    ]
    schema = ""
    if form == "CSV":
        schema = "Bucket, Key, Size, LastModifiedDate, ETag, IsLatest, IsDeleteMarker"
        encoded = [key.replace("+", "%2B").replace(" ", "+").replace("ü", "%C3%BC") for key in keys]
        with gzip.open(folder / "data.csv.gz", "wt", newline="") as file:
            for row, key in zip(rows, encoded, strict=True):
                latest, marker = str(row["is_latest"]).lower(), str(row["is_delete_marker"]).lower()
                moment = f"{row['last_modified_date']:%Y-%m-%dT%H:%M:%S.000Z}"
                csv.writer(file, quoting=csv.QUOTE_ALL).writerow(
                    [row["bucket"], key, row["size"], moment, row["e_tag"], latest, marker]
                )
        name = "data.csv.gz"
    else:
        name = f"data.{form.lower()}"
        write = pq.write_table if form == "Parquet" else pyarrow.orc.write_table
        write(pa.Table.from_pylist(rows), folder / name)
    manifest = {
        "sourceBucket": "plant",
        "destinationBucket": "arn:aws:s3:::lists",
        "fileFormat": form,
        "fileSchema": schema,
        "files": [{"key": f"daily/data/{name}"}],
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    found, chosen = selected(folder / "manifest.json", bundle, tmp_path)
    assert [(row["image_uri"], row["image_version"], row["image_bytes"]) for row in chosen] == [
        ("s3://plant/parts/a b.png", "tag0", 10),
        ("s3://plant/parts/ü+1.png", "tag1", 11),
    ]
    assert chosen[1]["image_modified"] == datetime(2026, 1, 2, tzinfo=UTC)
    assert found.archive.other_files == 1
    (folder / "manifest.json").write_text("{}")
    with pytest.raises(UserError, match="no S3 inventory"):
        selected(folder / "manifest.json", bundle, tmp_path)
