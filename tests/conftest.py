"""Fixtures that several tests share: a tiny trained detector, folders of images, an S3 server, a Ray cluster."""

from __future__ import annotations

import http.server
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from tiny_detector import tiny_training

from diffad_ray import storage
from diffad_ray.bundles.bundle import Bundle, load_bundle
from diffad_ray.demo.surfaces import DEFECTS, defective, normal
from diffad_ray.storage import StorageSettings, retry
from diffad_ray.training.train import train

SIDE = 32
LONGEST = (
    "test_faults",
    "test_scoring",
    "test_kinds",
    "test_package",
    "test_hostile",
    "test_train",
    "test_defective",
)
"Files that take minutes, the longest first: begun last, they would keep one of two processes busy alone at the end."
# One thread: on cores that others use too, two of them wait for each other a hundred times as long as they compute.
torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest."""
    order = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(LONGEST)))


def write_image(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels[..., ::-1])


@pytest.fixture(scope="session")
def normals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 24 images of good weave."""
    folder = tmp_path_factory.mktemp("normals")
    rng = np.random.default_rng(0)
    for k in range(24):
        write_image(folder / f"{k:02d}.png", normal("weave", rng, 64).image)
    return folder


@pytest.fixture(scope="session")
def detector(normals: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of a barely trained tiny detector: fast, and its scores mean nothing."""
    # `make mutants` runs hundreds of sessions, which need not train it anew.
    kept = os.environ.get("DIFFAD_RAY_TINY_DETECTOR")
    location = Path(kept) if kept else tmp_path_factory.mktemp("detectors") / "weave"
    if (location / "detector.json").exists():
        return location
    train(normals, location, settings=tiny_training(steps=4), workers=0)
    return location


@pytest.fixture(scope="session")
def bundle(detector: Path) -> Bundle:
    return load_bundle(str(detector))


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of 40 readable images in folders, two that can't be read, and a file that is no image."""
    folder = tmp_path_factory.mktemp("archive")
    rng = np.random.default_rng(1)
    for k in range(40):
        kind = DEFECTS["weave"][k // 10]
        sample = normal("weave", rng, 64) if k % 5 else defective("weave", kind, rng, 64)
        write_image(folder / f"camera{k % 3}" / f"{k:02d}.png", sample.image)
    (folder / "empty.png").write_bytes(b"")
    (folder / "page.jpg").write_text("<html>no image</html>")
    (folder / "notes.txt").write_text("no image either")
    return folder


@pytest.fixture
def two_lines(tmp_path: Path) -> Path:
    """Two lines of two cameras with ten images each, and a text; the planner opens none of them."""
    for line in (1, 2):
        for camera in ("top", "side"):
            folder = tmp_path / "archive" / f"line{line}" / camera
            folder.mkdir(parents=True)
            for k in range(10):
                (folder / f"{k}.png").write_bytes(b"x" * k)
    (tmp_path / "archive" / "notes.txt").write_text("no image")
    os.utime(tmp_path / "archive" / "line1" / "top" / "3.png", (0, 0))
    return tmp_path / "archive"


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """A bucket of a real S3 server on loopback; the environment points all clients to it."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    settings = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    boto3.client("s3").create_bucket(Bucket="plant")
    yield "s3://plant"
    server.stop()
    for name, value in before.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value


@pytest.fixture(scope="session")
def cluster(s3: str) -> Iterator[None]:
    """A local Ray cluster, whose workers know the S3 server."""
    import ray

    from diffad_ray.cluster import connect

    assert s3
    connect()
    yield
    ray.shutdown()


@pytest.fixture
def default_storage(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Short pauses between attempts, and the settings put back after each test."""
    monkeypatch.setattr(retry, "FIRST_PAUSE", 0.02)
    yield
    storage.configure(StorageSettings())


@pytest.fixture
def refusing_store() -> Iterator[str]:
    """An S3 endpoint that answers everything with 403."""

    class Refuse(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(403)
            self.end_headers()

        do_HEAD = do_PUT = do_POST = do_GET

        def log_message(self, *_: object) -> None:
            """Keep the test's output quiet."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refuse)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
