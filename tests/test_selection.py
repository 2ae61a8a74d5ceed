"""Which images a run is about: patterns, templates, manifests and inventories, and how a plan cuts them."""

from __future__ import annotations

import csv
import gzip
import json
import os
import re
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.orc
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffad_ray import UserError, storage
from diffad_ray.detectors.bundle import Bundle
from diffad_ray.scoring.patterns import PathTemplate, glob_regex, matches_any
from diffad_ray.scoring.plan import ShardLimits, make_plan, remove_half_plans
from diffad_ray.scoring.selection import Routed, Selection, select_images, since
from diffad_ray.scoring.settings import ScoringSettings
from diffad_ray.table.layout import SCORES, image_id, image_id_sql
from diffad_ray.table.runs import Plan

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("glob", "path", "matches"),
    [
        ("*.png", "a.png", True),
        ("*.png", "deep/below/a.png", True),
        ("*.png", "a.jpg", False),
        ("line1/*.png", "line1/a.png", True),
        ("line1/*.png", "line1/x/a.png", False),
        ("line1/**", "line1/x/y/a.png", True),
        ("line1/**/a.png", "line1/a.png", True),
        ("**/top/*.png", "x/y/top/a.png", True),
        ("**/top/*.png", "top/a.png", True),
        ("**/top/*.png", "stop/a.png", False),
        ("cam?/a.png", "cam1/a.png", True),
        ("cam?/a.png", "cam12/a.png", False),
        ("cam[!12]/*", "cam3/a.png", True),
        ("cam[!12]/*", "cam1/a.png", False),
        ("a+(b){c}.png", "a+(b){c}.png", True),
        ("a b\n.png", "x/a b\n.png", True),
    ],
)
def test_globs(glob: str, path: str, matches: bool) -> None:
    assert bool(re.fullmatch(glob_regex(glob), path)) == matches
    sql = f"SELECT {matches_any('p', [glob])} FROM (SELECT ? AS p)"
    assert duckdb.connect().execute(sql, [path]).fetchall() == [(matches,)]


@given(st.text(st.characters(exclude_characters="*?[/", exclude_categories=["Cs", "Cc"]), min_size=1))
def test_a_name_without_wildcards_matches_itself_alone(name: str) -> None:
    sql = f"SELECT {matches_any('p', [name])} FROM (VALUES (?), (?)) AS t(p)"
    assert duckdb.connect().execute(sql, [f"x/{name}", f"x/{name}y"]).fetchall() == [(True,), (False,)]


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")), st.text("abc\n", max_size=5))
def test_ids_of_sql_and_python_agree(uri: str, version: str) -> None:
    sql = f"SELECT {image_id_sql('u', 'v')} FROM (SELECT ? AS u, ? AS v)"
    assert duckdb.connect().execute(sql, [uri, version]).fetchall() == [(image_id(uri, version),)]


def parts(template: str, path: str) -> dict[str, Any]:
    parsed = PathTemplate.parse(template)
    columns = ", ".join(f"{column.sql} AS {column.name}" for column in parsed.columns)
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    sql = f"SELECT {columns} FROM (SELECT {parsed.parts_sql('p')} AS parts FROM (SELECT ? AS p))"
    return connection.sql(sql, params=[path]).to_arrow_table().to_pylist()[0]


def test_templates() -> None:
    assert parts("{line}/{camera}/{date:%Y-%m-%d}/{name}", "l1/top/2026-01-02/a.png") == {
        "line": "l1",
        "camera": "top",
        "date": date(2026, 1, 2),
        "name": "a.png",
    }
    assert parts("{line}/{}/**/{captured_at:%Y%m%d-%H%M%S}_*.png", "l1/x/a/b/20260102-030405_7.png") == {
        "line": "l1",
        "captured_at": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    }
    assert parts("{line}/{name}", "too/many/parts.png") == {"line": None, "name": None}
    assert parts("{day:%Y-%m-%d}.png", "no-date.png") == {"day": None}
    with pytest.raises(UserError, match="taken already"):
        PathTemplate.parse("{score}/{name}")
    with pytest.raises(UserError, match="twice"):
        PathTemplate.parse("{a}/{a}")
    with pytest.raises(UserError, match="small letters"):
        PathTemplate.parse("{Line 1}/{a}")
    with pytest.raises(UserError, match="no field"):
        PathTemplate.parse("*/*.png")


