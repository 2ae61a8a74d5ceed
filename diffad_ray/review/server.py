"""The server of the review page: images by the ids of the table's rows, and verdicts that are acknowledged once stored.

Every request needs the token, except the one for the page itself, which holds no data. The token is in the part of the
page's address that browsers do not send, so that no log has it.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import uvicorn
from fastapi import Depends, FastAPI, Request
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from diffad_ray.errors import UserError
from diffad_ray.reports.review_page.page import review_page
from diffad_ray.reports.review_page.pictures import LONGEST, mean_jpeg, original_jpeg, outlines
from diffad_ray.review.entries import verdict_of
from diffad_ray.review.queue import ReviewImage
from diffad_ray.review.session import Review, mean_key
from diffad_ray.serving.punctual import PunctualProtocol
from diffad_ray.table.samples import sample_ids
from diffad_ray.table.verdicts import Verdict, add_verdicts

TOKEN_VARIABLE = "DIFFAD_RAY_REVIEW_TOKEN"
"A token that stays the same after a restart; without it, each start makes a new one."
SHORTEST_TOKEN = 16
MOST_BODY_BYTES = 16 * 1024
DECODERS = 4
"Images that are decoded at the same time; each may need several times its pixels in memory."
MOST_MEANS = 64
BLOCK, MOST_BLOCKS = 50, 4
"Images of the queue whose regions are read at once, and so many of them that are kept."


def token_of_review() -> str:
    """Return the token of the environment, or a new one.

    Raises:
        UserError: the token of the environment is too short.
    """
    token = os.environ.get(TOKEN_VARIABLE)
    if token is not None and len(token) < SHORTEST_TOKEN:
        raise UserError(f"the token in {TOKEN_VARIABLE} needs {SHORTEST_TOKEN} characters at least")
    return token or secrets.token_urlsafe(24)


class Pictures:
    """Makes what a review shows, a few images at a time; keeps the means of good images, and regions of next images."""

    def __init__(self, review: Review):
        self._review = review
        self._decoders = threading.Semaphore(DECODERS)
        self._means: dict[str, bytes | None] = {}
        self._making = threading.Lock()
        images = review.queue.images
        self._places = {(one.image_id, one.detector_fingerprint): place for place, one in enumerate(images)}
        self._blocks: dict[int, dict[tuple[int, str], list[dict[str, Any]]]] = {}
        self._reading = threading.Lock()

    def original(self, image: ReviewImage, use: str) -> bytes:
        with self._decoders:
            return original_jpeg(image.image_uri, (image.width, image.height), LONGEST[use])

    def outlines(self, image: ReviewImage) -> list[dict[str, Any]]:
        key = (image.image_id, image.detector_fingerprint)
        place = self._places.get(key)
        if place is None:
            return outlines(self._review.rows.regions(image))
        # A query costs nearly the same for one image and for a block of those that are asked for next.
        block = place // BLOCK
        with self._reading:
            if block not in self._blocks:
                if len(self._blocks) >= MOST_BLOCKS:
                    self._blocks.clear()
                images = self._review.queue.images[block * BLOCK : (block + 1) * BLOCK]
                self._blocks[block] = self._review.rows.regions_of(images)
            return outlines(self._blocks[block].get(key, []))

    def mean(self, image: ReviewImage) -> bytes | None:
        key = mean_key(image)
        # One at a time: pages ask for the same mean again while it is made.
        with self._making:
            if key not in self._means:
                if len(self._means) >= MOST_MEANS:
                    self._means.clear()
                good = [one.image_uri for one in self._review.rows.good_ones(image) if one.image_id != image.image_id]
                self._means[key] = mean_jpeg(good, (image.width, image.height))
            return self._means[key]


def review_app(review: Review, token: str) -> FastAPI:
    """Return the application of a review; requests need this token."""
    app = FastAPI(title="diffad-ray review", docs_url=None, redoc_url=None, openapi_url=None)
    digest = _digest(token)

    def authorised(request: Request) -> None:
        kind, _, given = request.headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer" or not hmac.compare_digest(_digest(given.strip()), digest):
            raise HTTPException(401, "the token of this review is needed", {"WWW-Authenticate": "Bearer"})

    @app.middleware("http")
    async def harden(request: Request, call_next: Callable[[Request], Any]) -> Response:
        response: Response = await call_next(request)
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Cache-Control"] = "no-store"
        response.headers["Referrer-Policy"] = "no-referrer"
        return response

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> Response:
        return JSONResponse({"error": error.detail}, error.status_code, error.headers)

    @app.exception_handler(UserError)
    async def failed(request: Request, error: UserError) -> Response:
        # The table can't be read now; what the client sent is not at fault, so the page sends it again.
        return JSONResponse({"error": str(error)}, 503)

    @app.get("/")
    def page() -> Response:
        page = review_page()
        return Response(page.text, media_type="text/html", headers={"Content-Security-Policy": page.policy})

    token_needed = [Depends(authorised)]
    _add_images(app, review, token_needed)
    _add_verdicts(app, review, token_needed)
    return app


def _add_images(app: FastAPI, review: Review, needed: list[Any]) -> None:
    pictures = Pictures(review)

    def wanted(image_id: int, detector: str | None = None) -> ReviewImage:
        image = review.image(image_id, detector) if -(2**63) <= image_id < 2**63 else None
        if image is None:
            raise HTTPException(404, f"the table has no scored image {image_id}")
        return image

    @app.get("/api/review", dependencies=needed)
    def data() -> Any:
        return review.data()

    @app.get("/api/images/{image_id}", dependencies=needed)
    def picture(image_id: int, use: str = "view") -> Response:
        if use not in LONGEST:
            raise HTTPException(422, f"use must be one of {', '.join(LONGEST)}")
        image = wanted(image_id)
        try:
            return Response(pictures.original(image, use), media_type="image/jpeg")
        except UserError as error:
            raise HTTPException(404, str(error)) from error

    @app.get("/api/images/{image_id}/outlines", dependencies=needed)
    def outlines_of(image_id: int, detector: str | None = None) -> Any:
        return pictures.outlines(wanted(image_id, detector))

    @app.get("/api/images/{image_id}/mean", dependencies=needed)
    def mean(image_id: int, detector: str | None = None) -> Response:
        found = pictures.mean(wanted(image_id, detector))
        return Response(status_code=204) if found is None else Response(found, media_type="image/jpeg")

    @app.get("/api/images/{image_id}/around", dependencies=needed)
    def around(image_id: int, detector: str | None = None) -> Any:
        return review.around(wanted(image_id, detector))

    @app.get("/api/estimate", dependencies=needed)
    def estimate() -> Any:
        return review.estimate()


def _add_verdicts(app: FastAPI, review: Review, needed: list[Any]) -> None:
    @app.post("/api/verdicts", dependencies=needed)
    async def store(request: Request) -> Any:
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > MOST_BODY_BYTES:
                raise HTTPException(413, f"a verdict has {MOST_BODY_BYTES} bytes at most", {"Connection": "close"})
        try:
            entry = json.loads(body)
            verdict = verdict_of(entry)
            save_id = entry.get("save_id")
            if not isinstance(save_id, str):
                raise UserError("save_id must be a text of 8 hexadecimal digits")
        except (ValueError, RecursionError, UserError) as error:
            raise HTTPException(422, str(error)) from error
        return {"stored": True, "is_new": await run_in_threadpool(_stored, review, verdict, save_id)}


def _stored(review: Review, verdict: Verdict, save_id: str) -> bool:
    """Store a verdict about a row of the table, whatever URI the client names; return whether it is new."""
    image = review.image(verdict.image_id, verdict.detector_fingerprint)
    if image is None:
        raise HTTPException(422, f"the table has no scored image {verdict.image_id} of this detector")
    if image.image_uri != verdict.image_uri:
        raise HTTPException(422, f"the image {verdict.image_id} is {image.image_uri}, not {verdict.image_uri}")
    own = review.sample.id if review.sample else None
    if verdict.sample not in (None, own) and verdict.sample not in sample_ids(review.table):
        raise HTTPException(422, f"the table has no sample {verdict.sample}")
    try:
        return add_verdicts(review.table, [verdict], save_id)
    except UserError as error:
        raise HTTPException(422, str(error)) from error
    except OSError as error:
        raise HTTPException(503, f"the verdict can't be stored: {error}") from error


def serve_review(review: Review, host: str, port: int, on_ready: Callable[[str], None]) -> None:
    """Serve a review until Ctrl-C.

    Args:
        on_ready: gets the address of the page, token and all.

    Raises:
        UserError: the address can't be listened on.
    """
    token = token_of_review()
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family)
    except OSError as error:
        raise UserError(
            f"nothing can listen at {host}:{port} ({error.strerror}): name another port by --port"
        ) from error
    shown = f"[{host}]" if family == socket.AF_INET6 else host
    on_ready(f"http://{shown}:{listening.getsockname()[1]}/#token={token}")
    config = uvicorn.Config(review_app(review, token), log_level="warning", http=PunctualProtocol, access_log=False)
    # Ctrl-C is how a review ends: every verdict that was acknowledged is stored.
    with suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listening])


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
