"""Objects whose keys obstore refuses: read, listed and written as others are."""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence
from functools import partial

import pyarrow as pa
import pytest
from faulty_proxy import FaultyProxy
from object_store import NAMES, in_threads, through

from diffad_ray import storage
from diffad_ray.storage import StorageSettings, objects
from diffad_ray.storage.any_key import is_refused
from diffad_ray.storage.failures import RefusedKey, from_obstore

pytestmark = pytest.mark.usefixtures("default_storage")

AWKWARD = [
    "tab\t.png",
    "cr\r.png",
    "bell\x07.png",
    "del\x7f.png",
    "a//b.png",
    "a/./b.png",
    "a/../b.png",
    "a/b.png//",
    "./b.png",
    "../b.png",
    "/b.png",
    "a/.",
    "a/..",
]


def put(bucket: str, keys: Sequence[str]) -> None:
    """Write objects that hold their key, through the store's own client."""
    import boto3

    client = boto3.client("s3")
    in_threads(lambda k: client.put_object(Bucket=bucket, Key=keys[k], Body=keys[k].encode()), len(keys))


@pytest.mark.parametrize("key", [*AWKWARD, "/", "//", "."])
def test_it_is_known_what_obstore_refuses(key: str) -> None:
    from obstore.store import MemoryStore

    store = MemoryStore()
    assert is_refused(key)
    try:
        store.put(key, b"x")
    except ValueError:
        return
    assert [meta["path"] for metas in store.list() for meta in metas] != [key]


@pytest.mark.parametrize(
    "key", [*NAMES, "...", "a/.../b", "a/. /b", ".hidden", "a/..b", "\x85", "\ufffe", "\u202e", " ", "~"]
)
def test_it_is_known_what_obstore_takes(key: str) -> None:
    from obstore.store import MemoryStore

    store = MemoryStore()
    assert not is_refused(key)
    store.put(key, b"x")
    assert [meta["path"] for metas in store.list() for meta in metas] == [key]


def test_keys_that_xml_cannot_hold_are_refused_ones() -> None:
    from obstore.exceptions import GenericError

    text = "Generic S3 error: Got invalid list response: invalid character reference: 0x0 character is not permitted"
    assert isinstance(from_obstore(GenericError(text), "s3://bucket/"), RefusedKey)
    other = from_obstore(GenericError("Generic S3 error: Got invalid list response: syntax error"), "s3://bucket/")
    assert type(other) is OSError


def test_objects_with_awkward_keys_are_objects_as_others(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "100")  # some answers with awkward keys, most without
    monkeypatch.setattr(objects, "PAGE_KEYS", 100)
    prefix = uuid.uuid4().hex
    root = f"{s3}/{prefix}"
    plain = [f"{prefix}/day{k % 4}/cam{k % 3}/{k:04d}.png" if k % 5 else f"{prefix}/{k:04d}.png" for k in range(600)]
    in_threads(lambda k: storage.write(f"{s3}/{plain[k]}", b"x"), len(plain))
    before = {file.uri: file for file in storage.walk(root)}
    assert len(before) == len(plain)
    keys = [*(key for key in AWKWARD if key.endswith(".png")), f"{'long/' * 160}{'n' * 64}.png", "a/b.png"]
    awkward = [f"{prefix}/{folder}{key}" for folder in ("", "day1/", "day1/cam1/", "x//y/", "/") for key in keys]
    put("plant", awkward)
    assert max(map(len, awkward)) > 900
    expected = sorted(f"{s3}/{key}" for key in [*plain, *awkward])
    for share, threads in ((0.0, 2), (0.2, 16)):
        with FaultyProxy(os.environ["AWS_ENDPOINT_URL"], share, seed=2, slow=0.05) as proxy:
            through(proxy)
            listed = list(storage.walk(root))
            assert [file.uri for file in listed] == expected
            assert {file.uri: file for file in listed if file.uri in before} == before
            table = pa.concat_tables(storage.listing(root, threads))
            assert sorted(zip(*table.to_pydict().values(), strict=True)) == listed
        assert bool(proxy.faults) == bool(share)
    storage.configure(StorageSettings())
    found = [file for file in listed if file.uri not in before]
    read = in_threads(lambda k: storage.read(found[k].uri, found[k].version), len(found))
    assert read == [file.uri.removeprefix(f"{s3}/").encode() for file in found]
    assert in_threads(lambda k: next(storage.walk(found[k].uri)), len(found)) == found


