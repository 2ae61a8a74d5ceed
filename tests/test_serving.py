"""Answers of a server: those of scoring, whatever way the image came in, and in the form that was asked for."""

from __future__ import annotations

import io
import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from hostile import PNG, readable, refused
from served import Served, parts_of, served

from diffad_ray.bundles.bundle import Bundle
from diffad_ray.images import DEFAULT_MAX_PIXELS, IN_FULL, ImageError, decode_image, network_input
from diffad_ray.inference.engine import Engine
from diffad_ray.inference.regions import mask_from_runs
from diffad_ray.inference.verdict import Verdict, verdict
from diffad_ray.scoring.load import decode

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")
STATUS = {"unreadable": 422, "too_large": 413, "failed": 422}


@pytest.fixture(scope="module")
def server(detector: Path, archive: Path) -> Iterator[Served]:
    with served({"weave": detector}, prefixes=(str(archive),)) as running:
        yield running


def expected(bundle: Bundle, data: bytes) -> Verdict:
    """The verdict of the engine and the calibration, without any server."""
    pixels = decode_image(data).pixels
    view = network_input(pixels, bundle.detector.settings.image_size)
    (found,) = Engine(bundle.detector).detect_images([view])
    size = pixels.shape[1], pixels.shape[0]
    return verdict(found.score, found.anomaly_map, size, bundle.calibration, bundle.calibration.threshold)


@pytest.fixture(scope="module")
def defect(archive: Path, bundle: Bundle) -> bytes:
    """The image of the archive with the highest score; the detector's threshold lies below it."""
    return max(
        (path.read_bytes() for path in archive.rglob("*.png") if path.stat().st_size),
        key=lambda data: expected(bundle, data).score,
    )


def test_an_answer_is_the_verdict(server: Served, bundle: Bundle, defect: bytes) -> None:
    found, answer = expected(bundle, defect), server.score(defect).json()
    assert answer["score"] == found.score
    assert (answer["threshold"], answer["tail_probability"]) == (found.threshold, found.tail_probability)
    assert answer["regions"] == found.regions
    assert answer["anomalous_fraction"] == found.anomalous_fraction
    assert answer["is_anomalous"] == found.is_anomalous
    assert (answer["detector"], answer["fingerprint"]) == ("weave", bundle.fingerprint)
    assert answer["image"] == {"width": 64, "height": 64, "mode": "8-bit RGB"}
    assert 0 < answer["quality"]["brightness"] < 1
    assert answer["recorded"] is False
    assert answer["decision"] == ("reject" if found.is_anomalous else "good"), "without a table there is no review band"


def test_all_three_ways_in_give_one_answer(server: Served, archive: Path) -> None:
    path = archive / "camera1" / "01.png"
    raw = server.score(path.read_bytes()).json()
    multipart = server.client.post("/detectors/weave/score", files={"image": ("a.png", path.read_bytes())}).json()
    by_uri = server.client.post("/detectors/weave/score", json={"uri": str(path)}).json()
    for answer in (raw, multipart, by_uri):
        assert answer.pop("request_id")
    assert raw == multipart == by_uri


def posted(server: Served, data: bytes, way: str, folder: Path) -> tuple[int, dict[str, object]]:
    path = "/detectors/weave/score"
    if way == "raw":
        response = server.client.post(path, content=data, headers={"Content-Type": "application/octet-stream"})
    elif way == "multipart":
        response = server.client.post(path, files={"image": ("image", data)})
    else:
        (folder / "image").write_bytes(data)
        response = server.client.post(path, json={"uri": str(folder / "image")})
    return response.status_code, response.json()


@pytest.mark.parametrize("way", ["raw", "multipart", "uri"])
def test_hostile_files_get_the_status_and_reason_of_scoring(server: Served, archive: Path, way: str) -> None:
    folder = archive / "posted"
    folder.mkdir(exist_ok=True)
    side = 32
    for name, file in (readable() | refused()).items():
        found = decode(file.data, DEFAULT_MAX_PIXELS, IN_FULL, None)
        if found.pixels is not None:
            try:
                network_input(found.pixels, side)
            except ImageError as error:
                found = found._replace(status=error.status, error=str(error), pixels=None)
        code, answer = posted(server, file.data, way, folder)
        if found.pixels is None:
            assert (code, answer["status"], answer["error"]) == (STATUS[found.status], found.status, found.error), name
        else:
            assert (code, answer["image"]["mode"]) == (200, found.mode), name  # type: ignore[index]
    shutil.rmtree(folder)


