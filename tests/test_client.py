"""The client: scores, decisions, reasons, and repetitions after the time that the server names."""

from __future__ import annotations

import asyncio
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from hostile import PNG
from served import Served, served

from diffad_ray.client import AsyncClient, Client, ServerError

ANSWER = {
    "decision": "good",
    "score": -1.5,
    "threshold": 2.0,
    "tail_probability": 0.5,
    "regions": [],
    "fingerprint": "0123456789abcdef",
}


@pytest.fixture(scope="module")
def server(detector: Path, archive: Path) -> Iterator[Served]:
    with served({"weave": detector}, prefixes=(str(archive),)) as running:
        yield running


def test_scores_of_bytes_paths_and_uris(server: Served, archive: Path) -> None:
    path = archive / "camera1" / "01.png"
    with Client(server.url, detector="weave") as client:
        found = client.score(path)
        assert found.answer["image"]["width"] == 64
        assert client.score(path.read_bytes()).score == client.score(uri=str(path)).score == found.score

    async def scored() -> float:
        async with AsyncClient(server.url) as client:
            return (await client.score(path, detector="weave")).score

    assert asyncio.run(scored()) == found.score


def test_reasons(server: Served) -> None:
    with Client(server.url) as client:
        with pytest.raises(ServerError, match="not an image") as caught:
            client.score(b"text", detector="weave")
        assert (caught.value.code, caught.value.status) == (422, "unreadable")
        with pytest.raises(ServerError) as caught:
            client.score(PNG, detector="other")
        assert caught.value.code == 404
        with pytest.raises(ValueError, match="name the detector"):
            client.score(PNG)
        with pytest.raises(ValueError, match="an image or a URI"):
            client.score(detector="weave")


class Busy(http.server.BaseHTTPRequestHandler):
    """Refuses two requests before it answers one."""

    asked = 0

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        type(self).asked += 1
        busy = self.asked % 3 != 0
        body = json.dumps({"error": "the queue is full", "status": None} if busy else ANSWER).encode()
        self.send_response(503 if busy else 200)
        self.send_header("Retry-After", "7")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Keep the test's output quiet."""


@pytest.fixture
def busy() -> Iterator[str]:
    Busy.asked = 0
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Busy)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_the_time_that_a_server_names_is_waited(busy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("diffad_ray.client.time", SimpleNamespace(sleep=pauses.append))
    with Client(busy, detector="part") as client:
        assert client.score(b"image").decision == "good"
        assert all(7 <= pause <= 8.4 for pause in pauses)
        assert len(pauses) == 2
    with Client(busy, detector="part", attempts=2) as client, pytest.raises(ServerError, match="queue is full"):
        client.score(b"image")

    async def paused(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr("diffad_ray.client.asyncio", SimpleNamespace(sleep=paused))

    async def scored() -> str:
        async with AsyncClient(busy, detector="part") as client:
            return (await client.score(b"image")).decision

    Busy.asked, pauses[:] = 0, []
    assert asyncio.run(scored()) == "good"
    assert len(pauses) == 2


def test_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("diffad_ray.client.time", SimpleNamespace(sleep=pauses.append))
    with Client("http://127.0.0.1:1", detector="part", attempts=3) as client:
        with pytest.raises(ServerError, match="no answer") as caught:
            client.score(b"image")
        assert caught.value.code == 0
    assert len(pauses) == 2
    assert pauses[0] <= 0.5
