"""The documents that others rely on: the Open Inference Protocol, with Triton's client, and OpenAPI."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from hostile import PNG
from hypothesis import HealthCheck, given
from hypothesis import settings as limits
from hypothesis import strategies as st
from served import Served, served

from diffad_ray.bundles.bundle import Bundle
from diffad_ray.images import decode_image

INFER = "/v2/models/weave/infer"
ENCODED = base64.b64encode(PNG).decode()


@pytest.fixture(scope="module")
def server(detector: Path) -> Iterator[Served]:
    with served({"weave": detector}) as running:
        yield running


def tensor(*images: str, **more: Any) -> dict[str, Any]:
    return {"name": "image", "shape": [len(images)], "datatype": "BYTES", "data": list(images)} | more


def test_metadata(server: Served, bundle: Bundle) -> None:
    assert server.client.get("/v2").json()["extensions"] == []
    for path in ("/v2/models/weave", f"/v2/models/weave/versions/{bundle.fingerprint}"):
        model = server.client.get(path).json()
        assert (model["name"], model["versions"]) == ("weave", [bundle.fingerprint])
        assert [entry["name"] for entry in model["inputs"]] == ["image"]
        assert server.client.get(f"{path}/ready").json() == {"name": "weave", "ready": True}
    for path in ("/v2/models/other", "/v2/models/weave/versions/1", "/v2/models/other/ready", "/v2/other"):
        answer = server.client.get(path)
        assert (answer.status_code, list(answer.json())) == (404, ["error"])


def test_inference(server: Served, bundle: Bundle) -> None:
    single = server.score(PNG).json()
    answer = server.client.post(INFER, json={"id": "part-7", "inputs": [tensor(ENCODED, ENCODED)]}).json()
    assert (answer["id"], answer["model_name"], answer["model_version"]) == ("part-7", "weave", bundle.fingerprint)
    outputs = {output["name"]: output for output in answer["outputs"]}
    assert outputs["score"]["data"] == [single["score"]] * 2
    assert outputs["decision"]["data"] == [single["decision"]] * 2
    assert all(output["shape"] == [2] for output in outputs.values())
    asked = {"inputs": [tensor(ENCODED)], "outputs": [{"name": "mask"}]}
    (mask,) = server.client.post(f"/v2/models/weave/versions/{bundle.fingerprint}/infer", json=asked).json()["outputs"]
    assert decode_image(base64.b64decode(mask["data"][0])).pixels.shape == decode_image(PNG).pixels.shape


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"{", 400),
        ({}, 400),
        ({"inputs": []}, 400),
        ({"inputs": [tensor(ENCODED, name="pixels")]}, 400),
        ({"inputs": [tensor(ENCODED, datatype="UINT8")]}, 400),
        ({"inputs": [tensor(ENCODED, shape=[2])]}, 400),
        ({"inputs": [tensor("no base64!")]}, 400),
        ({"inputs": [tensor(*[ENCODED] * 17)]}, 400),
        ({"inputs": [tensor(ENCODED)], "outputs": [{"name": "shadow"}]}, 400),
        ({"inputs": [tensor(base64.b64encode(b"text").decode())]}, 422),
    ],
)
def test_errors_of_the_protocol(server: Served, body: Any, code: int) -> None:
    kind = {"content": body} if isinstance(body, bytes) else {"json": body}
    answer = server.client.post(INFER, **kind)
    assert (answer.status_code, list(answer.json())) == (code, ["error"])
    assert server.client.post(INFER.replace("weave", "other"), json={"inputs": [tensor(ENCODED)]}).status_code == 404
    assert (
        server.client.post("/v2/models/weave/versions/9/infer", json={"inputs": [tensor(ENCODED)]}).status_code == 409
    )


def test_tritons_own_client(server: Served, bundle: Bundle) -> None:
    triton = pytest.importorskip("tritonclient.http", reason="tritonclient[http] is not installed")
    client = triton.InferenceServerClient(urlsplit(server.url).netloc)
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("weave")
    assert client.get_model_metadata("weave")["versions"] == [bundle.fingerprint]
    image = triton.InferInput("image", [1], "BYTES")
    image.set_data_from_numpy(np.array([base64.b64encode(PNG)], dtype=object), binary_data=False)
    found = client.infer("weave", [image], request_id="7", model_version=bundle.fingerprint)
    assert found.get_response()["id"] == "7"
    assert found.as_numpy("score").tolist() == [server.score(PNG).json()["score"]]
    with pytest.raises(triton.InferenceServerException, match="no model"):
        client.infer("other", [image])
    client.close()


def test_answers_are_those_of_the_openapi_document(server: Served, detector: Path) -> None:
    schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi.checks import (
        content_type_conformance,
        response_schema_conformance,
        status_code_conformance,
    )

    document = server.client.get("/openapi.json").json()
    schema = schemathesis.openapi.from_dict(document)
    schema.config.base_url = server.url
    checks = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
    sent = 0
    for operation in schema.get_all_operations():
        found = operation.ok()

        @given(case=found.as_strategy())
        @limits(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck), database=None)
        def conforms(case: Any) -> None:
            nonlocal sent
            sent += 1
            if "name" in case.path_parameters and sent % 2:
                case.path_parameters["name"] = "weave"
            case.call_and_validate(checks=checks, timeout=30)

        conforms()
    assert sent > 100


METHODS = st.sampled_from(["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS"])
PATHS = st.one_of(
    st.sampled_from(["/detectors/weave/score", "/v2/models/weave/infer", "/detectors", "/v2", "/metrics", "/"]),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=40).map(lambda text: f"/{text}"),
)
KINDS = st.sampled_from(["", "application/json", "multipart/form-data; boundary=x", "image/png", "a/b;c"])
BODIES = st.one_of(st.binary(max_size=300), st.sampled_from([PNG, PNG[:99], b'{"uri": "/etc/passwd"}', b"--x--\r\n"]))


@given(method=METHODS, path=PATHS, kind=KINDS, body=BODIES, accept=st.text(st.characters(codec="latin-1"), max_size=20))
@limits(max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None)
def test_whatever_is_sent_is_answered(
    server: Served, method: str, path: str, kind: str, body: bytes, accept: str
) -> None:
    from urllib.parse import quote

    clean = "".join(character for character in accept if character.isprintable())
    headers = {"Content-Type": kind, "Accept": clean.strip().encode("latin-1")}
    answer = server.client.request(method, quote(path, safe="/"), content=body, headers=headers)
    assert answer.status_code < 500, (answer.status_code, answer.text)
    assert answer.headers["x-request-id"]
