"""HTTP connections whose headers must arrive in time; uvicorn, with which Ray Serve listens, would wait for ever."""

from __future__ import annotations

import asyncio
from typing import Any

import uvicorn.config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from diffad_ray.serving.proxy import HEADER_SECONDS, MOST_HEADER_BYTES

CALLBACK_VARIABLE = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
CALLBACK = "diffad_ray.serving.punctual:be_punctual"
"In the environment of a cluster, these let the proxies of Ray Serve call `be_punctual`."


class PunctualProtocol(HttpToolsProtocol):
    """Closes a connection whose headers are late or too large; there is no request yet that could be answered."""

    _deadline: asyncio.TimerHandle | None = None
    _header_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_headers()

    def data_received(self, data: bytes) -> None:
        if self._deadline is not None:
            self._header_bytes += len(data)
        super().data_received(data)
        # Whatever followed the headers in the same bytes is not counted: they are complete then.
        if self._deadline is not None and self._header_bytes > MOST_HEADER_BYTES:
            self.transport.close()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._expect_headers()

    def on_headers_complete(self) -> None:
        self._forget()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        super().connection_lost(exc)

    def _expect_headers(self) -> None:
        self._forget()
        self._header_bytes = 0
        self._deadline = asyncio.get_running_loop().call_later(HEADER_SECONDS, self.transport.close)

    def _forget(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


def be_punctual() -> list[Any]:
    """Let the HTTP server of this process take `PunctualProtocol`; it needs no middlewares."""
    uvicorn.config.HTTP_PROTOCOLS["auto"] = f"{PunctualProtocol.__module__}:{PunctualProtocol.__name__}"
    return []
