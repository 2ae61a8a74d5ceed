"""`serve deploy` on a running cluster, with the configuration that the RayService of cluster/kuberay holds."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml
from hostile import PNG

from diffad_ray.serving.punctual import CALLBACK, CALLBACK_VARIABLE

pytestmark = pytest.mark.long
MANIFEST = Path(__file__).parents[1] / "cluster" / "kuberay" / "serve.yaml"
TOKEN = "a-token-of-the-tests"
PROGRAMS = Path(sys.executable).parent


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


class Cluster:
    """A head that `ray start` has started, with a token, as on machines of one's own."""

    def __init__(self) -> None:
        gcs, self.dashboard, agent, self.http = free_ports(4)
        # Short, because sockets lie in it.
        self.folder = Path(tempfile.mkdtemp(prefix="dr-", dir="/tmp"))
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)}
        quiet = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DASHBOARD_STARTUP_TIMEOUT_S": "240"}
        self.environment = {**kept, **token, **quiet, CALLBACK_VARIABLE: CALLBACK}
        command = [str(PROGRAMS / "ray"), "start", "--head", "--block", "--num-cpus=4", "--num-gpus=0"]
        command += [f"--port={gcs}", f"--dashboard-port={self.dashboard}", f"--dashboard-agent-listen-port={agent}"]
        command += [f"--temp-dir={self.folder}/ray", "--node-ip-address=127.0.0.1", "--object-store-memory=100000000"]
        with (self.folder / "log").open("wb") as log:
            self.head = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log, start_new_session=True)

    def serve(self, *arguments: str) -> str:
        """What `serve` says to a command."""
        command = [str(PROGRAMS / "serve"), *arguments, "--address", f"http://127.0.0.1:{self.dashboard}"]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr + (self.folder / "log").read_text()
        return done.stdout

    def close(self) -> None:
        self.head.send_signal(signal.SIGTERM)
        try:
            # Ray ends its workers one after the other; a busy machine takes a minute.
            self.head.wait(180)
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    running = Cluster()
    try:
        until(lambda: "runtime started" in (running.folder / "log").read_text(), 120)
        yield running
    finally:
        running.close()


def until(condition: Any, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.2)


def configuration(detector: Path, folder: Path, port: int) -> dict[str, Any]:
    """That of the manifest, with the places of this machine."""
    found: dict[str, Any] = yaml.safe_load(yaml.safe_load(MANIFEST.read_text())["spec"]["serveConfigV2"])
    (folder / "tokens").write_text(f"tests score,admin {TOKEN}\n")
    found["http_options"] |= {"host": "127.0.0.1", "port": port}
    arguments = found["applications"][0]["args"]
    del arguments["thresholds"]
    arguments |= {"detectors": {"part": {"location": str(detector)}}, "prefixes": [str(folder)]}
    arguments |= {"tokens_file": str(folder / "tokens"), "replicas": 2, "threads": 1}
    return found


def test_what_the_manifest_deploys_answers(cluster: Cluster, detector: Path, tmp_path: Path) -> None:
    config = configuration(detector, tmp_path, cluster.http)
    (tmp_path / "serve.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "part.png").write_bytes(PNG)
    cluster.serve("deploy", str(tmp_path / "serve.yaml"))
    status: dict[str, Any] = {}

    def is_running() -> bool:
        status.update(yaml.safe_load(cluster.serve("status"))["applications"]["diffad-ray"])
        assert "FAILED" not in status["status"], status
        return status["status"] == "RUNNING"

    until(is_running, 180)
    headers = {"Authorization": f"Bearer {TOKEN}"}
    with httpx2.Client(base_url=f"http://127.0.0.1:{cluster.http}", headers=headers, timeout=60) as client:
        assert client.get("/v2/health/ready").status_code == 200
        by_body = client.post("/detectors/part/score", content=PNG).json()
        by_uri = client.post("/detectors/part/score", json={"uri": str(tmp_path / "part.png")}).json()
        assert by_body.pop("request_id") != by_uri.pop("request_id")
        assert by_body == by_uri
        assert client.post("/detectors/part/score", content=PNG, headers={"Authorization": ""}).status_code == 401
        text = client.get("/metrics").text
        assert len({line.split('replica="')[1].split('"')[0] for line in text.splitlines() if 'replica="' in line}) == 2
        # A setting that is wrong is told by the command's status, and what runs goes on.
        config["applications"][0]["args"]["place"] = 3
        (tmp_path / "wrong.yaml").write_text(yaml.safe_dump(config))
        cluster.serve("deploy", str(tmp_path / "wrong.yaml"))
        until(lambda: "has no setting 'place'" in cluster.serve("status"), 60)
        assert client.post("/detectors/part/score", content=PNG).status_code == 200