def test_since() -> None:
    assert since("36h", NOW) == NOW - timedelta(hours=36)
    assert since("7d", NOW) == NOW - timedelta(days=7)
    assert since("2026-11-20", NOW) == datetime(2026, 11, 20, tzinfo=UTC)
    assert since("2026-11-20T22:00+02:00", NOW) == datetime(2026, 11, 20, 20, tzinfo=UTC)
    with pytest.raises(UserError, match="write 2026-11-20"):
        since("yesterday", NOW)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Two lines of two cameras with ten images each, and a text; the planner never opens them."""
    for line in (1, 2):
        for camera in ("top", "side"):
            folder = tmp_path / "archive" / f"line{line}" / camera
            folder.mkdir(parents=True)
            for k in range(10):
                (folder / f"{k}.png").write_bytes(b"x" * k)
    (tmp_path / "archive" / "notes.txt").write_text("no image")
    os.utime(tmp_path / "archive" / "line1" / "top" / "3.png", (0, 0))
    return tmp_path / "archive"


def selected(archive: Path | str, bundle: Bundle, scratch: Path, **settings: Any) -> tuple[Selection, list[dict]]:
    routed = [Routed("detector", bundle, ())]
    folder = scratch / "scratch"
    folder.mkdir(exist_ok=True)
    found = select_images(str(archive), str(scratch / "table"), routed, ScoringSettings(**settings), folder)
    rows = found.connection.sql(f"SELECT * FROM {found.rows} ORDER BY image_uri").to_arrow_table().to_pylist()
    assert len(rows) == found.images
    return found, rows


def test_what_is_selected(archive: Path, bundle: Bundle, tmp_path: Path) -> None:
    found, rows = selected(archive, bundle, tmp_path)
    assert len(rows) == 40
    assert found.archive.other_files == 1
    for row in rows:
        path = Path(row["image_uri"])
        assert row["image_id"] == image_id(row["image_uri"], row["image_version"])
        assert row["image_bytes"] == path.stat().st_size
        assert abs(row["image_modified"].timestamp() - path.stat().st_mtime) < 1e-3

    def count(**settings: Any) -> int:
        return len(selected(archive, bundle, tmp_path, **settings)[1])

    assert count(include=("line1/**",)) == 20
    assert count(include=("line1/**", "**/top/*")) == 30
    assert count(include=("line1/**",), exclude=("*3.png",)) == 18
    assert count(since="1h") == 39
    assert count(limit=7) == 7
    sample = selected(archive, bundle, tmp_path, sample=0.5)[1]
    assert 8 < len(sample) < 32
    assert sample == selected(archive, bundle, tmp_path, sample=0.5)[1]
    with pytest.raises(UserError, match=r"no image of .* is chosen"):
        count(include=("*.tif",))


def test_columns_and_notes_of_a_template(archive: Path, bundle: Bundle, tmp_path: Path) -> None:
    (archive / "stray.png").write_bytes(b"")
    found, rows = selected(archive, bundle, tmp_path, template="{line}/{camera}/{name}.png")
    assert found.columns.names == ["line", "camera", "name"]
    assert {(row["line"], row["camera"]) for row in rows} == {
        ("line1", "top"),
        ("line1", "side"),
        ("line2", "top"),
        ("line2", "side"),
        (None, None),
    }
    assert "1 paths don't fit the template" in found.notes[0]
    assert "stray.png" in found.notes[0]


def test_manifests(archive: Path, bundle: Bundle, tmp_path: Path) -> None:
    uris = [str(archive / "line1" / "top" / f"{k}.png") for k in range(5)]
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


def shards_of(plan: Plan) -> list[list[dict]]:
    return [pq.read_table(plan.manifest_file(shard)).to_pylist() for shard in range(plan.shards)]


def test_a_plan_holds_each_image_once_and_a_shard_one_detector(archive: Path, bundle: Bundle, tmp_path: Path) -> None:
    other = Bundle(bundle.detector, bundle.calibration, name="other", fingerprint="0" * 16)
    routed = [Routed("a", bundle, ("line1/**",)), Routed("b", other, ("**/top/*",))]
    settings = ScoringSettings(shard_images=7)
    table = str(tmp_path / "table")
    selection = select_images(str(archive), table, routed, settings, tmp_path)
    plan = make_plan(str(archive), table, selection, routed, settings, "work", force=False)
    shards = shards_of(plan)
    rows = [row for shard in shards for row in shard]
    assert len(rows) == len({row["image_uri"] for row in rows}) == plan.images == 40
    assert all(len(shard) <= 7 and len({row["detector_fingerprint"] for row in shard}) == 1 for shard in shards)
    for row in rows:
        line, camera = Path(row["image_uri"]).parts[-3:-1]
        expected = bundle.fingerprint if line == "line1" else other.fingerprint if camera == "top" else ""
        assert row["detector_fingerprint"] == expected
    assert [(d.location, d.images) for d in plan.detectors] == [("a", 20), ("b", 10), ("", 10)]
    assert any("no route leads 10 images" in note for note in plan.notes)


@given(st.lists(st.integers(0, 50), max_size=60), st.integers(1, 10), st.integers(1, 100), st.integers(1, 20))
def test_shards_keep_their_limits(sizes: list[int], images: int, file_bytes: int, batch: int) -> None:
    from diffad_ray.scoring.plan import _shards

    rows = pa.table({"image_bytes": pa.array(sizes, pa.int64())})
    reader = pa.RecordBatchReader.from_batches(rows.schema, rows.to_batches(max_chunksize=batch))
    shards = [shard["image_bytes"].to_pylist() for shard in _shards(reader, ShardLimits(images, file_bytes))]
    assert [size for shard in shards for size in shard] == sizes
    for shard in shards:
        assert 1 <= len(shard) <= images
        assert sum(shard) <= file_bytes or len(shard) == 1


def test_a_table_within_its_archive_is_not_scored(archive: Path, bundle: Bundle, tmp_path: Path) -> None:
    mask = archive / "scores" / "masks" / ("f" * 16) / "00" / "0.png"
    mask.parent.mkdir(parents=True)
    mask.write_bytes(b"")
    folder = tmp_path / "scratch"
    folder.mkdir()
    found = select_images(
        str(archive), str(archive / "scores"), [Routed("detector", bundle, ())], ScoringSettings(), folder
    )
    assert found.images == 40


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


def test_refused_settings(archive: Path, bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no glob"):
        selected(archive, bundle, tmp_path, include=("[z-a].png",))
    with pytest.raises(UserError, match="no images can be chosen"):
        selected(archive, bundle, tmp_path, template="{day:%Q}.png")
    for wrong in ({"limit": 0}, {"sample": 0.0}, {"threshold": float("nan")}, {"shard_images": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            ScoringSettings(**wrong)


def test_words_of_sql_are_names_of_columns(archive: Path, bundle: Bundle, tmp_path: Path) -> None:
    found, rows = selected(archive, bundle, tmp_path, template="{order}/{group}/{table}.png")
    assert found.columns.names == ["order", "group", "table"]
    assert rows[0]["order"] == "line1"


def test_what_a_later_run_leaves_out(archive: Path, bundle: Bundle, tmp_path: Path) -> None:
    """An image is done if its last row says so, whatever came before."""
    table = tmp_path / "line=7" / "table"
    routed = [Routed("a", bundle, ())]

    def planned(**settings: Any) -> Plan:
        folder = tmp_path / "scratch"
        folder.mkdir(exist_ok=True)
        wanted = ScoringSettings(limit=4, template="{line}/**/*.png", **settings)
        selection = select_images(str(archive), str(table), routed, wanted, folder)
        return make_plan(str(archive), str(table), selection, routed, wanted, "work", force=False)

    first = planned()
    rows = [row for shard in shards_of(first) for row in shard]
    histories = (["ok"], ["failed"], ["failed", "timeout"], ["timeout", "ok"])
    table_rows = [
        {**row, "status": status, "run_id": "r", "scored_at": NOW + timedelta(days=k)}
        for row, history in zip(rows, histories, strict=True)
        for k, status in enumerate(history)
    ]
    path = table / "scores" / "run_date=2026-01-01" / "r-00000.parquet"
    path.parent.mkdir(parents=True)
    schema = SCORES.append(pa.field("line", pa.string()))
    pq.write_table(pa.Table.from_pylist(table_rows, schema=schema), path)
    again = planned()
    assert [row["image_uri"] for shard in shards_of(again) for row in shard] == [rows[2]["image_uri"]]
    assert planned(retry=("failed",)).images == 2
    assert [str(file) for file in table.glob("runs/*.planning")] == []


def test_a_column_keeps_its_type(archive: Path, bundle: Bundle, tmp_path: Path) -> None:
    table = tmp_path / "table"
    path = table / "scores" / "run_date=2026-01-01" / "r-00000.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist([{"line": 1}], schema=SCORES.append(pa.field("line", pa.int64()))), path)
    routed, settings = [Routed("a", bundle, ())], ScoringSettings(template="{line}/**/*.png")
    selection = select_images(str(archive), str(table), routed, settings, tmp_path)
    with pytest.raises(UserError, match="would be string"):
        make_plan(str(archive), str(table), selection, routed, settings, "work", force=False)


def test_half_a_plan_is_removed(tmp_path: Path) -> None:
    table = str(tmp_path)
    storage.write(f"{table}/runs/killed.planning", b"")
    storage.write(f"{table}/manifests/killed/00000.parquet", b"x")
    storage.write(f"{table}/runs/whole.plan.json", b"{}")
    storage.write(f"{table}/runs/whole.planning", b"")
    storage.write(f"{table}/manifests/whole/00000.parquet", b"x")
    remove_half_plans(table)
    assert {file.uri.removeprefix(table) for file in storage.walk(table)} == {
        "/runs/whole.plan.json",
        "/manifests/whole/00000.parquet",
    }
