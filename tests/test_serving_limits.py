"""What a server refuses, and that it refuses before anything is read, fetched or decoded."""

from __future__ import annotations

import gzip
import http.client
import os
import socket
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
from hostile import PNG
from served import Served, served

from diffad_ray import storage
from diffad_ray.errors import UserError
from diffad_ray.serving import punctual
from diffad_ray.serving.gate import MOST_HEADER_BYTES
from diffad_ray.serving.places import checked_prefixes
from diffad_ray.serving.service import Service
from diffad_ray.serving.settings import ServedDetector, ServingSettings
from diffad_ray.serving.tokens import read_tokens

SCORE = "/detectors/weave/score"
TOKENS = "# of the plant\nline1 score line-one-token-0001\nchief score,admin chief-token-000002\n"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that requests may name images in, beside one that they may not."""
    root = tmp_path_factory.mktemp("plant")
    for name in ("allowed/part.png", "allowed/deep/er.png", "allowed-not/part.png", "secret.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(PNG)
    (root / "allowed" / "out.png").symlink_to(root / "secret.png")
    (root / "allowed" / "away").symlink_to(root)
    (root / "allowed" / "large.png").write_bytes(PNG + bytes(2_000_000))
    os.mkfifo(root / "allowed" / "pipe.png")
    return root


@pytest.fixture(scope="module")
def server(detector: Path, images: Path) -> Iterator[Served]:
    limits: dict[str, Any] = {"max_bytes": 1_000_000, "max_pixels": 5000, "body_seconds": 0.5, "places": 4}
    with served({"weave": detector}, prefixes=(str(images / "allowed"), "s3://plant/parts"), **limits) as running:
        yield running


@pytest.fixture
def requested(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The locations that are asked of any store."""
    asked: list[str] = []
    monkeypatch.setattr(storage, "open_store", lambda location: asked.append(location) or 1 / 0)
    monkeypatch.setattr(storage, "read", lambda location, version=None: asked.append(location) or 1 / 0)
    return asked


@pytest.mark.parametrize(
    "uri",
    [
        "http://169.254.169.254/latest/meta-data/",
        "https://example.com/a.png",
        "file:///etc/passwd",
        "/etc/passwd",
        "s3://other/parts/a.png",
        "s3://plant/partsx/a.png",
        "s3://plant/parts/../secret.png",
        "s3://plant/parts//a.png",
        "S3://plant/parts/a.png",
        "s3://user:password@plant/parts/a.png",
        "gs://plant/parts/a.png",
        "s3://plant/parts",
        "s3://plant/parts/a\n.png",
        "s3://plant/parts/" + "a" * 3000,
        "{root}/allowed/../secret.png",
        "{root}/allowed/out.png",
        "{root}/allowed/away/secret.png",
        "{root}/allowed-not/part.png",
        "file://{root}/secret.png",
        "allowed/part.png",
        "",
        "~/part.png",
        "memory://parts/a.png",
    ],
)
def test_other_places_are_refused_before_any_request(
    server: Served, images: Path, requested: list[str], uri: str
) -> None:
    response = server.client.post(SCORE, json={"uri": uri.replace("{root}", str(images))})
    assert response.status_code == 403, response.text
    assert requested == []


def test_allowed_places(server: Served, images: Path) -> None:
    def by_uri(uri: object) -> tuple[int, Any]:
        response = server.client.post(SCORE, json={"uri": str(uri)})
        return response.status_code, response.json().get("status")

    assert by_uri(images / "allowed" / "part.png") == (200, None)
    assert by_uri(f"file://{images}/allowed/deep/er.png") == (200, None)
    assert by_uri(images / "allowed" / "none.png") == (404, "missing")
    assert by_uri(images / "allowed" / "deep") == (404, "missing")
    assert by_uri(images / "allowed" / "pipe.png") == (404, "missing")
    assert by_uri(images / "allowed" / "large.png") == (413, "too_large")


