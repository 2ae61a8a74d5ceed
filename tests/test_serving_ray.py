"""The server on Ray Serve, as the command starts it: scores of the archive, a lost replica, lost clients, SIGTERM."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import httpx2
import numpy as np
import pytest
from hostile import PNG, readable, refused
from served import parts_of

from diffad_ray import query, score
from diffad_ray.images import decode_image
from diffad_ray.serving.proxy import HEADER_SECONDS

pytestmark = [pytest.mark.long, pytest.mark.filterwarnings("ignore::UserWarning:PIL")]
TOKEN = "a-token-of-the-tests"


class Command:
    """`diffad-ray serve` in a process of its own."""

    def __init__(self, detector: Path, folder: Path):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.log = folder / "requests.log"
        (folder / "tokens").write_text(f"tests score,admin {TOKEN}\n")
        arguments = [f"weave={detector}", "--port", str(self.port), "--log-file", str(self.log), "--replicas", "2"]
        arguments += ["--tokens", str(folder / "tokens"), "--set", "serving.threads=1"]
        command = [sys.executable, "-m", "diffad_ray.cli", "serve", *arguments]
        environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        self.errors = folder / "errors.txt"
        with self.errors.open("w") as errors:
            # In a session of its own, by which its processes are told from those of another server.
            self.process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment, start_new_session=True
            )
        assert self.process.stdout
        said: list[str] = []
        for line in iter(self.process.stdout.readline, ""):
            said.append(line)
            if line.startswith("ready at"):
                break
        assert said, "the command said nothing"
        assert said[-1].strip() == f"ready at http://127.0.0.1:{self.port}", said
        headers = {"Authorization": f"Bearer {TOKEN}"}
        self.client = httpx2.Client(base_url=f"http://127.0.0.1:{self.port}", headers=headers, timeout=60)

    def score(self, data: bytes, **options: Any) -> httpx2.Response:
        return self.client.post("/detectors/weave/score", content=data, **options)

    def replicas(self) -> set[int]:
        """Process numbers of the replicas."""
        found = set()
        for folder in Path("/proc").iterdir():
            try:
                command = (folder / "cmdline").read_bytes().rstrip(b"\0").decode()
                session = int((folder / "stat").read_text().rpartition(")")[2].split()[3])
            except (OSError, UnicodeDecodeError, ValueError, IndexError):
                continue
            if command.startswith("ray::ServeReplica:diffad-ray:detectors") and session == self.process.pid:
                found.add(int(folder.name))
        return found


@pytest.fixture(scope="module")
def command(detector: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    running = Command(detector, tmp_path_factory.mktemp("serve"))
    yield running
    running.client.close()
    if running.process.poll() is None:
        running.process.send_signal(signal.SIGTERM)
        running.process.wait(60)


def images(archive: Path) -> dict[str, bytes]:
    """Two hundred images of many kinds."""
    found = {f"hostile-{k}": file.data for k, file in enumerate([*readable().values(), *refused().values()])}
    found |= {path.stem: path.read_bytes() for path in sorted(archive.rglob("*.png"))}
    rng = np.random.default_rng(8)
    for k in range(200 - len(found)):
        pixels = rng.integers(0, 256, (20 + k, 30 + 2 * k, 3), np.uint8)
        kind = (".png", ".jpg", ".bmp", ".webp", ".tif")[k % 5]
        found[f"drawn-{k}"] = cv2.imencode(kind, pixels)[1].tobytes()
    return found


@pytest.mark.usefixtures("cluster")
def test_answers_are_the_rows_of_the_archive(command: Command, archive: Path, detector: Path, tmp_path: Path) -> None:
    files = images(archive)
    assert len(files) >= 200
    (tmp_path / "archive").mkdir()
    for name, data in files.items():
        (tmp_path / "archive" / f"{name}.png").write_bytes(data)
    table = tmp_path / "table"
    score(tmp_path / "archive", detector=detector, table=table, masks="all", actors=1)
    regions: dict[int, list[dict[str, Any]]] = {}
    columns = "x, y, width, height, area, peak, mean, centroid_x, centroid_y, mask_runs"
    for row in query(table, f"SELECT image_id, {columns} FROM regions ORDER BY image_id, region").to_pylist():
        regions.setdefault(row.pop("image_id"), []).append(row)
    rows = query(table, "SELECT * FROM scores").to_pylist()
    assert len(rows) == len(files)
    accept = {"headers": {"Accept": "multipart/form-data"}, "params": {"parts": "mask"}}
    with ThreadPoolExecutor(32) as pool:  # so many that batches of several images form
        answers = list(pool.map(lambda row: command.score(files[Path(row["image_uri"]).stem], **accept), rows))
    for row, answer in zip(rows, answers, strict=True):
        parts = {} if answer.status_code != 200 else parts_of(answer.headers["content-type"], answer.content)
        found = json.loads(parts.get("answer", answer.content))
        if row["status"] != "ok":
            assert (found["status"], found["error"]) == (row["status"], row["error"])
            continue
        assert found["score"] == row["score"]
        assert found["tail_probability"] == row["tail_probability"]
        assert found["is_anomalous"] == row["is_anomalous"]
        assert np.float32(found["threshold"]) == np.float32(row["threshold"])
        for region in found["regions"]:
            region |= {name: float(np.float32(region[name])) for name in ("peak", "mean", "centroid_x", "centroid_y")}
        assert found["regions"] == regions.get(row["image_id"], [])
        assert parts["mask"] == Path(row["mask_uri"]).read_bytes()
        assert decode_image(parts["mask"]).pixels.shape[:2] == (row["height"], row["width"])


def test_tokens_metrics_and_lines(command: Command) -> None:
    assert command.score(PNG, headers={"Authorization": "Bearer wrong-wrong-wrong"}).status_code == 401
    for _ in range(8):
        assert command.score(PNG).status_code == 200
    text = command.client.get("/metrics").text
    names = {line.split('replica="')[1].split('"')[0] for line in text.splitlines() if 'replica="' in line}
    assert len(names) == 2, "the metrics of both replicas are there, whichever answers"
    lines = command.log.read_text()
    assert "wrong-wrong" not in lines
    assert TOKEN not in lines
    assert {json.loads(line)["client"] for line in lines.splitlines() if '"status": 200' in line} == {"tests"}


def test_an_image_of_more_than_four_megabytes(command: Command) -> None:
    """Beyond the limit of what Ray Serve passes between deployments."""
    answer = command.score(PNG + bytes(12_000_000))
    assert (answer.status_code, answer.json().get("error")) == (200, None)
    asked = {"inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "data": [base64.b64encode(PNG).decode()]}]}
    assert command.client.post("/v2/models/weave/infer", json=asked).status_code == 200


def taken(command: Command) -> float:
    lines = command.client.get("/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("diffad_ray_serve_places_taken"))


def test_a_client_that_goes_away_frees_its_place(command: Command) -> None:
    line = "POST /detectors/weave/score HTTP/1.1\r\nHost: a\r\n"
    head = f"{line}Authorization: Bearer {TOKEN}\r\nContent-Length: 99\r\n\r\n"
    sockets = [socket.create_connection(("127.0.0.1", command.port)) for _ in range(6)]
    for one in sockets:
        one.sendall(head.encode() + b"half")
    deadline = time.monotonic() + 8
    while taken(command) < 6 and time.monotonic() < deadline:
        time.sleep(0.05)
    for one in sockets:
        one.close()
    deadline = time.monotonic() + 8
    while taken(command) > 0 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert taken(command) == 0


def test_a_replica_that_is_killed_costs_its_own_requests(command: Command) -> None:
    codes: list[int] = []
    ended = threading.Event()

    def ask() -> None:
        with httpx2.Client(base_url=command.client.base_url, headers=command.client.headers, timeout=60) as client:
            while not ended.is_set():
                try:
                    codes.append(client.post("/detectors/weave/score", content=PNG).status_code)
                except httpx2.TransportError:
                    codes.append(0)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(1)
    victim = min(command.replicas())
    os.kill(victim, signal.SIGKILL)
    time.sleep(2)
    before = len(codes)
    time.sleep(1)
    ended.set()
    for thread in threads:
        thread.join()
    assert len(codes) > before, "the other replica goes on"
    failed = [code for code in codes if code != 200]
    assert all(code >= 500 for code in failed)
    assert len(failed) <= 4
    deadline = time.monotonic() + 60
    while len(command.replicas()) < 2 and time.monotonic() < deadline:
        time.sleep(0.2)
    assert len(command.replicas()) == 2


def test_headers_that_never_end(command: Command) -> None:
    with socket.create_connection(("127.0.0.1", command.port), timeout=HEADER_SECONDS + 10) as one:
        one.sendall(b"POST /detectors/weave/score HTTP/1.1\r\nHost: a\r\n")
        answer = one.recv(1000)
    assert not answer or b" 408 " in answer


def test_sigterm_of_a_second_server_while_none_of_its_replicas_is_alive(
    command: Command, detector: Path, tmp_path: Path
) -> None:
    second = Command(detector, tmp_path)
    assert second.score(PNG).status_code == 200
    second.client.close()
    alive = second.replicas()
    assert len(alive) == 2
    for replica in alive:
        os.kill(replica, signal.SIGKILL)
    second.process.send_signal(signal.SIGTERM)
    assert second.process.wait(90) == 0, second.errors.read_text()
    assert "Traceback" not in second.errors.read_text()
    assert command.score(PNG).status_code == 200


def test_sigterm_answers_what_was_accepted(command: Command) -> None:
    codes: list[int] = []

    def ask() -> None:
        try:
            with httpx2.Client(base_url=command.client.base_url, headers=command.client.headers, timeout=60) as client:
                for _ in range(40):
                    codes.append(client.post("/detectors/weave/score", content=PNG).status_code)
                    if codes[-1] != 200:
                        return
        except httpx2.ConnectError:
            return

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    command.process.send_signal(signal.SIGTERM)
    for thread in threads:
        thread.join()
    assert command.process.wait(90) == 0
    assert codes.count(200) >= 4
    assert set(codes) <= {200, 503}, "a request is answered or told to come back"
