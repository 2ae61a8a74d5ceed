"""A real HTTP proxy on loopback that stands before an S3 server and spoils a share of its answers."""

from __future__ import annotations

import random
import socket
import struct
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

FAULTS = ("slow_down", "reset", "slow", "truncated")
SLOW_DOWN = b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Please reduce your rate</Message></Error>"


class FaultyProxy:
    """Passes requests on as they are, Host and signature included, and spoils the answers to a seeded share of them.

    Only answers to paths that begin with `only` are spoilt. `slow_down`: 503 instead of the request. `reset`: the
    server does the request, but its answer is lost with the connection. `slow`: the answer comes `slow` seconds late.
    `truncated`: half the body, or none where it is empty.

    Attributes:
        url: where clients find the proxy.
        faults: how often each fault was injected.
        served: how often each path was read and answered in full.
        readers: how often each path was read in full, by the address of the client.
        requests: how many requests came.
        most_at_once: how many were under way at the same time.
    """

    def __init__(
        self,
        upstream: str,
        share: float = 0.2,
        seed: int = 0,
        slow: float = 0.2,
        kinds: Sequence[str] = FAULTS,
        only: str = "",
        host: str = "127.0.0.1",
    ):
        self.upstream = urlsplit(upstream).netloc
        self.share, self.slow, self.kinds, self.only = share, slow, kinds, only
        self.faults: Counter[str] = Counter()
        self.served: Counter[str] = Counter()
        self.readers: dict[str, Counter[str]] = defaultdict(Counter)
        self.requests = self.at_once = self.most_at_once = 0
        self._random, self._lock = random.Random(seed), threading.Lock()
        self._server = _Server((host, 0), type("Handler", (_Handler,), {"proxy": self}))
        self.url = f"http://{host}:{self._server.server_port}"

    def __enter__(self) -> FaultyProxy:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @contextmanager
    def under_way(self, path: str) -> Iterator[str | None]:
        """Count a request while its answer is made; the fault that it gets, if any.

        What is being sent counts no more: who has an answer may ask again before the sender knows that it has arrived.
        """
        with self._lock:
            self.requests += 1
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
            is_spoilt = path.startswith(self.only) and self._random.random() < self.share
            fault = self._random.choice(self.kinds) if is_spoilt else None
            self.faults.update([fault] if fault else [])
        try:
            yield fault
        finally:
            with self._lock:
                self.at_once -= 1


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, *_: object) -> None:
        """Clients that give up are expected here."""


class _Handler(BaseHTTPRequestHandler):
    proxy: FaultyProxy
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def _request_body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return body

    def _forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = HTTPConnection(self.proxy.upstream, timeout=60)
        hops = {"connection", "expect", "transfer-encoding", "content-length"}
        # The path as it came: http.server joins slashes at its start, and signatures cover every byte.
        connection.putrequest(self.command, self.requestline.split()[1], skip_host=True, skip_accept_encoding=True)
        for name, value in [(n, v) for n, v in self.headers.items() if n.lower() not in hops]:
            connection.putheader(name, value)
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        answer = connection.getresponse()
        content = answer.read()
        length = str(len(content))
        if self.command == "HEAD":
            length = answer.getheader("Content-Length", "0")
        headers = [(n, v) for n, v in answer.getheaders() if n.lower() not in hops]
        connection.close()
        return answer.status, [*headers, ("Content-Length", length)], content

    def _answer(self) -> None:
        body = self._request_body()
        path = urlsplit(self.path).path
        with self.proxy.under_way(path) as fault:
            if fault == "slow_down":
                answer = 503, [("Content-Length", str(len(SLOW_DOWN)))], b"" if self.command == "HEAD" else SLOW_DOWN
            else:
                answer = self._forward(body)
            if fault == "slow":
                time.sleep(self.proxy.slow)
        status, headers, content = answer
        if fault == "reset" or (fault == "truncated" and not content):
            # Closing with unsent data thrown away sends a reset, not an end.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            self.close_connection = True
            return
        if self.command == "GET" and status == 200 and fault != "truncated":
            self.proxy.served[path] += 1
            self.proxy.readers[self.client_address[0]][path] += 1
        self._send(status, headers, content[: len(content) // 2] if fault == "truncated" else content)
        self.close_connection |= fault == "truncated"

    def _send(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _answer

    def log_message(self, *_: Any) -> None:
        """Quiet."""