def test_prefixes_that_allow_too_much() -> None:
    for prefix in ("/", "s3://", "https://plant.example/parts"):
        with pytest.raises(UserError, match="prefix"):
            checked_prefixes([prefix])


@pytest.mark.parametrize(
    "body", [b"", b"[]", b'{"url": "x"}', b'{"uri": 3}', b'{"uri": "/a", "more": 1}', b"\xff", b"[" * 60_000]
)
def test_bodies_of_json(server: Served, body: bytes) -> None:
    response = server.client.post(SCORE, content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == 400, response.text


@pytest.mark.parametrize("body", [b"", b"--x\r\n", b"--x\r\nContent-Disposition: form-data\r\n\r\na\r\n--x--", PNG])
@pytest.mark.parametrize(
    "kind", ["multipart/form-data; boundary=x", "multipart/form-data", "multipart/form-data; boundary="]
)
def test_bodies_of_many_parts(server: Served, kind: str, body: bytes) -> None:
    response = server.client.post(SCORE, content=body, headers={"Content-Type": kind})
    assert response.status_code == 400, response.text


def test_large_bodies_are_refused_while_they_arrive(server: Served) -> None:
    assert server.score(bytes(1_000_001)).status_code == 413
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(2000):
            sent += 1
            yield bytes(100_000)

    try:
        code = server.client.post(SCORE, content=endless()).status_code
    except httpx2.TransportError:  # the connection was closed under the client, which was still sending
        code = 413
    assert code == 413
    assert sent < 200
    many = {"a": PNG, "b": PNG}
    assert server.client.post(SCORE, files=many).status_code == 400
    assert server.client.post(SCORE, json={"uri": "s3://plant/" + "a" * 70_000}).status_code == 413


def test_many_pixels_are_refused_before_decoding(server: Served) -> None:
    import cv2
    import numpy as np

    answer = server.score(cv2.imencode(".png", np.zeros((100, 51), np.uint8))[1].tobytes())
    assert (answer.status_code, answer.json()["status"]) == (413, "too_large")


def test_compressed_bodies_are_refused(server: Served) -> None:
    bomb = gzip.compress(bytes(50_000_000))
    assert len(bomb) < 100_000
    assert server.score(bomb, headers={"Content-Encoding": "gzip"}).status_code == 415


def test_large_headers_are_refused(server: Served) -> None:
    assert server.score(PNG, headers={"X-Large": "a" * MOST_HEADER_BYTES}).status_code == 431
    assert server.score(PNG, params={"parts": "a" * MOST_HEADER_BYTES}).status_code == 431


def test_hosts_and_origins_without_tokens(server: Served) -> None:
    assert server.score(PNG, headers={"Host": "plant.example"}).status_code == 403
    assert server.score(PNG, headers={"Origin": "https://plant.example"}).status_code == 403
    assert server.score(PNG, headers={"Origin": "null"}).status_code == 403
    assert server.score(PNG, headers={"Origin": server.url}).status_code == 200


def half_sent(server: Served, announced: int) -> http.client.HTTPResponse:
    """The answer to a body of which only a part ever comes."""
    where = urlsplit(server.url)
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=20)
    connection.putrequest("POST", SCORE)
    connection.putheader("Content-Length", str(announced))
    connection.endheaders()
    connection.send(PNG[:50])
    return connection.getresponse()


def test_bodies_that_never_end(server: Served) -> None:
    start = time.monotonic()
    answer = half_sent(server, len(PNG))
    assert answer.status == 408
    assert answer.getheader("connection") == "close"
    assert time.monotonic() - start < 5
    with ThreadPoolExecutor(4) as pool:  # as many as there are places
        assert {answer.status for answer in pool.map(lambda _: half_sent(server, 1000), range(4))} == {408}
    assert server.score(PNG).status_code == 200
    assert server.service.admission.taken == server.service.admission.bytes == 0


