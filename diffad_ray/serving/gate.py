"""What every request passes first and last: limits of headers, checks of its origin, its id, its log line."""

from __future__ import annotations

import json
import re
import secrets
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from diffad_ray.serving.observation import Record
from diffad_ray.serving.requests import CLIENT_GONE
from diffad_ray.serving.service import Service

MOST_HEADER_BYTES = 16 * 1024
LOOPBACK = ("127.0.0.1", "localhost", "::1")
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
KEY = "diffad_record"
QUIET = ("/v2/health/live", "/v2/health/ready")
"Paths that are asked every few seconds; they are not logged unless they fail."


def record_of(request: Request) -> Record:
    """Return what is noted of a request."""
    record: Record = request.scope[KEY]
    return record


class Gate:
    """Wraps the application of a service."""

    def __init__(self, app: ASGIApp, service: Service):
        self.app, self.service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        given = headers.get("x-request-id", "")
        request_id = given if REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
        record = scope[KEY] = Record(request_id, scope["method"], scope["path"], status=CLIENT_GONE)

        async def noting(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                extra = {"X-Request-ID": request_id, "X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}
                pairs = [(name.lower().encode(), value.encode()) for name, value in extra.items()]
                message = {**message, "headers": [*message.get("headers", ()), *pairs]}
            await send(message)

        try:
            code, problem = self._problem(scope, headers)
            if problem:
                await _refuse(code, problem, request_id, noting)
            else:
                await self.app(scope, receive, noting)
        except Exception:
            # Its handler has logged it and answered with 500; the server would close the connection because of it.
            if record.status == CLIENT_GONE:
                raise
        finally:
            if scope["path"] not in QUIET or record.status != 200:
                self.service.metrics.count(record)

    def _problem(self, scope: Scope, headers: dict[str, str]) -> tuple[int, str]:
        """HTTP status and reason of a refusal; no reason, if all is well."""
        size = sum(len(name) + len(value) for name, value in scope["headers"]) + len(scope["query_string"])
        if size > MOST_HEADER_BYTES:
            return 431, f"the headers have more than {MOST_HEADER_BYTES} bytes"
        if self.service.clients:
            return 0, ""
        # Without tokens, a page from elsewhere that the user's browser shows must not reach this port: neither by a
        # name that its owner leads to 127.0.0.1, nor by a form that is sent here.
        host = headers.get("host", "")
        if urlsplit(f"//{host}").hostname not in LOOPBACK:
            return 403, "without tokens, requests must name 127.0.0.1 or localhost as their host"
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != host:
            return 403, "without tokens, pages of other origins may send no requests"
        return 0, ""


async def _refuse(code: int, problem: str, request_id: str, send: Send) -> None:
    body = json.dumps({"error": problem, "status": None, "request_id": request_id}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": code, "headers": headers})
    await send({"type": "http.response.body", "body": body})
