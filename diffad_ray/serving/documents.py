"""What requests and answers look like, for the OpenAPI document; the code that answers writes plain JSON."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from diffad_ray.table.decisions import Decision


class Strict(BaseModel):
    """Every field is there, and no other."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class RegionDocument(Strict):
    """A connected region of anomalous pixels, in pixels of the original image."""

    x: int
    y: int
    width: int
    height: int
    area: int
    peak: float = Field(description="Highest value of the anomaly map in the region, in the unit of the score.")
    mean: float
    centroid_x: float
    centroid_y: float
    mask_runs: list[int] = Field(description="Run lengths of the mask in the box, row by row, beginning with off.")


class ImageDocument(Strict):
    """The image as it was found."""

    width: int
    height: int
    mode: str = Field(description="Depth and channels of the file, such as `16-bit grey`.")


class QualityDocument(Strict):
    """Figures of the grey values, 0 for black and 1 for white: mean, deviation, deviation of the Laplacian."""

    brightness: float
    contrast: float
    sharpness: float


class AnswerDocument(Strict):
    """What a detector says of an image, and the decision by the threshold in force."""

    request_id: str
    detector: str
    fingerprint: str
    decision: Decision = Field(description="As in the tables: by the threshold in force, and its review band.")
    score: float = Field(description="Log odds of an anomaly.")
    threshold: float = Field(description="The threshold in force.")
    tail_probability: float | None = Field(description="Share of normal images that score as high, in (0, 1].")
    is_anomalous: bool
    anomalous_fraction: float
    regions: list[RegionDocument]
    image: ImageDocument
    quality: QualityDocument
    recorded: bool = Field(description="Whether the row is kept for the table; see `record`.")


class ErrorDocument(Strict):
    """Why there is no answer for an image."""

    error: str
    status: str | None = Field(
        description="The status that scoring gives such an image; null: the request is at fault."
    )
    request_id: str


class DetectorDocument(Strict):
    """A detector that this server knows, and the bundle that answers."""

    name: str
    fingerprint: str | None = Field(description="Of the bundle that answers; null while none is loaded.")
    pinned: str | None = Field(description="The only fingerprint that may answer.")
    kind: str | None
    view: str | None
    image_size: int | None
    threshold: float | None = Field(description="The threshold in force.")
    review: float | None = Field(description="Where the review band below the threshold begins; null: there is none.")
    problem: str | None = Field(description="Why a bundle at its location was not loaded, at the last try.")


class DetectorsDocument(Strict):
    """All detectors of this server."""

    detectors: list[DetectorDocument]


class UriDocument(Strict):
    """An image that the server fetches."""

    uri: str


REASONS = {
    400: "The request can't be understood.",
    401: "There is no valid token.",
    403: "The token lacks the scope, or the URI lies below no allowed prefix.",
    404: "There is no such detector, image or picture.",
    406: "The answer can't have the form that is accepted.",
    408: "The body did not arrive in time.",
    409: "Another bundle answers under this name, or the image is archived.",
    413: "The body, the file or the image is too large.",
    415: "The body is compressed.",
    422: "The file gives no image.",
    431: "The headers are too large.",
    500: "The server has failed.",
    503: "The queue is full, the detector can't be loaded now, or the server shuts down.",
    504: "There was no answer in time.",
}


def answers(ok: dict[str, Any], *codes: int) -> dict[int | str, dict[str, Any]]:
    """Documentation of the answers of a path: the one with status 200, and its refusals."""
    found: dict[int | str, dict[str, Any]] = {200: ok}
    for code in (*codes, 400, 431):
        found[code] = {"model": ErrorDocument, "description": REASONS[code]}
        if code == 503:
            found[code]["headers"] = {"Retry-After": {"schema": {"type": "integer", "minimum": 1}}}
    return dict(sorted(found.items(), key=lambda item: int(item[0])))


BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"image": {"type": "string", "format": "binary"}},
                    "required": ["image"],
                    "additionalProperties": False,
                }
            },
            "application/json": {"schema": UriDocument.model_json_schema()},
        },
    }
}
