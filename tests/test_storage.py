"""The door to files and objects: the same promises on a local disk, on S3 and on what fsspec brings."""

from __future__ import annotations

import threading
import uuid
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow as pa
import pytest
from object_store import NAMES

from diffad_ray import storage
from diffad_ray.errors import UserError

pytestmark = pytest.mark.usefixtures("default_storage")


@pytest.fixture(params=["local", "s3", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "s3":
        return f"{request.getfixturevalue('s3')}/{uuid.uuid4().hex}"
    return str(tmp_path) if request.param == "local" else f"memory://{uuid.uuid4().hex}"


def test_written_objects_are_read_and_listed(root: str) -> None:
    for k, name in enumerate(NAMES):
        storage.write(f"{root}/{name}", b"x" * k)
    assert [storage.read(f"{root}/{name}") for name in NAMES] == [b"x" * k for k in range(len(NAMES))]
    listed = {file.uri: file for file in storage.walk(root)}
    assert sorted(listed) == sorted(f"{root}/{name}" for name in NAMES)
    assert listed[f"{root}/{NAMES[2]}"].bytes == 2


def test_walk_is_sorted_and_the_listing_holds_the_same(root: str) -> None:
    names = ["b/1.png", "b.png", "b/a/2.png", "a.png", "b-1.png", "ab/3.png"]
    for name in names:
        storage.write(f"{root}/{name}", name.encode())
    files = list(storage.walk(root))
    assert [file.uri for file in files] == [f"{root}/{name}" for name in sorted(names)]
    table = pa.concat_tables(storage.listing(root))
    assert table.schema == storage.LISTING
    assert sorted(zip(*table.to_pydict().values(), strict=True)) == files


def test_the_listing_of_a_single_object_is_that_object(root: str) -> None:
    storage.write(f"{root}/a/one.png", b"12345")
    (file,) = storage.walk(f"{root}/a/one.png")
    assert (file.uri, file.bytes) == (f"{root}/a/one.png", 5)
    (table,) = storage.listing(f"{root}/a/one.png")
    assert [storage.FileInfo(**row) for row in table.to_pylist()] == [file]


def test_reading_a_version_that_was_replaced(root: str) -> None:
    storage.write(f"{root}/a", b"one")
    (file,) = storage.walk(root)
    assert storage.read(file.uri, file.version) == b"one"
    storage.write(f"{root}/a", b"other")
    if root.startswith("memory"):
        assert storage.read(file.uri, file.version) == b"other"
    else:
        with pytest.raises(storage.Changed, match="was replaced since it was listed"):
            storage.read(file.uri, file.version)


def test_the_version_changes_with_the_content(root: str) -> None:
    storage.write(f"{root}/a", b"one")
    (before,) = storage.walk(root)
    storage.write(f"{root}/a", b"other")
    (after,) = storage.walk(root)
    assert before.version != after.version


def test_create_writes_once(root: str) -> None:
    assert storage.create(f"{root}/once", b"first")
    assert not storage.create(f"{root}/once", b"second")
    assert storage.read(f"{root}/once") == b"first"


def test_delete_and_exists(root: str) -> None:
    storage.write(f"{root}/gone", b"x")
    assert storage.exists(f"{root}/gone")
    storage.delete(f"{root}/gone")
    storage.delete(f"{root}/gone")
    assert not storage.exists(f"{root}/gone")


def test_what_is_not_there_is_missing(root: str) -> None:
    with pytest.raises(FileNotFoundError):
        storage.read(f"{root}/nothing")
    with pytest.raises(FileNotFoundError):
        list(storage.walk(f"{root}/nowhere"))
    with pytest.raises(FileNotFoundError):
        list(storage.listing(f"{root}/nowhere"))
    assert not storage.has_files(f"{root}/nowhere")


def test_an_unknown_scheme_says_so() -> None:
    with pytest.raises(OSError, match="nosuch"):
        storage.read("nosuch://a/b")
    with pytest.raises(OSError, match="nosuch"):
        storage.filesystem("nosuch://a/b")


@pytest.mark.parametrize("uri", ["sftp://plant:hunter2@host/a", "s3://AKIA:hunter2@bucket/key"])
def test_a_uri_with_a_password_is_refused_without_repeating_it(uri: str) -> None:
    for refused in (storage.normalised, storage.read):
        with pytest.raises(UserError, match="environment") as caught:
            refused(uri)
        assert "hunter2" not in str(caught.value)
    assert storage.normalised("sftp://plant@host/a/") == "sftp://plant@host/a"
    assert storage.normalised("s3://bucket/at:@home.png") == "s3://bucket/at:@home.png"


def test_a_web_server_is_read_through_fsspec(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.png").write_bytes(b"over http")

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(tmp_path))) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        root = f"http://127.0.0.1:{server.server_port}"
        assert storage.read(f"{root}/a/b.png") == b"over http"
        assert [file.uri for file in storage.walk(root)] == [f"{root}/a/b.png"]
        with pytest.raises(FileNotFoundError):
            storage.read(f"{root}/a/c.png")
        server.shutdown()
