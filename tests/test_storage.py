"""The door to files and objects: the same promises on a local disk, on S3 and on what fsspec brings."""

from __future__ import annotations

import os
import pickle
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow as pa
import pytest
from faulty_proxy import FaultyProxy

from diffad_ray import storage
from diffad_ray.errors import UserError
from diffad_ray.settings import build
from diffad_ray.storage import S3Settings, StorageSettings, objects, retry
from diffad_ray.storage.any_key import is_refused
from diffad_ray.storage.failures import RefusedKey, from_obstore


@pytest.fixture(autouse=True)
def default_settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Short pauses between attempts, and the settings put back after each test."""
    monkeypatch.setattr(retry, "FIRST_PAUSE", 0.02)
    yield
    storage.configure(StorageSettings())


@pytest.fixture(params=["local", "s3", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "s3":
        return f"{request.getfixturevalue('s3')}/{uuid.uuid4().hex}"
    return str(tmp_path) if request.param == "local" else f"memory://{uuid.uuid4().hex}"


NAMES = ["a.png", "deep/er/b.png", "with space.png", "per%20cent.png", "hash#1.png", "ümlaut.png", "que?ry.png"]


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


def test_of_racing_creations_one_wins(tmp_path: Path) -> None:
    won: list[int] = []

    def race(number: int) -> None:
        if storage.create(str(tmp_path / "shard"), str(number).encode() * 100_000):
            won.append(number)

    threads = [threading.Thread(target=race, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert (tmp_path / "shard").read_bytes() == str(won[0]).encode() * 100_000
    assert [path.name for path in tmp_path.iterdir()] == ["shard"], "a staged file was left behind"


def test_a_folder_named_like_an_image_and_a_loop_of_links(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").mkdir()
    (tmp_path / "x.jpg" / "in.png").write_bytes(b"x")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "self.png").symlink_to(tmp_path / "self.png")
    (tmp_path / "dangling.png").symlink_to(tmp_path / "nothing.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "x.jpg" / "in.png")
    (tmp_path / ".hidden.png").write_bytes(b"x")
    os.mkfifo(tmp_path / "pipe.png")
    files = {Path(file.uri).name: file.version for file in storage.walk(str(tmp_path))}
    assert list(files) == ["dangling.png", "link.png", "self.png", "in.png"]
    assert [files["dangling.png"], files["self.png"], files["link.png"]] == ["dangling", "dangling", files["in.png"]]
    assert set(pa.concat_tables(storage.listing(str(tmp_path)))["version"].to_pylist()) == set(files.values())


def test_a_folder_that_may_not_be_read_is_no_empty_folder(tmp_path: Path) -> None:
    storage.write(f"{tmp_path}/a/b.png", b"x")
    (tmp_path / "a").chmod(0)
    try:
        if os.access(tmp_path / "a", os.R_OK):
            pytest.skip("this user may read everything")
        for found in (storage.walk(str(tmp_path)), storage.listing(str(tmp_path))):
            with pytest.raises(PermissionError):
                list(found)
    finally:
        (tmp_path / "a").chmod(0o755)


def test_names_that_are_no_utf8(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(folder)  # noqa: PTH102 - pathlib takes no bytes
    with open(folder + b"/\xff\xfe.png", "wb") as file:  # noqa: PTH123
        file.write(b"raw")
    (uri,) = [file.uri for file in storage.walk(str(tmp_path))]
    assert uri == f"{tmp_path}/caf\uefe9/\uefff\ueffe.png"
    assert pa.concat_tables(storage.listing(str(tmp_path)))["uri"].to_pylist() == [uri]
    assert storage.normalised(os.fsdecode(folder + b"/\xff\xfe.png")) == uri
    assert storage.read(uri) == b"raw"
    storage.write(uri, b"new")
    assert os.listdir(folder) == [b"\xff\xfe.png"]  # noqa: PTH208
    storage.write(f"{tmp_path}/really \uefff.png", b"literal")
    assert (tmp_path / "really \uefff.png").read_bytes() == storage.read(f"{tmp_path}/really \uefff.png")


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


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"timeout": 0}, "timeout must be"),
        ({"attempts": 0}, "attempts must be"),
        ({"requests": 0}, "requests must be"),
        ({"options": {"s3": {"key": "x"}}}, "set s3 instead"),
        ({"s3": {"endpoint_url": "minio:9000"}}, "must start with"),
        ({"s3": {"endpoint_url": "http://me:secret@minio"}}, "must not hold credentials"),
        ({"s3": {"profile": ""}}, "must not be empty"),
        ({"s3": {"profile": "plant", "anonymous": True}}, "set one of the two"),
        ({"s3": {"secret_key": "x"}}, "no setting 'secret_key'"),
    ],
)
def test_wrong_settings_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(StorageSettings, values, "storage")


def test_settings_travel_and_equal_ones_keep_the_stores() -> None:
    values = {"timeout": 5, "s3": {"region": "eu-central-1"}, "options": {"sftp": {"password": "hunter2"}}}
    settings = build(StorageSettings, values, "storage")
    assert "hunter2" not in repr(settings)
    storage.configure(settings)
    opened = storage.open_store("s3://bucket/key")[0]
    storage.configure(pickle.loads(pickle.dumps(storage.settings())))  # noqa: S301 - our own
    assert storage.open_store("s3://bucket/other")[0] is opened
    storage.configure(StorageSettings())
    assert storage.open_store("s3://bucket/key")[0] is not opened


# Object stores


def through(proxy: FaultyProxy, **settings: object) -> None:
    """Send all requests for S3 through the proxy."""
    values = {"s3": {"endpoint_url": proxy.url}, "attempts": 10, **settings}
    storage.configure(build(StorageSettings, values, "storage"))


def in_threads(function: Callable[[int], object], count: int) -> list[object]:
    with ThreadPoolExecutor(16) as pool:
        return list(pool.map(function, range(count)))


@pytest.mark.parametrize(("count", "share"), [(60, 0.0), (300, 0.2)])
def test_many_objects_are_right_whatever_the_network_does(
    count: int, share: float, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "20")  # many answers a listing
    monkeypatch.setattr(objects, "PAGE_KEYS", 20)
    root = f"{s3}/{uuid.uuid4().hex}"
    uris = [f"{root}/day{k % 7}/{k:03d}.png" if k % 10 else f"{root}/{k:03d}.png" for k in range(count)]
    with FaultyProxy(os.environ["AWS_ENDPOINT_URL"], share, seed=1, slow=0.05) as proxy:
        through(proxy)
        in_threads(lambda k: storage.write(uris[k], f"{k} written".encode() * k), count)
        assert in_threads(lambda k: storage.read(uris[k]), count) == [f"{k} written".encode() * k for k in range(count)]
        assert all(in_threads(lambda k: storage.create(f"{uris[k]}.json", f"{k}".encode()), count))
        assert not any(in_threads(lambda k: storage.create(f"{uris[k]}.json", b"other"), 60))
        expected = sorted([*uris, *(f"{uri}.json" for uri in uris)])
        assert [file.uri for file in storage.walk(root)] == expected
        tables = list(storage.listing(root))
        assert sorted(uri for table in tables for uri in table["uri"].to_pylist()) == expected
        in_threads(lambda k: storage.delete(uris[k]), 60)
        assert [file.uri for file in storage.walk(root)] == sorted(set(expected) - set(uris[:60]))
    assert set(proxy.faults) == ({"slow_down", "reset", "slow", "truncated"} if share else set())


def test_large_objects_pass_in_parts(s3: str) -> None:
    data = os.urandom(12 * 2**20)
    with FaultyProxy(os.environ["AWS_ENDPOINT_URL"], share=0) as proxy:
        through(proxy)
        storage.write(f"{s3}/large", data)
        assert storage.read(f"{s3}/large") == data
        assert proxy.requests > 4


def test_what_is_asked_for_once(s3: str) -> None:
    uri = f"{s3}/{uuid.uuid4().hex}"
    storage.write(uri, b"x")
    (file,) = storage.walk(uri)
    asks: list[tuple[Callable[[], object], type[OSError] | None]] = [
        (partial(storage.read, uri), None),
        (partial(storage.read, uri, file.version), None),
        (partial(storage.read, uri, "other"), storage.Changed),
        (partial(storage.read, f"{uri}-missing"), FileNotFoundError),
        (partial(storage.create, uri, b"x"), None),
    ]
    with FaultyProxy(os.environ["AWS_ENDPOINT_URL"], share=0) as proxy:
        through(proxy)
        for number, (ask, error) in enumerate(asks, 1):
            if error:
                with pytest.raises(error):
                    ask()
            else:
                ask()
            assert proxy.requests == number
    assert not storage.create(uri, b"x"), "without a lost answer, the same bytes are another's"


@pytest.mark.parametrize(
    ("fault", "error", "reason"),
    [
        ("slow_down", storage.SlowDown, "HTTP 503 SlowDown Please reduce your rate"),
        ("reset", storage.Unavailable, "the connection failed"),
        ("truncated", storage.Unavailable, "the connection failed"),
        ("slow", TimeoutError, "no answer in time"),
    ],
)
def test_what_does_not_pass_is_said_in_one_line(fault: str, error: type[OSError], reason: str, s3: str) -> None:
    uri = f"{s3}/{'long/' * 50}{uuid.uuid4().hex}"
    storage.write(uri, b"some bytes")
    with FaultyProxy(os.environ["AWS_ENDPOINT_URL"], share=1, slow=1, kinds=[fault]) as proxy:
        through(proxy, attempts=2, timeout=0.3)
        for request in (partial(storage.read, uri), lambda: list(storage.listing(uri))):
            with pytest.raises(error) as caught:
                request()
            message = str(caught.value)
            assert reason in message
            assert len(message) <= 300
            assert "\n" not in message
        assert proxy.requests == 4


def test_requests_at_once_are_limited(s3: str) -> None:
    storage.write(f"{s3}/a", b"x")
    with FaultyProxy(os.environ["AWS_ENDPOINT_URL"], share=1, slow=0.05, kinds=["slow"]) as proxy:
        through(proxy, requests=4)
        in_threads(lambda _: storage.read(f"{s3}/a"), 32)
        assert 2 <= proxy.most_at_once <= 4


def test_the_throttle_halves_once_and_grows_slowly() -> None:
    throttle = retry.Throttle(8)

    def refused() -> None:
        with pytest.raises(storage.SlowDown), throttle:
            raise storage.SlowDown

    refused()
    refused()
    assert throttle.allowed == 4
    for _ in range(4 + 5):
        with throttle:
            pass
    assert throttle.allowed == 6


def test_prefixes_are_split_and_markers_of_folders_left_out(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import boto3

    monkeypatch.setattr(objects, "PAGE_KEYS", 10)
    prefix = uuid.uuid4().hex
    names = [f"only/cam{k % 3}/{k}.png" for k in range(9)] + ["only/flat.png", "only/cam1"]
    names += [f"only/day/{k % 2}/{k}.png" for k in range(9)]
    for name in [*names, "only/", "only/cam0/", ""]:
        boto3.client("s3").put_object(Bucket="plant", Key=f"{prefix}/{name}", Body=b"x" if name in names else b"")
    asked = {}
    for threads in (1, 2, 16):
        with FaultyProxy(os.environ["AWS_ENDPOINT_URL"], share=0) as proxy:
            through(proxy)
            (table,) = storage.listing(f"{s3}/{prefix}", threads)
        assert sorted(table["uri"].to_pylist()) == sorted(f"{s3}/{prefix}/{name}" for name in names)
        asked[threads] = proxy.requests
    assert asked[1] == 1
    assert asked[1] < asked[2] < asked[16], "more threads, more prefixes"


# Keys that obstore refuses

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


def put(bucket: str, keys: Sequence[str]) -> None:
    """Write objects that hold their key, through the store's own client."""
    import boto3

    client = boto3.client("s3")
    in_threads(lambda k: client.put_object(Bucket=bucket, Key=keys[k], Body=keys[k].encode()), len(keys))


