"""The Open Inference Protocol, version 2, as KServe, Triton, OpenVINO Model Server and MLServer speak it.

A model is a detector, and its version the fingerprint of the bundle. The input `image` has the type BYTES and holds
image files in base64, at most `MOST_IMAGES` of them; for each, the outputs hold a value.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from collections.abc import Callable
from typing import Any, NamedTuple

from fastapi import FastAPI, Request
from pydantic import BaseModel, ValidationError
from starlette.responses import Response

from diffad_ray.serving.admission import Place
from diffad_ray.serving.answers import picture
from diffad_ray.serving.documents import REASONS
from diffad_ray.serving.gate import record_of
from diffad_ray.serving.judging import Answer
from diffad_ray.serving.observation import Record
from diffad_ray.serving.refusals import Refused
from diffad_ray.serving.requests import read_body
from diffad_ray.serving.service import Service
from diffad_ray.versions import VERSION

MOST_IMAGES = 16
JSON_ROOM = 64 * 1024
"Bytes of a request beside its images."


class Output(NamedTuple):
    """An output of every model: its type, its value for an image, and whether it is given unless it is asked for."""

    datatype: str
    value: Callable[[Answer], Any]
    is_usual: bool = True


OUTPUTS = {
    "score": Output("FP64", lambda answer: answer.verdict.score),
    "tail_probability": Output("FP64", lambda answer: answer.verdict.tail_probability),
    "threshold": Output("FP64", lambda answer: answer.verdict.threshold),
    "decision": Output("BYTES", lambda answer: answer.decision),
    "regions": Output("BYTES", lambda answer: json.dumps(answer.verdict.regions)),
    "mask": Output("BYTES", lambda answer: base64.b64encode(picture(answer, "mask")).decode(), is_usual=False),
}


class Tensor(BaseModel):
    """The input of a request."""

    name: str
    shape: list[int]
    datatype: str
    data: list[Any]


class WantedOutput(BaseModel):
    """An output that a request names; its parameters concern extensions that are not offered here."""

    name: str
    parameters: dict[str, Any] = {}


class InferRequest(BaseModel):
    """A request for inference."""

    id: str | None = None
    parameters: dict[str, Any] = {}
    inputs: list[Tensor]
    outputs: list[WantedOutput] | None = None


class ErrorAnswer(BaseModel):
    """An error of the protocol."""

    error: str


def is_path(path: str) -> bool:
    """Return whether a path belongs to the protocol."""
    return path == "/v2" or path.startswith("/v2/")


def add(app: FastAPI, service: Service) -> None:
    """Add the paths of the protocol to an application."""
    _add_health(app, service)

    def described(request: Request, model: str, version: str | None) -> Response:
        record_of(request).client = service.authorised(request.headers.get("authorization"), "score")
        _known(service, model)
        held = service.detectors.held.get(model)
        versions = [held.bundle.fingerprint] if held else []
        if version is not None and version not in versions:
            raise Refused(404, f"the model {model} has no version {version} now")
        tensor = {"name": "image", "datatype": "BYTES", "shape": [-1]}
        outputs = [{"name": name, "datatype": output.datatype, "shape": [-1]} for name, output in OUTPUTS.items()]
        return _json(
            {"name": model, "versions": versions, "platform": "diffad_ray", "inputs": [tensor], "outputs": outputs}
        )

    @app.get("/v2/models/{model}", **_documented("Metadata of a model", 404))
    async def model_metadata(request: Request, model: str) -> Response:
        return described(request, model, None)

    @app.get("/v2/models/{model}/versions/{version}", **_documented("Metadata of a version", 404))
    async def version_metadata(request: Request, model: str, version: str) -> Response:
        return described(request, model, version)

    async def ready(request: Request, model: str, version: str | None) -> Response:
        record_of(request).client = service.authorised(request.headers.get("authorization"), "score")
        _known(service, model)
        problem = service.readiness()
        held = await service.detectors.get(model)
        if problem or (version is not None and version != held.bundle.fingerprint):
            raise Refused(503, problem or f"the model {model} has no version {version} now", retry_after=10)
        return _json({"name": model, "ready": True})

    @app.get("/v2/models/{model}/ready", **_documented("Whether a model can answer", 404, 503))
    async def model_ready(request: Request, model: str) -> Response:
        return await ready(request, model, None)

    @app.get("/v2/models/{model}/versions/{version}/ready", **_documented("Whether a version can answer", 404, 503))
    async def version_ready(request: Request, model: str, version: str) -> Response:
        return await ready(request, model, version)

    codes = (404, 408, 409, 413, 415, 422, 503, 504)
    body = {"requestBody": {"required": True, "content": {"application/json": {"schema": {"type": "object"}}}}}

    @app.post("/v2/models/{model}/infer", **_documented("Score images", *codes), openapi_extra=body)
    async def infer(request: Request, model: str) -> Response:
        return await _infer(request, service, model, None)

    @app.post("/v2/models/{model}/versions/{version}/infer", **_documented("Score", *codes), openapi_extra=body)
    async def infer_version(request: Request, model: str, version: str) -> Response:
        return await _infer(request, service, model, version)


def _add_health(app: FastAPI, service: Service) -> None:
    @app.get("/v2", **_documented("Metadata of the server"))
    async def server() -> Response:
        return _json({"name": "diffad-ray", "version": VERSION, "extensions": []})

    @app.get("/v2/health/live", **_documented("Whether the server lives", 503))
    async def live() -> Response:
        if problem := service.networks.problem():
            raise Refused(503, problem, retry_after=10)
        return _json({"live": True})

    @app.get("/v2/health/ready", **_documented("Whether a detector has answered", 503))
    async def ready() -> Response:
        if problem := service.readiness():
            raise Refused(503, problem, retry_after=10)
        return _json({"ready": True})


def _documented(summary: str, *codes: int) -> dict[str, Any]:
    errors: dict[int | str, dict[str, Any]] = {
        code: {"model": ErrorAnswer, "description": REASONS[code]} for code in sorted({*codes, 400, 401, 403, 431, 500})
    }
    return {"summary": summary, "response_model": None, "responses": errors, "tags": ["Open Inference Protocol"]}


def _known(service: Service, model: str) -> None:
    if model not in service.detectors.places:
        raise Refused(404, f"there is no model {model!r}")


async def _infer(request: Request, service: Service, model: str, version: str | None) -> Response:
    record = record_of(request)
    record.client = service.authorised(request.headers.get("authorization"), "score")
    with service.admission.place() as place:
        _known(service, model)
        record.detector = model
        with record.stage("read"):
            asked = await _asked(request, place, service)
        names = _outputs(asked)
        files = _files(asked, service.settings.max_bytes)
        record.bytes = sum(map(len, files))
        answers = await _answers(service, model, files, record)
        fingerprints = {answer.fingerprint for answer in answers}
        if len(fingerprints) > 1 or (version is not None and fingerprints != {version}):
            raise Refused(409, f"the model {model} was replaced by {answers[-1].fingerprint}", retry_after=1)
        outputs = [await asyncio.to_thread(_output, name, answers) for name in names]
    found = {"model_name": model, "model_version": answers[0].fingerprint, "outputs": outputs}
    return _json(found if asked.id is None else found | {"id": asked.id})


async def _answers(service: Service, model: str, files: list[bytes], record: Record) -> list[Answer]:
    """Return the answers for images, which share batches; the first that is refused refuses them all."""
    tasks = [asyncio.create_task(service.score(model, data, record)) for data in files]
    try:
        return [answer for answer, _ in await asyncio.gather(*tasks)]
    finally:
        for task in tasks:
            task.cancel()


async def _asked(request: Request, place: Place, service: Service) -> InferRequest:
    text = await read_body(request, place, service.settings, 4 * service.settings.max_bytes // 3 + JSON_ROOM)
    try:
        return InferRequest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        raise Refused(400, f"{'.'.join(map(str, first['loc'])) or 'the body'}: {first['msg']}") from None


def _outputs(asked: InferRequest) -> list[str]:
    """Return the names of the outputs that a request wants."""
    if not asked.outputs:
        return [name for name, output in OUTPUTS.items() if output.is_usual]
    if unknown := {output.name for output in asked.outputs} - OUTPUTS.keys():
        raise Refused(400, f"there is no output {min(unknown)!r}; the outputs are {', '.join(OUTPUTS)}")
    return [output.name for output in asked.outputs]


def _files(asked: InferRequest, most: int) -> list[bytes]:
    """Return the image files of a request."""
    if len(asked.inputs) != 1 or asked.inputs[0].name != "image":
        raise Refused(400, "the only input is called image")
    tensor = asked.inputs[0]
    if tensor.datatype != "BYTES":
        raise Refused(400, f"the input image has the datatype BYTES, not {tensor.datatype}")
    if tensor.shape not in ([len(tensor.data)], [len(tensor.data), 1]) or not 1 <= len(tensor.data) <= MOST_IMAGES:
        raise Refused(400, f"the shape of image must be [N], with N elements of data, from 1 to {MOST_IMAGES}")
    files = []
    for text in tensor.data:
        try:
            files.append(base64.b64decode(text, validate=True))
        except (binascii.Error, TypeError, ValueError):
            raise Refused(400, "the elements of image must be image files in base64") from None
        if len(files[-1]) > most:
            raise Refused(413, f"the file has {len(files[-1])} bytes, more than {most}", "too_large")
    return files


def _output(name: str, answers: list[Answer]) -> dict[str, Any]:
    output = OUTPUTS[name]
    data = [output.value(answer) for answer in answers]
    return {"name": name, "datatype": output.datatype, "shape": [len(data)], "data": data}


def _json(value: Any) -> Response:
    return Response(json.dumps(value), media_type="application/json")
