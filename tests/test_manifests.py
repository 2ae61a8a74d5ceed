"""Archives that are lists: manifests of URIs, and S3 inventories."""

from __future__ import annotations

import csv
import gzip
import json
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.orc
import pyarrow.parquet as pq
import pytest
from selecting import selected

from diffad_ray import UserError
from diffad_ray.detectors.bundle import Bundle


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
        ("uri,My Column\n/a.png,1\n", "small letters"),
    ],
)
def test_refused_manifests(text: str, because: str, bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(UserError, match=because) as error:
        selected(tmp_path / "list.csv", bundle, tmp_path)
    assert "hush" not in str(error.value)


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
