"""A server under load: batches, a bounded queue, times, and images that kill or stop their decoder."""

from __future__ import annotations

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from hostile import PNG
from served import Served, served
from tiny_detector import SCORING_BATCH

from diffad_ray.inference.engine import Engine


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """While it is not set, no engine goes on."""
    event = threading.Event()
    event.set()
    original = Engine.detect

    def waiting(self: Engine, pixels: np.ndarray):  # type: ignore[no-untyped-def]
        assert event.wait(30)
        return original(self, pixels)

    monkeypatch.setattr(Engine, "detect", waiting)
    return event


def until(condition: object, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.005)


def test_one_alone_is_a_batch_and_those_that_wait_are_one(detector: Path, held: threading.Event) -> None:
    with served({"weave": detector}, decoders=2) as server:
        for _ in range(3):
            server.score(PNG)
        batches = server.service.networks.batches
        # A batch is counted after its answers have left; the first one was the detection before the server was ready.
        until(lambda: len(batches) == 4)
        assert set(batches) == {1}
        batches.clear()
        held.clear()
        with ThreadPoolExecutor(21) as pool:
            first = pool.submit(server.score, PNG)
            until(lambda: server.service.networks._began is not None)
            rest = [pool.submit(server.score, PNG) for _ in range(20)]
            until(lambda: server.service.networks.waiting == 20)
            held.set()
            scores = {answer.result().json()["score"] for answer in (first, *rest)}
        assert list(batches) == [1, *[SCORING_BATCH] * 10]
        assert len(scores) == 1


def test_a_full_queue_is_told_with_the_time_to_come_back(detector: Path, held: threading.Event) -> None:
    with served({"weave": detector}, places=3) as server, ThreadPoolExecutor(3) as pool:
        server.service.admission.seconds_an_image = 4.0
        held.clear()
        waiting = [pool.submit(server.score, PNG) for _ in range(3)]
        until(lambda: server.service.admission.taken == 3)
        start = time.monotonic()
        refused = server.score(PNG)
        assert time.monotonic() - start < 1
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "6")
        assert server.client.get("/v2/health/ready").status_code == 200
        held.set()
        assert {answer.result().status_code for answer in waiting} == {200}
        assert server.score(PNG).status_code == 200


def test_bytes_that_wait_are_bounded(detector: Path, held: threading.Event) -> None:
    data = PNG + bytes(60_000)
    with served({"weave": detector}, waiting_bytes=100_000) as server, ThreadPoolExecutor(2) as pool:
        held.clear()
        first = pool.submit(server.score, data)
        until(lambda: server.service.admission.bytes == len(data))
        assert server.score(data).status_code == 503
        held.set()
        assert first.result().status_code == 200
        assert server.service.admission.bytes == 0


def test_a_request_that_takes_too_long(detector: Path, held: threading.Event) -> None:
    with served({"weave": detector}, request_seconds=0.3) as server:
        held.clear()
        late = [ThreadPoolExecutor(1).submit(server.score, PNG) for _ in range(2)]
        assert {answer.result().status_code for answer in late} == {504}
        assert server.service.networks.waiting == 0, "the one that waited is not detected for nobody"
        held.set()
        assert server.score(PNG).status_code in (200, 504)


def test_a_drained_server_answers_what_it_has_accepted(detector: Path, held: threading.Event) -> None:
    with served({"weave": detector}) as server, ThreadPoolExecutor(2) as pool:
        held.clear()
        accepted = pool.submit(server.score, PNG)
        until(lambda: server.service.admission.taken == 1)
        drained = pool.submit(server.in_loop, server.service.drain(20))
        until(lambda: server.service.admission.is_closed)
        refused = server.score(PNG)
        assert (refused.status_code, "retry-after" in refused.headers) == (503, True)
        assert server.client.get("/v2/health/ready").status_code == 503
        assert server.client.get("/v2/health/live").status_code == 200
        held.set()
        assert accepted.result().status_code == 200
        assert drained.result() is True


@pytest.fixture(scope="module")
def large() -> bytes:
    """An image that takes a while to decode."""
    return cv2.imencode(".png", np.zeros((8000, 8000, 3), np.uint8))[1].tobytes()


def decoder_pid(server: Served) -> int:
    (decoder,) = server.service.decoders._all
    assert decoder.pid
    return decoder.pid


def test_an_image_that_kills_its_decoder_costs_its_own_answer(detector: Path, large: bytes) -> None:
    with served({"weave": detector}) as server, ThreadPoolExecutor(1) as pool:
        victim = decoder_pid(server)
        answer = pool.submit(server.score, large)
        until(lambda: server.service.decoders._free == [])
        time.sleep(0.1)
        os.kill(victim, signal.SIGSEGV)
        assert (answer.result().status_code, answer.result().json()["status"]) == (422, "failed")
        assert "crashed (SIGSEGV)" in answer.result().json()["error"]
        assert server.score(PNG).status_code == 200
        assert decoder_pid(server) != victim


def test_an_image_that_stops_its_decoder(detector: Path) -> None:
    with served({"weave": detector}, decode_seconds=0.3) as server:
        os.kill(decoder_pid(server), signal.SIGSTOP)
        answer = server.score(PNG)
        assert (answer.status_code, answer.json()["error"]) == (422, "decoding took longer than 0.3 s")


def test_a_batch_that_fails_costs_its_own_answers(detector: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with served({"weave": detector}) as server:
        monkeypatch.setattr(Engine, "detect", lambda self, pixels: 1 / 0)
        answer = server.score(PNG)
        assert answer.status_code == 500
        assert "ZeroDivisionError" not in answer.text
        assert answer.json()["request_id"] == answer.headers["x-request-id"]
        monkeypatch.undo()
        assert server.score(PNG).status_code == 200
