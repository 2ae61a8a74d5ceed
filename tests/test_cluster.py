"""RAY_ADDRESS and TMPDIR as users have them: a cluster that is not there is named at once, and long paths work."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import ray
from ray.data.exceptions import ExecutionTimeoutError
from ray.exceptions import ActorDiedError, AuthenticationError, OutOfMemoryError, RayTaskError, WorkerCrashedError

from diffad_ray import UserError, cluster, score
from diffad_ray.cluster import check_address, why_ended


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process of its own, whatever other tests have started in this one."""
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(cluster, "PATIENCE", 0.5)


@pytest.fixture
def web_server() -> Iterator[int]:
    """The port of what answers, but is no Ray cluster."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Quiet", (BaseHTTPRequestHandler,), {"log_message": print}))
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield server.server_port
    server.shutdown()


@pytest.fixture
def mute() -> Iterator[int]:
    """The port of what takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("127.0.0.1:9", "nobody answers at 127.0.0.1:9, which RAY_ADDRESS names: unset it to run on this machine"),
        ("no-such-host.invalid:6379", "the name no-such-host.invalid is not known"),
        ("[::1]:9", "nobody answers"),
        ("ray://127.0.0.1:10001", "Ray Client"),
        ("http://127.0.0.1:8265", "`ray job submit` sends jobs"),
        ("127.0.0.1", "must be HOST:PORT, auto or local"),
        ("127.0.0.1:port", "must be HOST:PORT, auto or local"),
    ],
)
def test_an_address_where_no_cluster_is(
    address: str, says: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    start = time.monotonic()
    with pytest.raises(UserError) as caught:
        score(tmp_path, table=tmp_path / "table", detector=tmp_path / "detector")
    assert says in str(caught.value)
    assert "unset it to run on this machine" in str(caught.value)
    assert time.monotonic() - start < 10
    assert not (tmp_path / "table").exists()


def test_what_answers_and_is_no_cluster(web_server: int, mute: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for port, says in ((web_server, "something answers that is no Ray cluster"), (mute, "nobody answers within")):
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
        with pytest.raises(UserError, match=says):
            check_address()


def test_no_cluster_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cluster.services, "find_gcs_addresses", set)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    with pytest.raises(UserError, match="RAY_ADDRESS is auto, but no Ray cluster runs on this machine"):
        check_address()
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text("127.0.0.1:9")
    with pytest.raises(UserError, match=r"nobody answers at 127\.0\.0\.1:9"):
        check_address()
    for nothing in ("", "local"):
        monkeypatch.setenv("RAY_ADDRESS", nothing)
        assert check_address() is None


def test_what_ray_raises_is_said_in_one_line() -> None:
    mismatch = "Version mismatch: The cluster was started with:\n    Ray: 2.9.0\n    Python: 3.9.1\n"
    for error, says in (
        (RuntimeError(mismatch), "started with: Ray: 2.9.0 Python: 3.9.1. Install the cluster's versions"),
        (AuthenticationError("token"), "Set RAY_AUTH_MODE=token"),
        (ConnectionError("x" * 1000), "can't be joined: xxx"),
        (ConnectionError("Failed to connect to Ray cluster at 10.0.0.11:6379"), "a token: Set RAY_AUTH_MODE=token"),
    ):
        with pytest.raises(UserError) as caught, cluster._explained("the cluster can't be joined"):
            raise error
        assert says in str(caught.value)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 400


def test_why_a_run_ended_is_said_without_the_inside_of_ray() -> None:
    full = OSError(28, "No space left on device")
    assert why_ended(RayTaskError("commit", "Traceback ...", full)) == "OSError: [Errno 28] No space left on device"
    for error, says in (
        (OutOfMemoryError("raylet: 12 workers killed\nset RAY_memory_usage_threshold"), "take fewer --actors"),
        (ActorDiedError(), "worker processes died"),
        (RayTaskError("detect", "Traceback ...", WorkerCrashedError()), "worker processes died"),
        (ExecutionTimeoutError("internal"), "a worker must hang"),
    ):
        assert says in why_ended(error)


def test_a_long_temporary_folder(tmp_path: Path) -> None:
    """A cluster is started and another process joins it, both with a TMPDIR that is too long for sockets."""
    folder = tmp_path / ("jobdir_" * 16)
    folder.mkdir()
    script = """
import os, ray
from diffad_ray import cluster
cluster.connect()
os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
assert ray.get(ray.remote(lambda: 3).remote()) == 3
is_initialized, ray.is_initialized = ray.is_initialized, lambda: False
assert cluster.check_address() == os.environ["RAY_ADDRESS"]
"""
    environment = {**os.environ, "TMPDIR": str(folder)} | {"RAY_ADDRESS": ""}
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, env=environment)
    assert ended.returncode == 0, ended.stderr