def test_pictures(server: Served, bundle: Bundle, defect: bytes) -> None:
    found = expected(bundle, defect)
    assert found.mask is not None
    mask = server.score(defect, params={"parts": "mask"})
    assert mask.headers["content-type"] == "image/png"
    np.testing.assert_array_equal(decode_image(mask.content).pixels[..., 0] > 0, found.mask)
    assert float(mask.headers["x-score"]) == found.score
    everything = server.score(defect, headers={"Accept": "multipart/form-data"}, params={"parts": "all"})
    parts = parts_of(everything.headers["content-type"], everything.content)
    assert list(parts) == ["answer", "mask", "overlay", "heat", "reconstruction"]
    assert json.loads(parts["answer"])["score"] == found.score
    assert parts["mask"] == mask.content
    assert decode_image(parts["overlay"]).pixels.shape == (64, 64, 3)
    assert decode_image(parts["heat"]).pixels.shape == (64, 64, 3)
    assert decode_image(parts["reconstruction"]).pixels.shape == (32, 32, 3)
    marked = np.zeros((64, 64), bool)
    for region in json.loads(parts["answer"])["regions"]:
        box = np.s_[region["y"] : region["y"] + region["height"], region["x"] : region["x"] + region["width"]]
        marked[box] |= mask_from_runs(region["mask_runs"], region["width"], region["height"])
    if found.is_anomalous:
        np.testing.assert_array_equal(marked, found.mask)


@pytest.mark.parametrize(
    ("accept", "parts", "code"),
    [
        ("application/json", "", 200),
        ("application/json", "mask", 406),
        ("image/png", "", 406),
        ("image/png", "mask,heat", 406),
        ("image/png", "heat", 200),
        ("image/jpeg", "", 406),
        ("image/jpeg, */*;q=0.1", "", 200),
        ("*/*", "shadow", 400),
    ],
)
def test_forms_of_answers(server: Served, accept: str, parts: str, code: int) -> None:
    response = server.score(PNG, headers={"Accept": accept}, params={"parts": parts})
    assert response.status_code == code, response.text
    if code == 200:
        kind = response.headers["content-type"]
        assert kind == ("image/png" if accept == "image/png" else "application/json")


def test_deep_images_and_batches_of_both_depths(server: Served, bundle: Bundle) -> None:
    deep = readable()["16-bit.png"].data
    assert server.score(deep).json()["score"] == expected(bundle, deep).score


def test_log_lines_and_metrics(server: Served, caplog: pytest.LogCaptureFixture, bundle: Bundle) -> None:
    from diffad_ray.serving.observation import requests_log

    lines = io.StringIO()
    handler = logging.StreamHandler(lines)
    requests_log.addHandler(handler)
    requests_log.setLevel(logging.INFO)
    try:
        answer = server.score(PNG, headers={"X-Request-ID": "part-7", "Authorization": "Bearer not-for-logs-1234"})
        server.score(b"no image")
        server.client.get("/v2/health/live")
    finally:
        requests_log.removeHandler(handler)
    assert answer.headers["x-request-id"] == answer.json()["request_id"] == "part-7"
    good, bad = map(json.loads, lines.getvalue().splitlines())
    assert (good["request_id"], good["detector"], good["status"], good["bytes"]) == ("part-7", "weave", 200, len(PNG))
    assert good["fingerprint"] == bundle.fingerprint
    assert good["decision"] == answer.json()["decision"]
    assert {"read", "decode", "wait", "detect", "judge", "write", "total"} <= good["ms"].keys()
    assert (bad["status"], bad["image_status"]) == (422, "unreadable")
    assert "not-for-logs" not in lines.getvalue()
    text = server.client.get("/metrics").text
    assert 'diffad_ray_serve_requests_total{detector="weave",replica="0",status="422"}' in text
    assert 'diffad_ray_serve_stage_seconds_bucket{le="0.1",replica="0",stage="detect"}' in text


def test_an_unreadable_word_of_a_path_is_404(server: Served) -> None:
    assert server.score(PNG, name="nobody").status_code == 404
    assert server.client.get("/nothing").status_code == 404
    assert server.client.get("/detectors/weave/score").status_code == 405


def test_the_list_of_detectors(server: Served, bundle: Bundle) -> None:
    (listed,) = server.client.get("/detectors").json()["detectors"]
    assert (listed["name"], listed["fingerprint"], listed["problem"]) == ("weave", bundle.fingerprint, None)
    assert (listed["kind"], listed["image_size"]) == ("diffusion-ad", 32)


def test_an_encoded_jpeg_of_opencv(server: Served, bundle: Bundle) -> None:
    pixels = np.random.default_rng(3).integers(0, 255, (50, 70, 3), np.uint8)
    data = cv2.imencode(".jpg", pixels)[1].tobytes()
    assert server.score(data).json()["score"] == expected(bundle, data).score
