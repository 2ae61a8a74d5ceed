"""Object stores through networks that refuse, cut, delay and lose: what is asked, how often, and what is said."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from functools import partial

import pytest
from faulty_proxy import FaultyProxy
from object_store import in_threads, through
from obstore.exceptions import GenericError

from diffad_ray import storage
from diffad_ray.storage import objects, retry
from diffad_ray.storage.failures import from_obstore

pytestmark = pytest.mark.usefixtures("default_storage")


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


def test_missing_credentials_are_not_told_as_a_broken_connection() -> None:
    """Where the environment has none, obstore asks the cloud, and most machines are in none."""
    asked = "Generic S3 error: Error performing PUT http://169.254.169.254/latest/api/token in 1ms"
    broken = f"{asked} - HTTP error: error sending request\n\nDebug source:\nHttpError {{ kind: Connect }}"
    for text in (broken, f"{asked} - Server returned non-2xx status code: 404 Not Found"):
        found = from_obstore(GenericError(text), "s3://plant/a.png")
        assert isinstance(found, PermissionError)
        assert "no credentials" in str(found)