@pytest.mark.parametrize("begin", ["", f"POST {SCORE} HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: a"])
def test_headers_that_never_end(server: Served, monkeypatch: pytest.MonkeyPatch, begin: str) -> None:
    monkeypatch.setattr(punctual, "HEADER_SECONDS", 0.3)
    where = urlsplit(server.url)
    with socket.create_connection((where.hostname, where.port or 0), timeout=10) as connection:
        connection.sendall(begin.encode())
        assert connection.recv(1) == b"", "the server has closed the connection"


def test_headers_without_end(server: Served) -> None:
    where = urlsplit(server.url)
    with socket.create_connection((where.hostname, where.port or 0), timeout=10) as connection:
        connection.sendall(f"POST {SCORE} HTTP/1.1\r\nHost: 127.0.0.1\r\n".encode())
        endless = (f"X-{number}: {'a' * 1000}\r\n".encode() for number in range(100_000))
        with pytest.raises(ConnectionError):
            deque(map(connection.sendall, endless), 0)


def test_a_client_that_goes_away_frees_its_place(server: Served) -> None:
    where = urlsplit(server.url)
    for _ in range(8):
        with socket.create_connection((where.hostname, where.port or 0)) as connection:
            connection.sendall(f"POST {SCORE} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 900\r\n\r\nabc".encode())
    deadline = time.monotonic() + 5
    while server.service.admission.taken and time.monotonic() < deadline:
        time.sleep(0.01)
    assert server.service.admission.taken == 0


def test_tokens(detector: Path, tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text(TOKENS)
    with served({"weave": detector}, tokens_file=str(tmp_path / "tokens"), loopback_only=False) as server:

        def code(path: str, token: str | None, method: str = "GET", kind: str = "Bearer") -> int:
            headers = {} if token is None else {"Authorization": f"{kind} {token}"}
            answer = server.client.request(method, path, headers=headers, content=PNG if method == "POST" else None)
            assert (answer.status_code == 401) == ("www-authenticate" in answer.headers)
            return answer.status_code

        asked = server.service.networks.batches
        before = len(asked)
        for wrong in (None, "x", "line-one-token-0002", "line-one-token-000", "LINE-ONE-TOKEN-0001", "line1"):
            for path in (SCORE, "/v2/models/weave/infer"):
                assert code(path, wrong, "POST") == 401
            for path in ("/detectors", "/metrics", "/v2/models/weave", "/v2/models/weave/ready"):
                assert code(path, wrong) == 401
        assert code(SCORE, "line-one-token-0001", "POST", kind="Basic") == 401
        assert len(asked) == before
        assert code(SCORE, "line-one-token-0001", "POST") == 200
        assert code("/metrics", "line-one-token-0001") == 403
        assert code("/metrics", "chief-token-000002") == 200
        for path in ("/", "/v2", "/v2/health/live", "/v2/health/ready", "/openapi.json"):
            assert code(path, None) == 200


def test_tokens_are_needed_where_others_can_reach_the_port(detector: Path) -> None:
    settings = ServingSettings(detectors={"weave": ServedDetector(location=str(detector))})
    with pytest.raises(UserError, match="needs tokens"):
        Service(settings)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("line1 score", "NAME SCOPES TOKEN"),
        ("line1 all 0123456789abcdef", "'all' is no scope"),
        ("line1 score short", "16 characters"),
        ("li/ne score 0123456789abcdef", "the name must be"),
        ("# nothing\n", "holds no token"),
    ],
)
def test_token_files(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "tokens").write_text(text)
    with pytest.raises(UserError, match=reason) as caught:
        read_tokens(str(tmp_path / "tokens"))
    assert "0123456789abcdef" not in str(caught.value)


def test_tokens_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFFAD_RAY_TOKENS", TOKENS)
    assert [(client.name, client.scopes) for client in read_tokens(None)] == [
        ("line1", {"score"}),
        ("chief", {"score", "admin"}),
    ]
