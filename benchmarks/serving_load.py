"""A server of its own process, and clients that load it; for benchmarks/serving.py."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

TICKS = os.sysconf("SC_CLK_TCK")
ROLES = {
    "proxy": ("ray::ProxyActor", "ray::HAProxyManager", "bin/haproxy"),
    "replica": ("ray::ServeReplica",),
    "decoder": ("isolated",),
}
"What marks the command lines of processes, by their role."


class Sent(NamedTuple):
    """A request: when it ended, how long it took, its HTTP status or 0 for no answer, and the bundle that answered."""

    ended: float
    seconds: float
    code: int
    fingerprint: str


class Server:
    """`diffad-ray serve` in a process of its own."""

    def __init__(self, detector: Path, folder: Path, replicas: int, *options: str):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.log = folder / "requests.log"
        command = [sys.executable, "-m", "diffad_ray.cli", "serve", f"part={detector}", "--port", str(self.port)]
        command += ["--log-file", str(self.log), "--replicas", str(replicas), *options]
        # In a session of its own, by which its processes are told from those of other servers.
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
        assert self.process.stdout
        if not any(line.startswith("ready at") for line in iter(self.process.stdout.readline, "")):
            raise RuntimeError("the server did not start")

    def workers(self) -> dict[str, list[int]]:
        """Processes by their role: those of the proxy, of the replicas, and of the replicas' decoders."""
        found: dict[str, list[int]] = {role: [] for role in ROLES}
        for folder in Path("/proc").iterdir():
            if not folder.name.isdecimal():
                continue
            try:
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                session = int((folder / "stat").read_text().rpartition(")")[2].split()[3])
            except (OSError, UnicodeDecodeError):
                continue  # it has ended
            for role, marks in ROLES.items():
                if session == self.process.pid and any(mark in command for mark in marks):
                    found[role].append(int(folder.name))
        return found

    def processor_seconds(self) -> dict[str, float]:
        """Processor time so far, by role."""
        return {role: sum(map(_processor_seconds, pids)) for role, pids in self.workers().items()}

    def resident_megabytes(self) -> dict[str, float]:
        """Resident memory by role, in MB."""
        return {role: sum(map(_resident_megabytes, pids)) for role, pids in self.workers().items()}

    def lines(self) -> list[dict[str, Any]]:
        """The log lines of all requests so far."""
        return [json.loads(line) for line in self.log.read_text().splitlines()] if self.log.exists() else []

    def close(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(180)


def _processor_seconds(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0  # it has ended
    return (int(fields[11]) + int(fields[12])) / TICKS


def _resident_megabytes(pid: int) -> float:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    except OSError:
        return 0.0  # it has ended


@contextmanager
def asking(port: int, files: list[bytes], clients: int, rate: float | None = None) -> Iterator[list[Sent]]:
    """Clients that ask until the block ends: each as soon as it has its last answer, or all together at a rate.

    A client of an open loop keeps its own timetable. One whose answer is late sends its next request at once, so that
    the rate holds as long as the clients do not all wait.
    """
    sent: list[Sent] = []
    ended = threading.Event()
    began = time.perf_counter()

    def ask(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        count = 0
        while not ended.is_set():
            if rate is not None:
                due = began + (count * clients + number) / rate
                if ended.wait(max(0.0, due - time.perf_counter())):
                    return
            start = time.perf_counter()
            code, fingerprint = _ask(connection, files[(number + count) % len(files)])
            now = time.perf_counter()
            sent.append(Sent(now, now - start, code, fingerprint))
            count += 1

    threads = [threading.Thread(target=ask, args=(number,), daemon=True) for number in range(clients)]
    for thread in threads:
        thread.start()
    yield sent
    ended.set()
    for thread in threads:
        thread.join(120)


def _ask(connection: http.client.HTTPConnection, data: bytes) -> tuple[int, str]:
    """Status and bundle of an answer; status 0 if there was none."""
    try:
        connection.request("POST", "/detectors/part/score", data)
        answer = connection.getresponse()
        answer.read()
    except (OSError, http.client.HTTPException):
        connection.close()
        return 0, ""
    return answer.status, answer.headers.get("x-detector", "")


def milliseconds(sent: list[Sent], share: float) -> float:
    """A percentile of the times of the requests with status 200; nan without any."""
    seconds = sorted(one.seconds for one in sent if one.code == 200)
    return 1000 * seconds[int(share * (len(seconds) - 1))] if seconds else float("nan")


def percentiles(sent: list[Sent]) -> str:
    """Median and upper percentiles of the answered requests, in milliseconds."""
    return " / ".join(f"{milliseconds(sent, share):.0f}" for share in (0.5, 0.9, 0.95, 0.99))
