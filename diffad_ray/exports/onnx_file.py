"""Writes a detector as an ONNX file, which other languages and machines run without this package."""

from __future__ import annotations

import json
import logging
import warnings
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from diffad_ray import storage
from diffad_ray.bundles.bundle import Bundle, load_bundle
from diffad_ray.detectors.judged import JudgedDetector
from diffad_ray.errors import Fault, UserError
from diffad_ray.exports.graph import PixelsToScore
from diffad_ray.inference.runtimes import MOST_CALLS
from diffad_ray.versions import VERSION

if TYPE_CHECKING:
    import onnx

PACKAGES = ("onnx", "onnxruntime", "onnxscript")
INPUT, OUTPUTS = "pixels", ("score", "anomaly_map", "image_map")
PREFIX = "diffad_ray."
"What the names of the metadata begin with."
OPSET = 20
MOST_BYTES = 2**31 - 1
"Of a file in the format of protocol buffers, which ONNX files have."
TRIED = (173, 201)
"Height and width of the image of noise on which the written graph must agree with torch."
LARGEST_DIFFERENCE = 0.01
"Of the score, as a share of its size where that is above 1."


class OnnxFile(NamedTuple):
    """What `export_onnx` wrote."""

    location: str
    detector: str
    "name and fingerprint"
    bytes: int
    score_difference: float
    "difference of the score of an image of noise, by onnxruntime, from that by torch in float32"


def export_onnx(detector: str | Path, output: str | Path) -> OnnxFile:
    """Write a detector as one ONNX graph, from decoded pixels to score and maps, and check it by onnxruntime.

    The graph takes `pixels`, an RGB image [H,W,3] uint8 of any size, and returns `score` [], `anomaly_map` [S,S] and
    `image_map` [H,W], all float32 and in the unit of the score. It computes in float32. Threshold, calibration and
    settings are in the metadata.

    Args:
        detector: folder or URI of a bundle.
        output: file or URI to write to.

    Raises:
        UserError: the packages of the extra `onnx` are missing, or the detector does not fit one graph.
        Fault: onnxruntime computes another score than torch. Nothing has been written then.

    Example:
        >>> export_onnx("detectors/part", "part.onnx").bytes  # doctest: +SKIP
        24117248
    """
    if missing := [package for package in PACKAGES if find_spec(package) is None]:
        raise UserError(f"ONNX files need {', '.join(missing)}: pip install 'diffad-ray[onnx]'")
    bundle = load_bundle(str(detector))
    found = bundle.detector
    assert isinstance(found, JudgedDetector)
    refuse_unfit(bundle.name, found)
    graph = PixelsToScore(found).eval()
    model = plain(converted(graph))
    for name, value in metadata(bundle).items():
        model.metadata_props.add(key=PREFIX + name, value=value)
    if (size := model.ByteSize()) > MOST_BYTES:
        raise UserError(
            f"the detector {bundle.name} takes {size} bytes, and an ONNX file may have {MOST_BYTES}: train a smaller "
            "preset"
        )
    data = model.SerializeToString()
    difference = _difference(graph, data)
    location = storage.normalised(str(output))
    storage.write(location, data)
    return OnnxFile(location, f"{bundle.name} {bundle.fingerprint}", len(data), difference)


def refuse_unfit(name: str, detector: JudgedDetector) -> None:
    """Refuse a detector that does not fit one graph.

    Raises:
        UserError: it sees tiles, calls its networks too often, or has features of another ONNX file.
    """
    settings = detector.settings
    if settings.view == "tiles":
        raise UserError(
            f"the detector {name} ({detector.kind}) sees tiles, whose number depends on the image, and a graph has a "
            "fixed number of network calls: export a detector of the view `whole`, or serve this one"
        )
    if settings.features.path is not None:
        raise UserError(
            f"the detector {name} ({detector.kind}) has features of the network {settings.features.path}, which is a "
            "graph of its own: export a detector with features of EfficientNet-Lite0 or `gabor`, or serve this one"
        )
    if settings.network_calls > MOST_CALLS:
        raise UserError(
            f"the detector {name} ({detector.kind}) calls its networks {settings.network_calls} times an image, and a "
            f"graph holds {MOST_CALLS} calls at most: export one with another `reconstruction`, or serve this one"
        )


@torch.no_grad()
def converted(graph: PixelsToScore) -> onnx.ModelProto:
    """Convert a detector's graph; height and width of the image stay free."""
    example = torch.zeros((64, 96, 3), dtype=torch.uint8)
    free = {"pixels": {0: torch.export.Dim("height", min=16), 1: torch.export.Dim("width", min=16)}}
    level = logging.getLogger("torch.onnx").level
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            # The exporter warns of its own deprecated parts.
            warnings.simplefilter("ignore")
            program = torch.export.export(graph, (example,), dynamic_shapes=free, strict=False)
            made = torch.onnx.export(
                program,
                input_names=[INPUT],
                output_names=list(OUTPUTS),
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
    finally:
        logging.getLogger("torch.onnx").setLevel(level)
    assert made is not None
    return made.model_proto


def plain(model: onnx.ModelProto) -> onnx.ModelProto:
    """Remove what the exporter notes of its own work, such as the places of Python files, and name the free sides."""
    del model.metadata_props[:]
    graph, sides = model.graph, {}
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""
    for name, dim in zip(("height", "width"), graph.input[0].type.tensor_type.shape.dim, strict=False):
        sides[dim.dim_param] = name
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = sides.get(dim.dim_param, "")
    return model


def metadata(bundle: Bundle) -> dict[str, str]:
    """Return what a program needs to judge the scores of a detector, as texts by name."""
    settings: Any = bundle.detector.settings
    calibration = bundle.calibration
    return {
        "version": VERSION,
        "detector": bundle.name,
        "fingerprint": bundle.fingerprint,
        "kind": bundle.detector.kind,
        "image_size": str(settings.image_size),
        "score_unit": getattr(settings, "score_unit", "log odds"),
        "precision": settings.precision,
        "threshold": repr(calibration.threshold),
        "calibration": json.dumps(asdict(calibration)),
        "settings": json.dumps(settings.as_dict()),
    }


@torch.no_grad()
def _difference(graph: PixelsToScore, data: bytes) -> float:
    """Return by how much the score of an image of noise differs between onnxruntime and torch.

    Raises:
        Fault: it differs by more than rounding explains.
    """
    import onnxruntime

    pixels = np.random.default_rng(0).integers(0, 256, (*TRIED, 3), dtype=np.uint8)
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    (score,) = session.run([OUTPUTS[0]], {INPUT: pixels})
    exact = float(graph(torch.from_numpy(pixels))[0])
    difference = abs(float(score) - exact)
    if not difference <= LARGEST_DIFFERENCE * max(1.0, abs(exact)):
        raise Fault(
            f"onnxruntime scores an image {float(score):.4f} that torch scores {exact:.4f}: the conversion of this "
            f"version of torch ({torch.__version__}) is wrong for this detector. Nothing was written"
        )
    return difference
