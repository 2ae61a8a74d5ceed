"""Between plan and fetch anything may happen to an image: the row says what."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from obstore.exceptions import AlreadyExistsError, GenericError

from diffad_ray import storage
from diffad_ray.scoring import load
from diffad_ray.scoring.load import LOCAL_READERS, REMOTE_READERS, LoadedImage, fetch, usual_readers
from diffad_ray.scoring.settings import PASSING
from diffad_ray.storage.failures import from_obstore


def reason(uri: str, version: str | None, size: int = 10) -> tuple[str, str]:
    found = fetch(uri, size, version)
    assert isinstance(found, LoadedImage)
    assert found.pixels is None
    return found.status, found.error or ""


@pytest.mark.parametrize("place", ["local", "s3"])
def test_deleted_and_replaced(place: str, s3: str, tmp_path: Path) -> None:
    folder = f"{s3}/between" if place == "s3" else str(tmp_path / "between")
    storage.write(f"{folder}/a.png", b"listed")
    (file,) = storage.walk(folder)
    assert fetch(file.uri, file.bytes, file.version) == b"listed"
    storage.write(file.uri, b"replaced by something else")
    status, error = reason(file.uri, file.version)
    assert status == "missing"
    assert "replaced" in error
    assert fetch(file.uri, file.bytes, None) == b"replaced by something else"
    storage.delete(file.uri)
    assert reason(file.uri, file.version)[0] == "missing"


def test_forbidden(s3: str, monkeypatch: pytest.MonkeyPatch, refusing_store: str, tmp_path: Path) -> None:
    if os.geteuid():
        (tmp_path / "locked.png").write_bytes(b"x")
        (tmp_path / "locked.png").chmod(0)
        assert reason(str(tmp_path / "locked.png"), None)[0] == "denied"
    monkeypatch.setenv("AWS_ENDPOINT_URL", refusing_store)
    assert reason("s3://elsewhere/a.png", None)[0] == "denied"


def test_nobody_answers(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    before = storage.settings()
    try:
        storage.configure(storage.StorageSettings(attempts=2, timeout=1))
        status, error = reason("s3://silent/a.png", None)
    finally:
        storage.configure(before)
    assert status == "timeout"
    assert "silent" in error


def test_objects_in_an_archive_tier(s3: str) -> None:
    import boto3

    for key, tier in {"archived/a.png": "DEEP_ARCHIVE", "archived//b.png": "GLACIER"}.items():
        boto3.client("s3").put_object(Bucket="plant", Key=key, Body=b"x", StorageClass=tier)
        assert reason(f"{s3}/{key}", None) == ("archived", f"archived ({tier}): restore it first")
    assert "archived" not in PASSING
    answer = "<Error><Code>BlobArchived</Code><Message>This operation is not permitted on an archived blob.</Message>"
    text = f"Generic MicrosoftAzure error: Server returned non-2xx status code: 409 Conflict: {answer}</Error>"
    for kind in (AlreadyExistsError, GenericError):
        refused = from_obstore(kind(text), "az://plant/a.png")
        assert isinstance(refused, storage.Archived)
        assert str(refused) == "az://plant/a.png: archived: restore it first"


@pytest.mark.parametrize(
    ("uri", "status", "says"),
    [
        ("{tmp}/file/a.png", "missing", "a part of the path is a file"),
        ("{tmp}/folder.png", "missing", "this is no file"),
        ("{tmp}/loop.png", "missing", "leads to itself"),
        ("{tmp}/" + "a" * 300, "missing", "the name is longer"),
        ("{tmp}/a\0.png", "failed", "null byte"),
        ("nosuch://a/b.png", "failed", "Protocol not known: nosuch"),
        ("s3:///b.png", "failed", "no location that can be read"),
        ("s3://two words/b.png", "failed", "no location that can be read"),
        ("gs://bucket//b.png", "failed", "rename '/b.png'"),
        ("http:///b.png", "failed", "no location that can be read"),
        ("s3://key:secret@bucket/b.png", "failed", "carries a password"),
    ],
)
def test_what_can_never_be_read_is_not_tried_every_night(uri: str, status: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "loop.png").symlink_to("loop.png")
    found, error = reason(uri.format(tmp=tmp_path), None)
    assert found == status
    assert found not in PASSING
    assert says in error
    assert str(tmp_path / "file") not in error, "equal reasons are counted together"


def test_too_large_to_fetch() -> None:
    status, error = reason("s3://nowhere/a.png", None, size=load.MAX_BYTES + 1)
    assert status == "too_large"
    assert str(load.MAX_BYTES) in error


def test_a_decoder_that_hangs_ends_its_process_even_if_it_never_gives_up_python() -> None:
    script = """
import re
from diffad_ray.scoring import load

load.STUCK_SECONDS = load.LONG_SECONDS = 0.2
with load.dies_if_stuck(1):
    pass
print("in time", flush=True)
with load.dies_if_stuck(1):
    re.match("(a+)+$", "a" * 60 + "b")  # takes years, and no other thread runs meanwhile
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout) == (-signal.SIGALRM, "in time\n")
    assert "most recent call first" in ended.stderr


def test_an_alarm_that_someone_else_has_set_is_given_back() -> None:
    before = signal.setitimer(signal.ITIMER_REAL, 1000.0)
    try:
        with load.dies_if_stuck(1):
            assert signal.getitimer(signal.ITIMER_REAL)[0] < 1000.0 - load.STUCK_SECONDS
        assert signal.getitimer(signal.ITIMER_REAL)[0] == pytest.approx(1000.0, abs=10)
    finally:
        signal.setitimer(signal.ITIMER_REAL, *before)


def test_stores_are_read_by_more_threads_than_disks() -> None:
    assert usual_readers(["/a/b.png", "file:///a/c.png"]) == LOCAL_READERS
    assert usual_readers(["/a/b.png", "s3://a/c.png"]) == REMOTE_READERS
