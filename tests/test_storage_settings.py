"""The settings of storage: what is refused, and what all clients of a store are told."""

from __future__ import annotations

import os
import pickle
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from diffad_ray import storage
from diffad_ray.errors import UserError
from diffad_ray.settings import build
from diffad_ray.storage import S3Settings, StorageSettings

pytestmark = pytest.mark.usefixtures("default_storage")


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
