"""The image of a request: limits first, then the bytes of its body, one part of a multipart body, or a URI."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import NamedTuple

from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from diffad_ray.serving.admission import Place
from diffad_ray.serving.places import allowed, fetched
from diffad_ray.serving.refusals import Refused
from diffad_ray.serving.settings import ServingSettings
from diffad_ray.storage import FileInfo

LARGEST_JSON = 64 * 1024
"Bytes of a body that names an image by URI."
MULTIPART_ROOM = 64 * 1024
"Bytes of a multipart body beside its image."
CLIENT_GONE = 499
"What the log says of a request whose client did not wait for the answer."


class GivenImage(NamedTuple):
    """An image of a request; `info` is what its store says of it, where it was named by URI."""

    data: bytes
    info: FileInfo | None = None


async def read_body(request: Request, place: Place, settings: ServingSettings, most: int) -> bytes:
    """Return the body of a request, in the time and of the size that are allowed.

    Raises:
        Refused: 413 for a larger body, told by its header or as it arrives; 408 for a slower one; 415 for a compressed
            one, whose size nobody knows; 503 if all bodies together are too large.
    """
    if request.headers.get("content-encoding", "identity").lower() not in ("", "identity"):
        raise Refused(415, "bodies are taken as they are, without Content-Encoding")
    too_large = Refused(413, f"the body has more than {most} bytes", "too_large")
    announced = request.headers.get("content-length", "0")
    if not announced.isdecimal() or int(announced) > most:
        raise too_large
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(settings.body_seconds):
            async for part in request.stream():
                size += len(part)
                if size > most:
                    raise too_large
                place.hold(len(part))
                parts.append(part)
    except TimeoutError:
        raise Refused(408, f"the body did not arrive within {settings.body_seconds:g} s") from None
    except ClientDisconnect:
        raise Refused(CLIENT_GONE, "the client has gone") from None
    return b"".join(parts)


async def given_image(
    request: Request, place: Place, settings: ServingSettings, prefixes: tuple[str, ...]
) -> GivenImage:
    """Return the image that a request holds or names.

    A body of `multipart/form-data` holds it as its only file, one of `application/json` is `{"uri": "s3://..."}`, and
    every other body is the file itself, whatever type the client says.

    Raises:
        Refused: see `read_body`; 400 for a body that is not of its form; 403 and 404 for URIs, see `places`.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        location = allowed(_uri(await read_body(request, place, settings, LARGEST_JSON)), prefixes)
        data, info = await asyncio.to_thread(fetched, location, settings.max_bytes)
        place.hold(len(data))
        return GivenImage(data, info)
    if kind == "multipart/form-data":
        body = await read_body(request, place, settings, settings.max_bytes + MULTIPART_ROOM)
        return GivenImage(await _only_file(request, body))
    return GivenImage(await read_body(request, place, settings, settings.max_bytes))


def _uri(body: bytes) -> str:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        value = None
    uri = value.get("uri") if isinstance(value, dict) else None
    if not isinstance(uri, str) or set(value) != {"uri"}:
        raise Refused(400, 'a JSON body must be {"uri": "..."}')
    return uri


async def _only_file(request: Request, body: bytes) -> bytes:
    """Return the only file of a multipart body."""

    async def stream() -> AsyncIterator[bytes]:
        yield body

    parser = MultiPartParser(request.headers, stream(), max_files=1, max_fields=0)  # type: ignore[arg-type]
    parser.spool_max_size = len(body) + 1  # in memory, as the body is
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, ValueError) as error:
        message = str(error) if isinstance(error, MultiPartException) else "the parts can't be told apart"
        raise Refused(400, f"the multipart body can't be read: {message}") from error
    files = [value for _, value in form.multi_items() if not isinstance(value, str)]
    if len(files) != 1:
        raise Refused(400, "a multipart body must hold one file, as in `curl --form image=@part.png`")
    return await files[0].read()
