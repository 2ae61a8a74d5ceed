"""A client of `diffad-ray serve`. It needs the package httpx2 alone: `pip install 'diffad-ray[client]'`."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx2

RETRIED = (429, 502, 503, 504)
"HTTP statuses after which the same request may succeed."
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 60.0
"Seconds between attempts where the server names none."


class ServerError(Exception):
    """The server gave no score.

    Attributes:
        code: HTTP status; 0 if there was no answer at all.
        status: the status that scoring gives such an image, such as `unreadable`; None: the image is not at fault.
    """

    def __init__(self, code: int, message: str, status: str | None = None):
        super().__init__(message)
        self.code, self.status = code, status


@dataclass(frozen=True)
class Score:
    """What a server says of an image.

    Attributes:
        decision: `good`, `review` or `reject`, as in the tables.
        score: log odds of an anomaly.
        regions: connected anomalous regions, in pixels of the original image, the highest peak first.
        answer: everything that the server says, see docs/serving.md.
    """

    decision: str
    score: float
    threshold: float
    tail_probability: float | None
    regions: list[dict[str, Any]]
    fingerprint: str
    answer: Mapping[str, Any]


class _Requests:
    """What both clients share: requests, pauses, and what answers mean."""

    def __init__(self, url: str, token: str | None, detector: str | None, attempts: int, timeout: float):
        if attempts < 1:
            raise ValueError(f"attempts must be 1 or more, not {attempts}")
        self.detector, self.attempts = detector, attempts
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self.options: dict[str, Any] = {"base_url": url, "headers": headers, "timeout": timeout}

    def request(self, image: str | Path | bytes | None, uri: str | None, record: bool) -> dict[str, Any]:
        """Return the arguments of a request."""
        if (image is None) == (uri is None):
            raise ValueError("give an image or a URI")
        params = {"record": "1"} if record else {}
        if uri is not None:
            return {"json": {"uri": uri}, "params": params}
        data = image if isinstance(image, bytes) else Path(image or "").read_bytes()
        return {"content": data, "params": params, "headers": {"Content-Type": "application/octet-stream"}}

    def path(self, detector: str | None) -> str:
        name = detector or self.detector
        if name is None:
            raise ValueError("name the detector, here or when the client is made")
        return f"/detectors/{name}/score"

    def pause(self, attempt: int, answer: httpx2.Response | None) -> float:
        """Seconds before the next attempt: what the server names, else twice as many each time, at random."""
        named = answer.headers.get("retry-after", "") if answer is not None else ""
        if named.isdecimal():
            return min(float(named), LONGEST_PAUSE) * random.uniform(1.0, 1.2)
        return min(FIRST_PAUSE * 2**attempt, LONGEST_PAUSE) * random.uniform(0.5, 1.0)

    def is_last(self, attempt: int, answer: httpx2.Response | None) -> bool:
        return attempt + 1 == self.attempts or (answer is not None and answer.status_code not in RETRIED)


def _read(answer: httpx2.Response | None, problem: str) -> Score:
    """Return the score and the decision in an answer.

    Raises:
        ServerError: there is none.
    """
    if answer is None:
        raise ServerError(0, f"the server gave no answer: {problem}")
    try:
        found = answer.json()
    except json.JSONDecodeError:
        found = {"error": answer.text[:200]}
    if answer.status_code != 200:
        raise ServerError(answer.status_code, str(found.get("error", "")), found.get("status"))
    names = ("decision", "score", "threshold", "tail_probability", "regions", "fingerprint")
    return Score(**{name: found[name] for name in names}, answer=found)


class Client:
    """Asks a server for scores and decisions; a context manager, for any number of threads.

    Requests that the server refuses for lack of room, and those that get no answer, are repeated after the time that it
    names. To repeat one is safe: a score changes nothing, and a recorded image has one row.

    Args:
        url: such as `http://127.0.0.1:8000`.
        token: of the server's file of tokens.
        detector: name of the detector, where calls name none.
        attempts: of a request.
        timeout: seconds for each step of a request.

    Example:
        >>> with Client("http://127.0.0.1:8000", detector="part") as client:  # doctest: +SKIP
        ...     print(client.score("image.png").decision)
        good
    """

    def __init__(
        self, url: str, token: str | None = None, detector: str | None = None, attempts: int = 5, timeout: float = 90.0
    ):
        self._requests = _Requests(url, token, detector, attempts, timeout)
        self._http = httpx2.Client(**self._requests.options)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def score(
        self,
        image: str | Path | bytes | None = None,
        *,
        uri: str | None = None,
        detector: str | None = None,
        record: bool = False,
    ) -> Score:
        """Return the score of an image and the decision on it.

        Args:
            image: path of a file, or its bytes.
            uri: location that the server reads itself, instead.
            record: append the row to the server's table.

        Raises:
            ServerError: there is none.
        """
        path, request = self._requests.path(detector), self._requests.request(image, uri, record)
        for attempt in range(self._requests.attempts):
            answer, problem = None, ""
            try:
                answer = self._http.post(path, **request)
            except httpx2.TransportError as error:
                problem = f"{type(error).__name__} {error}"
            if self._requests.is_last(attempt, answer):
                break
            time.sleep(self._requests.pause(attempt, answer))
        return _read(answer, problem)


class AsyncClient:
    """`Client` for asyncio."""

    def __init__(
        self, url: str, token: str | None = None, detector: str | None = None, attempts: int = 5, timeout: float = 90.0
    ):
        self._requests = _Requests(url, token, detector, attempts, timeout)
        self._http = httpx2.AsyncClient(**self._requests.options)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.aclose()

    async def score(
        self,
        image: str | Path | bytes | None = None,
        *,
        uri: str | None = None,
        detector: str | None = None,
        record: bool = False,
    ) -> Score:
        """Return the score of an image and the decision on it; see `Client.score`."""
        path, request = self._requests.path(detector), self._requests.request(image, uri, record)
        for attempt in range(self._requests.attempts):
            answer, problem = None, ""
            try:
                answer = await self._http.post(path, **request)
            except httpx2.TransportError as error:
                problem = f"{type(error).__name__} {error}"
            if self._requests.is_last(attempt, answer):
                break
            await asyncio.sleep(self._requests.pause(attempt, answer))
        return _read(answer, problem)
