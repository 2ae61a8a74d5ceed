"""Lists as people and tools write them: text of any separator and encoding, Spark's folders, places of any system."""

from __future__ import annotations

import codecs
import gzip
from pathlib import Path

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffad_ray.errors import UserError
from diffad_ray.lists.places import is_windows_path, location_sql, with_slashes
from diffad_ray.lists.reading import open_list
from diffad_ray.lists.text import SEPARATORS, sniffed

KNOWN = frozenset({"uri", "label", "etag"})


def read(location: Path, scratch: Path, encoding: str | None = None) -> list[dict]:
    folder = scratch / "scratch"
    folder.mkdir(exist_ok=True)
    with duckdb.connect() as connection:
        listed = open_list(str(location), "manifest", connection, folder, KNOWN, encoding, "Save it as UTF-8")
        columns = ", ".join(f'"{name}"' for name in listed.columns)
        return connection.sql(f"SELECT {columns} FROM {listed.source}").to_arrow_table().to_pylist()


TWO = [{"uri": "a/1.png", "line": "Prüf"}, {"uri": "a/2.png", "line": None}]


@pytest.mark.parametrize("separator", SEPARATORS)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("name", ["list.csv", "list.tsv"])
def test_separators_and_line_ends(separator: str, end: str, name: str, tmp_path: Path) -> None:
    lines = ["uri,line", "a/1.png,Prüf", " a/2.png , ", "", ","]
    text = end.join(lines).replace(",", separator)
    (tmp_path / name).write_text(text, newline="")
    rows = read(tmp_path / name, tmp_path)
    assert [row for row in rows if row["uri"]] == TWO


@pytest.mark.parametrize(
    ("encoding", "told"),
    [("utf-8", None), ("utf-8-sig", None), ("utf-16", None), ("utf-32", None), ("cp1252", "cp1252")],
)
def test_encodings(encoding: str, told: str | None, tmp_path: Path) -> None:
    data = "sep=;\r\nURI;line\r\n'a/1.png';\"Prüf\"\r\na/2.png;\r\n".encode(encoding)
    (tmp_path / "list.csv").write_bytes(data)
    (tmp_path / "list.csv.gz").write_bytes(gzip.compress(data))
    for name in ("list.csv", "list.csv.gz"):
        rows = read(tmp_path / name, tmp_path, told)
        assert [row["line"] for row in rows] == ["Prüf", None]
    big_endian = codecs.BOM_UTF16_BE + "uri\na.png\n".encode("utf-16-be")
    (tmp_path / "list.csv").write_bytes(big_endian)
    assert read(tmp_path / "list.csv", tmp_path) == [{"uri": "a.png"}]