def test_objects_with_awkward_keys_are_written_and_deleted(s3: str) -> None:
    for name in ("a//b.png", "tab\t.png"):
        uri = f"{s3}/{uuid.uuid4().hex}/{name}"
        assert not storage.exists(uri)
        storage.write(uri, b"one")
        (file,) = storage.walk(uri)
        assert (file.uri, file.bytes) == (uri, 3)
        assert not storage.create(uri, b"one")
        storage.write(uri, b"other")
        with pytest.raises(storage.Changed):
            storage.read(uri, file.version)
        assert storage.read(uri) == b"other"
        storage.delete(uri)
        storage.delete(uri)
        with pytest.raises(FileNotFoundError, match="not found"):
            storage.read(uri)
        with FaultyProxy(os.environ["AWS_ENDPOINT_URL"], share=0.3, seed=3, kinds=["reset"]) as proxy:
            through(proxy, attempts=20)
            assert storage.create(uri, b"new")
            assert storage.read(uri) == b"new"
        storage.configure(StorageSettings())


def test_versions_do_not_depend_on_the_client(s3: str) -> None:
    uri = f"{s3}/{uuid.uuid4().hex}"
    storage.write(f"{uri}/a.png", b"x")
    (before,) = storage.walk(uri)
    storage.write(f"{uri}/\t", b"x")
    control, after = storage.walk(uri)
    assert after == before
    assert (control.version, control.bytes) == (before.version, before.bytes)
    assert '"' not in before.version


def test_a_bucket_whose_keys_begin_with_a_slash(s3: str) -> None:
    import boto3

    assert s3
    boto3.client("s3").create_bucket(Bucket="slashes")
    keys = ["/b.png", "//b.png", "/d/b.png", "b.png", "d/b.png", "+.png", "tab\t/b.png"]
    put("slashes", keys)
    expected = sorted(f"s3://slashes/{key}" for key in keys)
    assert [file.uri for file in storage.walk("s3://slashes")] == expected
    for threads in (2, 16):
        assert sorted(pa.concat_tables(storage.listing("s3://slashes", threads))["uri"].to_pylist()) == expected
    assert [storage.read(f"s3://slashes/{key}") for key in keys] == [key.encode() for key in keys]
    assert [file.uri for file in storage.walk("s3://slashes//d")] == ["s3://slashes//d/b.png"]


def test_a_marker_of_the_name_of_an_object_is_no_second_object(s3: str) -> None:
    prefix = uuid.uuid4().hex
    put("plant", [f"{prefix}/{name}" for name in ("a.png", "a.png-", "a.png/")])
    assert [file.uri for file in storage.walk(f"{s3}/{prefix}")] == [f"{s3}/{prefix}/a.png", f"{s3}/{prefix}/a.png-"]


@pytest.mark.parametrize(
    ("fault", "error", "reason"),
    [
        ("slow_down", storage.SlowDown, "HTTP 503 SlowDown Please reduce your rate"),
        ("reset", storage.Unavailable, "the connection failed"),
        ("truncated", storage.Unavailable, "the connection failed|Internal Server Error"),
        ("slow", TimeoutError, "no answer in time"),
    ],
)
def test_what_does_not_pass_is_said_of_awkward_keys_too(fault: str, error: type[OSError], reason: str, s3: str) -> None:
    uri = f"{s3}/{uuid.uuid4().hex}//a"
    storage.write(uri, b"some bytes")
    with FaultyProxy(os.environ["AWS_ENDPOINT_URL"], share=1, slow=1, kinds=[fault]) as proxy:
        through(proxy, attempts=2, timeout=0.3)
        for request in (partial(storage.read, uri), lambda: list(storage.listing(uri))):
            with pytest.raises(error, match=reason):
                request()
        assert proxy.requests == 4, "neither client tries again itself"


def test_other_stores_say_which_object_to_rename(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = f"{s3}/{uuid.uuid4().hex}"
    storage.write(f"{uri}/a\t.png", b"x")
    with pytest.raises(OSError, match=r"rename 'a//b\.png'"):
        storage.read("gs://bucket/a//b.png")
    monkeypatch.setattr(storage.open_store(uri)[0], "any_key", None)
    for listing in (storage.walk(uri), storage.listing(uri)):
        with pytest.raises(OSError, match=r"rename '\w+/a\\t\.png'"):
            list(listing)
