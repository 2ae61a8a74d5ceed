"""A replica behind a real HTTP server on loopback, in a thread of the test's process, without Ray."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email.parser import BytesParser
from pathlib import Path
from typing import Any

import httpx2
import uvicorn

from diffad_ray.serving.http import http_app
from diffad_ray.serving.punctual import PunctualProtocol
from diffad_ray.serving.service import Service
from diffad_ray.serving.settings import ServedDetector, ServingSettings


class Served:
    """A running server: its client, its service, and the loop in which the service lives."""

    def __init__(self, url: str, service: Service, loop: asyncio.AbstractEventLoop):
        self.url, self.service, self.loop = url, service, loop
        self.client = httpx2.Client(base_url=url, timeout=60)

    def in_loop(self, coroutine: Any) -> Any:
        """The result of a coroutine of the service."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(60)

    def score(self, data: bytes, name: str = "weave", **options: Any) -> httpx2.Response:
        """Post the bytes of an image."""
        return self.client.post(f"/detectors/{name}/score", content=data, **options)


@contextmanager
def served(detectors: dict[str, Path | ServedDetector], **settings: Any) -> Iterator[Served]:
    """Serve detectors for the length of a block."""
    places = {
        name: place if isinstance(place, ServedDetector) else ServedDetector(location=str(place))
        for name, place in detectors.items()
    }
    wanted = ServingSettings(detectors=places, **{"loopback_only": True, "threads": 1, "decoders": 1, **settings})
    ready: dict[str, Any] = {}
    begun = threading.Event()

    async def run() -> None:
        service = Service(wanted)
        server = uvicorn.Server(uvicorn.Config(http_app(service), port=0, log_level="error", http=PunctualProtocol))
        task = asyncio.create_task(server.serve())
        while not server.started and not task.done():
            await asyncio.sleep(0.005)
        port = server.servers[0].sockets[0].getsockname()[1]
        ready.update(url=f"http://127.0.0.1:{port}", service=service, loop=asyncio.get_running_loop(), server=server)
        begun.set()
        await task

    def target() -> None:
        try:
            asyncio.run(run())
        except BaseException as error:
            ready["error"] = error
            begun.set()
            raise

    thread = threading.Thread(target=target, name="server", daemon=True)
    thread.start()
    assert begun.wait(120)
    if "error" in ready:
        raise ready["error"]
    found = Served(ready["url"], ready["service"], ready["loop"])
    try:
        yield found
    finally:
        found.client.close()
        ready["server"].should_exit = True
        thread.join(30)


def parts_of(content_type: str, body: bytes) -> dict[str, bytes]:
    """The parts of a multipart body by their names, as the standard library reads them."""
    message = BytesParser().parsebytes(b"Content-Type: " + content_type.encode() + b"\r\n\r\n" + body)
    return {
        str(part.get_param("name", header="content-disposition")): part.get_payload(decode=True)  # type: ignore[union-attr, misc]
        for part in message.get_payload()
    }
