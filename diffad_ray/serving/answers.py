"""Answers as clients take them: JSON, one picture, or everything in one multipart body."""

from __future__ import annotations

import json
import secrets
from typing import Any, Literal, get_args

import cv2
import numpy as np

from diffad_ray.images import for_display
from diffad_ray.inference.regions import mask_png
from diffad_ray.reports.drawing import at_picture_size, heat
from diffad_ray.reports.overlay import LONGEST_SIDE, draw_regions
from diffad_ray.serving.judging import Answer
from diffad_ray.serving.refusals import Refused

Part = Literal["mask", "overlay", "heat", "reconstruction"]
Form = Literal["json", "png", "multipart"]
TYPES: dict[Form, tuple[str, ...]] = {
    "json": ("application/json", "application/*"),
    "png": ("image/png", "image/*"),
    "multipart": ("multipart/form-data", "multipart/*"),
}


def parts_of(text: str) -> tuple[Part, ...]:
    """Return the pictures that a request wants, from `mask,overlay` or `all`.

    Raises:
        Refused: 400 for an unknown one.
    """
    if text == "all":
        return get_args(Part)
    parts = tuple(dict.fromkeys(filter(None, text.split(","))))
    if unknown := set(parts) - set(get_args(Part)):
        raise Refused(400, f"parts: {min(unknown)!r} is none of {', '.join(get_args(Part))}, all")
    return parts  # type: ignore[return-value]


def form_of(accept: str, parts: tuple[Part, ...]) -> Form:
    """Return the form of an answer: the first that the header `Accept` names, else JSON without pictures, PNG for one.

    Raises:
        Refused: 406, because the form can't hold what is wanted, or is none of ours.
    """
    usual: Form = "json" if not parts else "png" if len(parts) == 1 else "multipart"
    for wanted in accept.split(","):
        kind = wanted.partition(";")[0].strip().lower()
        if kind in ("", "*/*"):
            return usual
        for form, types in TYPES.items():
            if kind in types:
                return _fitting(form, parts)
    raise Refused(406, "answers are application/json, image/png or multipart/form-data")


def _fitting(form: Form, parts: tuple[Part, ...]) -> Form:
    if form == "json" and parts:
        raise Refused(406, "JSON holds no pictures: accept image/png for one, or multipart/form-data for several")
    if form == "png" and len(parts) != 1:
        raise Refused(406, "image/png holds one picture: name it, as in parts=mask")
    return form


def as_dict(answer: Answer) -> dict[str, Any]:
    """Return an answer as plain values; boxes, areas and centroids of regions are in pixels of the original image."""
    found, image = answer.verdict, answer.image
    return {
        "detector": answer.name,
        "fingerprint": answer.fingerprint,
        "decision": answer.decision,
        "score": found.score,
        "threshold": found.threshold,
        "tail_probability": found.tail_probability,
        "is_anomalous": found.is_anomalous,
        "anomalous_fraction": found.anomalous_fraction,
        "regions": found.regions,
        "image": {"width": image.width, "height": image.height, "mode": image.mode},
        "quality": image.quality._asdict(),
    }


def picture(answer: Answer, part: Part) -> bytes:
    """Return a picture of an answer as PNG.

    Raises:
        Refused: 404 for the reconstruction of a detector that reconstructs nothing.
    """
    found, image = answer.verdict, answer.image
    if part == "mask":
        assert found.mask is not None, "a verdict on an anomaly map has a mask"
        return mask_png(found.mask)
    if part == "overlay":
        assert image.pixels is not None, "the pixels are kept where an overlay is wanted"
        return _png(draw_regions(image.pixels, found.regions))
    if part == "heat":
        scale = min(1.0, LONGEST_SIDE / max(image.width, image.height))
        width, height = (max(1, round(side * scale)) for side in (image.width, image.height))
        return _png(heat(at_picture_size(answer.detection.anomaly_map, width, height), found.threshold))
    restored = answer.detection.reconstruction
    if restored is None:
        raise Refused(404, f"the detector {answer.name} reconstructs nothing")
    return _png(for_display((restored.clip(0, 1) * 255).round().astype(np.uint8), LONGEST_SIDE))


def body(answer: Answer, form: Form, parts: tuple[Part, ...], more: dict[str, Any]) -> tuple[str, bytes]:
    """Return content type and body of an answer. Several pictures lack the reconstruction of a detector without one.

    Args:
        more: what the JSON says besides.
    """
    if form == "png":
        return "image/png", picture(answer, parts[0])
    text = json.dumps(as_dict(answer) | more).encode()
    if form == "json":
        return "application/json", text
    kinds: dict[str, tuple[str, bytes]] = {"answer": ("application/json", text)}
    for part in parts:
        if part != "reconstruction" or answer.detection.reconstruction is not None:
            kinds[part] = ("image/png", picture(answer, part))
    boundary = secrets.token_hex(16)
    lines = []
    for name, (kind, data) in kinds.items():
        file = f"{name}.png" if kind == "image/png" else f"{name}.json"
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; filename="{file}"\r\n'
        lines.append(f"{head}Content-Type: {kind}\r\n\r\n".encode() + data + b"\r\n")
    return f"multipart/form-data; boundary={boundary}", b"".join([*lines, f"--{boundary}--\r\n".encode()])


def _png(picture: np.ndarray) -> bytes:
    encoded, data = cv2.imencode(".png", np.ascontiguousarray(picture[..., ::-1]), [cv2.IMWRITE_PNG_COMPRESSION, 1])
    assert encoded, "8-bit pictures of this size can be written"
    return data.tobytes()
