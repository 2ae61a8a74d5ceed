"""Many detectors: loaded when asked for, within a budget, pinned, and replaced without a failed request."""

from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path

import pytest
from hostile import PNG
from served import Served, served
from tiny_detector import random_images, tiny_detector

from diffad_ray.bundles.bundle import Bundle, load_bundle, save_bundle
from diffad_ray.bundles.calibration import Calibration
from diffad_ray.inference.engine import Engine
from diffad_ray.serving.settings import ServedDetector


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three detectors with different weights."""
    folder = tmp_path_factory.mktemp("bundles")
    for seed in range(3):
        detector = tiny_detector(seed, familiarity=0)
        scores = [float(score) for batch in Engine(detector).detect(random_images(16)) for score in batch.score]
        save_bundle(Bundle(detector, Calibration.from_scores(scores)), str(folder / f"d{seed}"))
    return [folder / f"d{seed}" for seed in range(3)]


def fingerprints(server: Served) -> dict[str, str | None]:
    return {found["name"]: found["fingerprint"] for found in server.client.get("/detectors").json()["detectors"]}


def test_detectors_are_loaded_when_asked_for_and_let_go(bundles: list[Path]) -> None:
    places: dict[str, Path | ServedDetector] = {path.name: path for path in bundles}
    with served(places) as server:
        assert [name for name, held in fingerprints(server).items() if held] == ["d0"]
        size = next(iter(server.service.detectors.held.values())).bytes
        assert server.score(PNG, name="d1").json()["fingerprint"] == load_bundle(str(bundles[1])).fingerprint
    with served(places, detector_bytes=int(2.5 * size), preload=True) as server:
        assert list(server.service.detectors.held) == ["d1", "d2"]
        server.score(PNG, name="d1")
        server.score(PNG, name="d0")
        assert list(server.service.detectors.held) == ["d1", "d0"]
        scores = {name: server.score(PNG, name=name).json()["score"] for name in places}
        assert len(set(scores.values())) == 3
        assert {name: server.score(PNG, name=name).json()["score"] for name in places} == scores


def test_a_pinned_detector_answers_with_that_bundle_alone(bundles: list[Path], tmp_path: Path) -> None:
    place = shutil.copytree(bundles[0], tmp_path / "part")
    first = load_bundle(str(place)).fingerprint
    pinned = ServedDetector(location=str(place), fingerprint=first)
    with served({"part": pinned}, refresh_seconds=0.1) as server:
        assert server.score(PNG, name="part").json()["fingerprint"] == first
        assert server.score(PNG, name="part", params={"fingerprint": first}).status_code == 200
        assert server.score(PNG, name="part", params={"fingerprint": "0" * 16}).status_code == 409
        assert server.score(PNG, name="part", params={"fingerprint": "newest"}).status_code == 400
        replace_bundle(place, bundles[1])
        until(lambda: "pinned" in (server.client.get("/detectors").json()["detectors"][0]["problem"] or ""))
        assert server.score(PNG, name="part").json()["fingerprint"] == first
    with served({"part": pinned}) as server:
        ready = server.client.get("/v2/health/ready")
        assert (ready.status_code, "pinned" in ready.json()["error"]) == (503, True)
        assert server.score(PNG, name="part").status_code == 503


def replace_bundle(place: Path, by: Path) -> None:
    """As `save_bundle` replaces one: for a moment there is none, then one that is not whole."""
    (place / "detector.json").unlink()
    shutil.copy(by / "model.safetensors", place)
    shutil.copy(by / "detector.json", place)


def until(condition: object, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.01)


def test_a_new_bundle_takes_over_without_a_failed_request(bundles: list[Path], tmp_path: Path) -> None:
    place = shutil.copytree(bundles[0], tmp_path / "part")
    answers: list[tuple[int, str, float]] = []
    ended = threading.Event()
    with served({"part": place}, refresh_seconds=0.1, decoders=2) as server:

        def ask() -> None:
            while not ended.is_set():
                answer = server.score(PNG, name="part")
                found = answer.json()
                answers.append((answer.status_code, found.get("fingerprint", ""), found.get("score", 0.0)))

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for by in (bundles[1], bundles[2], bundles[0]):
            wanted = load_bundle(str(by)).fingerprint
            replace_bundle(place, by)
            until(lambda: answers and answers[-1][1] == wanted)  # noqa: B023 - called within the loop
        ended.set()
        for thread in threads:
            thread.join()
        assert server.service.detectors.swaps == 3
    assert {code for code, _, _ in answers} == {200}
    pairs = {(fingerprint, score) for _, fingerprint, score in answers}
    assert len(pairs) == 3, "no answer has the score of one bundle and the name of another"


def test_a_damaged_bundle_leaves_the_old_one(bundles: list[Path], tmp_path: Path) -> None:
    place = shutil.copytree(bundles[0], tmp_path / "part")
    with served({"part": place}, refresh_seconds=0.1) as server:
        first = server.score(PNG, name="part").json()["fingerprint"]
        (place / "model.safetensors").write_bytes(b"half")
        (place / "detector.json").write_text((bundles[1] / "detector.json").read_text())
        until(lambda: "damaged" in (server.client.get("/detectors").json()["detectors"][0]["problem"] or ""))
        assert server.score(PNG, name="part").json()["fingerprint"] == first
        shutil.copy(bundles[1] / "model.safetensors", place)
        until(lambda: fingerprints(server)["part"] != first)
        assert server.client.get("/detectors").json()["detectors"][0]["problem"] is None


def test_a_server_is_ready_once_a_detector_has_answered(bundles: list[Path], tmp_path: Path) -> None:
    place = tmp_path / "later"
    with served({"later": place}, refresh_seconds=0.1) as server:
        assert server.client.get("/v2/health/live").status_code == 200
        ready = server.client.get("/v2/health/ready")
        assert (ready.status_code, "no detector at" in ready.json()["error"]) == (503, True)
        refused = server.score(PNG, name="later")
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "30")
        assert str(place) not in refused.text, "clients need not know where detectors are"
        shutil.copytree(bundles[0], place)
        until(lambda: server.client.get("/v2/health/ready").status_code == 200)
        assert server.score(PNG, name="later").status_code == 200