def test_objects_with_awkward_keys_are_objects_as_others(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "100")  # some answers with awkward keys, most without
    monkeypatch.setattr(objects, "PAGE_KEYS", 100)
    prefix = uuid.uuid4().hex
    root = f"{s3}/{prefix}"
    plain = [f"{prefix}/day{k % 4}/cam{k % 3}/{k:04d}.png" if k % 5 else f"{prefix}/{k:04d}.png" for k in range(1200)]
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


# What clients send


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """The URL of a server that has nothing, and the headers of what it was asked last; no keys in the environment."""
    headers: dict[str, str] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            headers.clear()
            headers.update({name.lower(): value for name, value in self.headers.items()})
            self.send_error(404)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None: ...

    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    (tmp_path / "credentials").write_text("[plant]\naws_access_key_id = PLANTKEY\naws_secret_access_key = hidden\n")
    (tmp_path / "config").write_text("[profile plant]\nregion = eu-central-1\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", headers
        server.shutdown()


@pytest.mark.parametrize("client", ["read", "read any key", "filesystem"])
def test_settings_of_s3_reach_all_clients(client: str, asked: tuple[str, dict[str, str]]) -> None:
    url, headers = asked

    def ask(s3: S3Settings) -> dict[str, str]:
        storage.configure(StorageSettings(s3=s3))
        read = storage.filesystem("s3://bucket").cat if client == "filesystem" else storage.read
        with pytest.raises(FileNotFoundError):
            read("s3://bucket//a" if client == "read any key" else "s3://bucket/a")
        return headers

    sent = ask(S3Settings(endpoint_url=url, profile="plant", requester_pays=True))
    assert "Credential=PLANTKEY/" in sent["authorization"]
    assert "/eu-central-1/" in sent["authorization"]
    assert sent["x-amz-request-payer"] == "requester"
    sent = ask(S3Settings(endpoint_url=url, profile="plant", region="eu-west-1"))
    assert "/eu-west-1/" in sent["authorization"]
    sent = ask(S3Settings(endpoint_url=url, anonymous=True))
    assert "authorization" not in sent


def test_the_environment_names_a_profile_and_settings_one_that_is_missing(
    asked: tuple[str, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, headers = asked
    monkeypatch.setenv("AWS_PROFILE", "plant")
    monkeypatch.setenv("AWS_ENDPOINT_URL", url)
    storage.configure(StorageSettings(attempts=1))
    assert not storage.exists("s3://bucket/a")
    assert "Credential=PLANTKEY/" in headers["authorization"]
    storage.configure(StorageSettings(s3=S3Settings(profile="nosuch")))
    with pytest.raises(PermissionError, match="nosuch"):
        storage.read("s3://bucket/a")


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