@pytest.mark.parametrize(
    ("data", "because"),
    [
        ("uri,line\na.png,1\nb.png,Prüf\n".encode("cp1252"), r"is not UTF-8, line 3 holds the byte 0xFC \(byte 26 of"),
        ("uri\na.png\n".encode("utf-16-le"), "NUL byte at byte 2"),
        (b"uri\n" + b"a.png\n" * 500 + b"b\0.png\n", "NUL character in 'b'"),
        (b"PK\x03\x04 and so on", "Excel workbook"),
        (b"PAR1 and so on", r"ends? in .parquet"),
        (gzip.compress(b"uri\n" + b"a.png\n" * 500, mtime=0)[:-9], "damaged"),
        (b'uri,line\na.png,1\n"b.png,2\nc.png,3\n', "a quote opens in line 3"),
        (b'uri,line\n"a.png,1\n' + b"b.png,2\n" * 20_000, "more than 131072 characters: close the quote"),
        (b"\n \n", "no header"),
        (b"uri,line,URI\na,b,c\n", "column uri twice"),
        (b"uri,line\na.png,1\nb.png,2,3\nc.png,4,5\n", "2 of 3 lines .* line 3 has 3 fields, the header 2"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_list(data: bytes, because: str, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_bytes(data)
    with pytest.raises(UserError, match=because):
        read(tmp_path / "list.csv", tmp_path)


def test_rows_of_other_widths(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(',uri,line\n0,a.png,1,,\n1,b.png\n2,"c\nd.png",3\n3,e,f.png,4\n')
    folder = tmp_path / "scratch"
    folder.mkdir()
    with duckdb.connect() as connection:
        listed = open_list(str(tmp_path / "list.csv"), "manifest", connection, folder, KNOWN)
        rows = connection.execute(f"SELECT uri, line FROM {listed.source}").fetchall()
    assert rows == [("a.png", "1"), ("b.png", None), ("c\nd.png", "3")]
    assert listed.broken.lines == 1
    assert listed.broken.first == "line 6 has 4 fields, the header 3: 3, e, f.png, 4"
    assert listed.notes == ["column 1, which has no name, is left out; it holds 3 values, such as 0"]


def test_folders_of_parts(tmp_path: Path) -> None:
    for line in ("1", "a b"):
        part = tmp_path / "list.parquet" / f"line={line.replace(' ', '%20')}" / "part-0.snappy.parquet"
        part.parent.mkdir(parents=True)
        pq.write_table(pa.table({"uri": [f"{line}.png"]}), part)
    (tmp_path / "list.parquet" / "_SUCCESS").touch()
    (tmp_path / "list.parquet" / "._SUCCESS.crc").touch()
    assert read(tmp_path / "list.parquet", tmp_path) == [
        {"uri": "1.png", "line": "1"},
        {"uri": "a b.png", "line": "a b"},
    ]
    folder = tmp_path / "list.csv"
    folder.mkdir()
    (folder / "_SUCCESS").touch()
    (folder / "part-0.csv").write_text("uri;line\na.png;1\n")
    (folder / "part-1.csv.gz").write_bytes(gzip.compress(b"uri;line\nb.png;2\n"))
    (folder / "part-2").write_text("c.png;3\n")
    (folder / "part-3.csv").touch()
    assert [row["uri"] for row in read(folder, tmp_path)] == ["a.png", "b.png", "c.png"]
    (folder / "part-4.csv").write_text("uri;other\nd.png;4\n")
    with pytest.raises(UserError, match=r"part-4\.csv .* it has the columns uri, other"):
        read(folder, tmp_path)
    (tmp_path / "empty.csv").mkdir()
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "empty.csv", tmp_path)


@given(
    st.lists(st.text("abc;|,\"' \té", min_size=1).filter(str.strip), min_size=2, max_size=4),
    st.sampled_from(SEPARATORS),
)
def test_a_known_name_shows_the_separator(names: list[str], separator: str) -> None:
    header = separator.join(["uri", *('"' + name.replace('"', '""') + '"' for name in names)])
    form = sniffed([f"{header}\n"], ",", KNOWN, "it")
    assert form.separator == separator
    assert form.names == ["uri", *(name.strip() for name in names)]


@pytest.mark.parametrize(
    ("place", "location"),
    [
        ("a/b.png", "/lists/a/b.png"),
        (r".\a\b.png", "/lists/a/b.png"),
        ("./a.png", "/lists/a.png"),
        ("/a/b.png", "/a/b.png"),
        (r"/a/b\c.png", r"/a/b\c.png"),
        ("file:///a/b.png", "/a/b.png"),
        ("file:/a/b.png", "/a/b.png"),
        ("FILE://localhost/a/b.png", "/a/b.png"),
        ("S3://Plant/a;b.png", "s3://Plant/a;b.png"),
        (r"C:\plant\1.png", None),
        ("c:/plant/1.png", None),
        (r"\\nas\plant\2.png", None),
        (r"\plant\2.png", None),
        ("file:///C:/plant/1.png", None),
        ("file://nas/plant/1.png", None),
    ],
)
def test_places(place: str, location: str | None) -> None:
    sql = f"SELECT {location_sql('place', '/lists')} FROM (SELECT ? AS place)"
    assert duckdb.connect().execute(sql, [place]).fetchall() == [(location or place,)]
    assert is_windows_path(place) == (location is None)
    if location is not None and location.startswith("/lists"):
        assert with_slashes(place).removeprefix("./") == location.removeprefix("/lists/")


def test_pandas_own_columns_are_left_out(tmp_path: Path) -> None:
    pd.DataFrame({"uri": ["a.png", "b.png"]}, index=[3, 7]).to_parquet(tmp_path / "list.parquet")
    assert read(tmp_path / "list.parquet", tmp_path) == [{"uri": "a.png"}, {"uri": "b.png"}]
    twice = pa.table([["a.png"], ["b.png"]], names=["uri", "URI"])
    pq.write_table(twice, tmp_path / "list.parquet")
    with pytest.raises(UserError, match="column uri twice"):
        read(tmp_path / "list.parquet", tmp_path)
