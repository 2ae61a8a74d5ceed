"""Ray nodes with addresses of their own on this machine: each in a network namespace, all on one bridge.

Needs root and `ip` (Debian's iproute2). Whatever was started in a namespace is found again by the namespace, so a node
can be killed as a whole, and nothing is left behind.
"""

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
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

import boto3
import cv2
import numpy as np

from diffad_ray.demo.surfaces import normal

PORT = 6379
OBJECT_STORE = 100_000_000
PICTURES, SIDE = 20, 64
PATIENT = {"RAY_DASHBOARD_STARTUP_TIMEOUT_S": "240", "RAY_worker_niceness": "0"}
"For a busy machine."
TRIES = 8
"Of `ray start`, which gives up after 30 seconds, and a busy machine may need more."


def missing() -> str:
    """What this machine lacks for namespaces; nothing if it can make one."""
    if shutil.which("ip") is None:
        return "there is no `ip` on this machine (Debian's iproute2)"
    name = f"diffad-try-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if made.returncode:
        return f"no network namespace can be made here: {made.stderr.strip()}"
    _ip("netns", "del", name)
    return ""


def wait_until(is_so: Callable[[], bool], what: str, seconds: float = 300.0) -> None:
    """Return once something is so.

    Raises:
        TimeoutError: it is not so after so many seconds.
    """
    deadline = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not happen in {seconds:.0f} s")
        time.sleep(0.1)


def _ip(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True).stdout


