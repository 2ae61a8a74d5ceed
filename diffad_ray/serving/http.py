"""The HTTP interface of a replica, as an ASGI application."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import FastAPI, Header, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp

from diffad_ray.serving import documents, inference_protocol
from diffad_ray.serving.answers import body, form_of, parts_of
from diffad_ray.serving.appending import keep_appending
from diffad_ray.serving.detectors import LoadedDetector
from diffad_ray.serving.gate import Gate, record_of
from diffad_ray.serving.observation import exposition
from diffad_ray.serving.page import page
from diffad_ray.serving.recording import Recorder
from diffad_ray.serving.refusals import Refused
from diffad_ray.serving.requests import given_image
from diffad_ray.serving.service import Service
from diffad_ray.serving.settings import FINGERPRINT
from diffad_ray.versions import VERSION

log = logging.getLogger(__name__)
RECORDED = ("unreadable", "too_large", "failed")
"Statuses of images that give no score and are recorded nonetheless."
FORMS: dict[str, Any] = {
    "application/json": {},
    "image/png": {"schema": {"type": "string", "format": "binary"}},
    "multipart/form-data": {"schema": {"type": "string", "format": "binary"}},
}
Accept = Annotated[str, Header(description="application/json, image/png or multipart/form-data")]
Name = Annotated[str, Path(description="Name of the detector.")]


def http_app(service: Service) -> ASGIApp:
    """Return the application of a service, which lives as long as the application does."""
    own = service.settings
    recorder = Recorder(own.record_table, own.record_images) if own.record_table else None

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        appending = asyncio.create_task(keep_appending(recorder.table, own.record_seconds)) if recorder else None
        try:
            await service.start()
            yield
        finally:
            if appending:
                appending.cancel()
            await service.close()

    app = FastAPI(
        title="diffad-ray", version=VERSION, docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan
    )
    _add_errors(app)
    _add_score(app, service, recorder)
    _add_detectors(app, service)
    inference_protocol.add(app, service)

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi() -> Response:
        return _json(_document(app))

    @app.get("/", include_in_schema=False)
    async def front_page() -> Response:
        return page(list(service.settings.detectors), bool(service.clients))

    return Gate(app, service)


def _add_score(app: FastAPI, service: Service, recorder: Recorder | None) -> None:
    ok = {"model": documents.AnswerDocument, "content": FORMS, "description": "The score and the decision."}

    @app.post(
        "/detectors/{name}/score",
        summary="Score an image",
        response_model=None,
        responses=documents.answers(ok, 401, 403, 404, 406, 408, 409, 413, 415, 422, 500, 503, 504),
        openapi_extra=documents.BODY,
    )
    async def score(
        request: Request,
        name: Name,
        parts: Annotated[str, Query(description="Pictures: mask, overlay, heat, reconstruction, or all.")] = "",
        fingerprint: Annotated[str, Query(description="Only the bundle with this fingerprint may answer.")] = "",
        record: Annotated[bool, Query(description="Append the row to the server's table.")] = False,
        accept: Accept = "*/*",
    ) -> Response:
        noted = record_of(request)
        noted.client = authorised_for(request, service)
        pictures = parts_of(parts)
        form = form_of(accept, pictures)
        if record and recorder is None:
            raise Refused(400, "this server records nothing: it has no record_table")
        with service.admission.place() as place:
            if name not in service.detectors.places:
                raise Refused(404, f"no detector is called {name!r} here; GET /detectors lists them")
            noted.detector = name
            with noted.stage("read"):
                given = await given_image(request, place, service.settings, service.prefixes)
            noted.bytes = len(given.data)
            await _check_fingerprint(service, name, fingerprint)
            try:
                answer, detector = await service.score(
                    name, given.data, noted, "overlay" in pictures, "reconstruction" in pictures
                )
            except Refused as refusal:
                if record and recorder and refusal.status in RECORDED and name in service.detectors.held:
                    await recorder.record(given, refusal, service.detectors.held[name])
                raise
            if fingerprint and answer.fingerprint != fingerprint:
                raise _another(name, answer.fingerprint)
            if record and recorder:
                with noted.stage("record"):
                    await recorder.record(given, answer, detector)
            more = {"request_id": noted.request_id, "recorded": record}
            with noted.stage("write"):
                arguments = answer, form, pictures, more
                # A thread costs more than the text; pictures take long.
                kind, data = await run_in_threadpool(body, *arguments) if pictures else body(*arguments)
        headers = {
            "X-Score": repr(answer.verdict.score),
            "X-Decision": answer.decision,
            "X-Detector": answer.fingerprint,
        }
        return Response(data, media_type=kind, headers=headers)


async def _check_fingerprint(service: Service, name: str, fingerprint: str) -> None:
    """Refuse a request that is pinned to another bundle before the networks work for it."""
    if not fingerprint:
        return
    if not FINGERPRINT.fullmatch(fingerprint):
        raise Refused(400, "a fingerprint is 16 hex digits")
    held = await service.detectors.get(name)
    if held.bundle.fingerprint != fingerprint:
        raise _another(name, held.bundle.fingerprint)


def _another(name: str, fingerprint: str) -> Refused:
    return Refused(409, f"the detector {name} is {fingerprint} now")


def authorised_for(request: Request, service: Service) -> str:
    """Return the client of a request that wants to have images scored; raises Refused."""
    return service.authorised(request.headers.get("authorization"), "score")


def _add_detectors(app: FastAPI, service: Service) -> None:
    @app.get(
        "/detectors",
        summary="List the detectors",
        response_model=None,
        responses=documents.answers({"model": documents.DetectorsDocument}, 401, 403, 500, 503),
    )
    async def detectors(request: Request) -> Response:
        record_of(request).client = authorised_for(request, service)
        return _json({"detectors": [_described(service, name) for name in service.detectors.places]})

    @app.get(
        "/metrics",
        summary="Metrics of all replicas, for Prometheus",
        response_model=None,
        responses=documents.answers({"content": {"text/plain": {"schema": {"type": "string"}}}}, 401, 403, 500),
    )
    async def metrics(request: Request) -> Response:
        record_of(request).client = service.authorised(request.headers.get("authorization"), "admin")
        return Response(exposition(await service.gather()), media_type="text/plain; version=0.0.4")


def _described(service: Service, name: str) -> dict[str, Any]:
    place, held = service.detectors.places[name], service.detectors.held.get(name)
    return {
        "name": name,
        "fingerprint": held.bundle.fingerprint if held else None,
        "pinned": place.fingerprint,
        **_settings_of(service, held),
        "problem": service.detectors.problems.get(name),
    }


def _settings_of(service: Service, held: LoadedDetector | None) -> dict[str, Any]:
    if held is None:
        return dict.fromkeys(("kind", "view", "image_size", "threshold", "review"))
    own, in_force = held.bundle.detector.settings, service.thresholds.of(held.bundle)
    return {
        "kind": held.bundle.detector.kind,
        "view": own.view,
        "image_size": own.image_size,
        "threshold": in_force.reject,
        "review": in_force.review,
    }


def _json(value: Any, code: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(json.dumps(value), code, headers, "application/json")


def _add_errors(app: FastAPI) -> None:
    """Answer every refusal in one form; the inference protocol has its own, with the reason alone."""

    def said(request: Request, code: int, message: str, refused: Refused | None = None) -> Response:
        record = record_of(request)
        record.image_status = (refused and refused.status) or ""
        headers = refused.headers() if refused else {}
        if inference_protocol.is_path(request.url.path):
            return _json({"error": message}, code, headers)
        status = refused.status if refused else None
        return _json({"error": message, "status": status, "request_id": record.request_id}, code, headers)

    async def refused(request: Request, error: Any) -> Response:
        return said(request, error.code, str(error), error)

    async def invalid(request: Request, error: Any) -> Response:
        first = error.errors()[0]
        return said(request, 400, f"{'.'.join(map(str, first['loc'][1:]))}: {first['msg']}")

    async def http_error(request: Request, error: Any) -> Response:
        answer = said(request, error.status_code, error.detail)
        answer.headers.update(error.headers or {})
        return answer

    async def failed(request: Request, error: Exception) -> Response:
        log.error("request %s failed", record_of(request).request_id, exc_info=error)
        return said(request, 500, "the server has failed; its log says more under the request's id")

    app.add_exception_handler(Refused, refused)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(Exception, failed)


def _document(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI document, without FastAPI's own errors of validation, which are answered with 400 here."""
    document = get_openapi(title=app.title, version=app.version, routes=app.routes)
    document["components"].setdefault("securitySchemes", {})["token"] = {"type": "http", "scheme": "bearer"}
    for methods in document["paths"].values():
        for method in methods.values():
            validation = method["responses"].get("422", {}).get("content", {}).get("application/json", {})
            if validation.get("schema", {}).get("$ref", "").endswith("HTTPValidationError"):
                del method["responses"]["422"]
            if "401" in method["responses"]:
                method["security"] = [{"token": []}]
    for name in ("HTTPValidationError", "ValidationError"):
        document["components"].get("schemas", {}).pop(name, None)
    return document