class Nodes:
    """A bridge with Ray nodes; a context manager that removes all of them at its end.

    Args:
        environment: of all nodes; each may have its own on top.

    Attributes:
        bridge: the address of this machine on the bridge, which all nodes reach.
        folder: of the nodes' files and logs; short, as sockets lie in it.
    """

    def __init__(self, environment: dict[str, str]):
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)}
        self.environment = {**environment, **token, "RAY_USAGE_STATS_ENABLED": "0", **PATIENT}
        self.folder = Path(tempfile.mkdtemp(prefix="dr-", dir="/tmp"))
        self.addresses: dict[str, str] = {}
        self._links: dict[str, str] = {}
        self._starts: dict[str, tuple[list[str], dict[str, str], int]] = {}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._number = _make_bridge()
        self.bridge = f"10.77.{self._number}.254"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if error is not None:
                for log in sorted(self.folder.glob("*.log")):
                    print(f"--- {log.name}\n{log.read_text(errors='replace')[-2000:]}", file=sys.stderr)
            for name in list(self.addresses):
                self.remove(name)
        finally:
            _ip("link", "del", f"diffad{self._number}")
            shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def address(self) -> str:
        """Of the cluster."""
        return f"{self.addresses['head']}:{PORT}"

    def add(self, name: str, cpus: int = 1, environment: dict[str, str | None] | None = None) -> None:
        """Begin to start a node, the first one called `head`; `wait` returns once it is up.

        Args:
            environment: on top of that of all nodes; None takes a variable out.
        """
        if name not in self.addresses:
            self._make_namespace(name)
        changed = {**self.environment, **(environment or {})}
        command = [str(Path(sys.executable).with_name("ray")), "start", "--block", f"--num-cpus={cpus}"]
        command += [f"--node-ip-address={self.addresses[name]}", f"--temp-dir={self.folder}/{name}"]
        command += [f"--object-store-memory={OBJECT_STORE}", "--num-gpus=0"]
        if name == "head":
            command += ["--head", f"--port={PORT}", "--include-dashboard=false"]
        else:
            command += [f"--address={self.address}"]
        self._start(name, command, {key: value for key, value in changed.items() if value is not None}, TRIES)

    def _start(self, name: str, command: list[str], environment: dict[str, str], tries: int) -> None:
        self._starts[name] = command, environment, tries
        self._processes[name] = self.run(name, command, self.folder / f"{name}.log", environment)

    def wait(self, *names: str, seconds: float = 300.0) -> None:
        """Return once nodes are up; one that Ray gave up to start is started again."""

        def all_are_up() -> bool:
            return all(self._is_up(name) for name in names)

        wait_until(all_are_up, f"the start of {', '.join(names)}", seconds)

    def _is_up(self, name: str) -> bool:
        if self._processes[name].poll() is not None:
            command, environment, tries = self._starts[name]
            if tries <= 1:
                raise RuntimeError(f"{name} does not start: {(self.folder / f'{name}.log').read_text()[-2000:]}")
            self.kill(name)
            self._start(name, command, environment, tries - 1)
        return "Ray runtime started" in (self.folder / f"{name}.log").read_text()

    def run(
        self, name: str, command: list[str], log: Path, environment: dict[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a command on a node, its output in a file."""
        with log.open("wb") as output:
            return subprocess.Popen(
                ["ip", "netns", "exec", self.namespace(name), *command],
                env=environment or {**self.environment, "RAY_ADDRESS": self.address},
                stdout=output,
                stderr=output,
                # Ray gives workers the code of the folder in which a job starts.
                cwd=self.folder,
            )

    def kill(self, name: str) -> None:
        """Kill all processes of a node at once, as a lost machine does."""
        while pids := _ip("netns", "pids", self.namespace(name)).split():
            for pid in pids:
                try:
                    os.kill(int(pid), signal.SIGKILL)
                except ProcessLookupError:
                    continue  # it ended with another one
            time.sleep(0.05)
        if process := self._processes.pop(name, None):
            process.wait()

    def remove(self, name: str) -> None:
        """Kill a node and take its address away."""
        self.kill(name)
        # The namespace would take it along, but later, when the next run may want its name.
        _ip("link", "del", self._links[name])
        _ip("netns", "del", self.namespace(name))
        del self.addresses[name]

    def namespace(self, name: str) -> str:
        """The namespace of a node."""
        return f"diffad{self._number}-{name}"

    def _make_namespace(self, name: str) -> None:
        """A namespace with a veth pair to the bridge. Its default route lets Ray find its own address; what clouds tell
        machines at 169.254.169.254 is out of reach."""
        used = {int(address.rpartition(".")[2]) for address in self.addresses.values()}
        host = next(number for number in range(1, 254) if number not in used)
        namespace, ends = self.namespace(name), (f"dr{self._number}n{host}a", f"dr{self._number}n{host}b")
        _ip("netns", "add", namespace)
        self.addresses[name], self._links[name] = f"10.77.{self._number}.{host}", ends[0]
        _ip("link", "add", ends[0], "type", "veth", "peer", "name", ends[1])
        _ip("link", "set", ends[1], "netns", namespace)
        _ip("link", "set", ends[0], "master", f"diffad{self._number}", "up")
        for arguments in (
            ("link", "set", "lo", "up"),
            ("addr", "add", f"{self.addresses[name]}/24", "dev", ends[1]),
            ("link", "set", ends[1], "up"),
            ("route", "add", "default", "via", self.bridge),
            ("route", "add", "unreachable", "169.254.0.0/16"),
        ):
            _ip("-n", namespace, *arguments)


def _make_bridge() -> int:
    """Make a bridge under the first free number; two test runs at the same time get different ones."""
    for number in range(255):
        made = subprocess.run(["ip", "link", "add", f"diffad{number}", "type", "bridge"], capture_output=True)
        if made.returncode == 0:
            _ip("addr", "add", f"10.77.{number}.254/24", "dev", f"diffad{number}")
            _ip("link", "set", f"diffad{number}", "up")
            return number
    raise RuntimeError("no bridge can be made")


def start_store(address: str, log: Path) -> tuple[subprocess.Popen[bytes], str]:
    """An S3 server of moto at an address, and its URL."""
    with socket.socket() as free:
        free.bind((address, 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).with_name("moto_server")), "-H", address, "-p", str(port)]
    with log.open("wb") as output:
        server = subprocess.Popen(command, stdout=output, stderr=output)

    def answers() -> bool:
        try:
            socket.create_connection((address, port), 1).close()
        except OSError:
            return False
        return True

    wait_until(answers, "the start of the S3 server")
    return server, f"http://{address}:{port}"


def fill_bucket(url: str, images: int) -> None:
    """Make the bucket `plant` with some pictures of weave under many names, `archive/0000.png` and so on."""
    client = boto3.client("s3", endpoint_url=url)
    client.create_bucket(Bucket="plant")
    rng = np.random.default_rng(0)
    files = [cv2.imencode(".png", normal("weave", rng, SIDE).image)[1].tobytes() for _ in range(PICTURES)]

    def put(k: int) -> None:
        client.put_object(Bucket="plant", Key=f"archive/{k:04d}.png", Body=files[k % PICTURES])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(put, range(images)))
