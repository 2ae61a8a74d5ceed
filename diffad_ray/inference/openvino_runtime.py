"""The runtime OpenVINO: a detector's networks as one graph for the CPU. Familiarity and the score stay in torch."""

from __future__ import annotations

import warnings
from functools import cache

import openvino
import torch
from openvino.frontend import FrontEndManager
from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder
from torch import Tensor, nn

from diffad_ray.detectors.base import Detection, Mode, Precision
from diffad_ray.detectors.judged import Examination, JudgedDetector
from diffad_ray.errors import UserError

HINTS: dict[Precision, str] = {"float32": "f32", "bfloat16": "bf16"}


class OpenVINORuntime:
    """The evidence of a detector, computed by a compiled graph.

    The graph is converted from the detector's weights each time, so a bundle stores nothing else. The fixed noise and
    the time embeddings of the fixed steps become constants.

    Args:
        detector: on the CPU.
        batch: images at a time.

    Raises:
        UserError: OpenVINO can't compute in the detector's precision on this processor.
    """

    def __init__(self, detector: JudgedDetector, batch: int):
        self.detector, self.precision = detector, detector.settings.precision
        hint = HINTS[self.precision]
        # As many threads as torch has here, and not bound to cores: other actors of this machine would take the same.
        given = {
            "INFERENCE_PRECISION_HINT": hint,
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,
        }
        compiled = _core().compile_model(_graph(detector, batch), "CPU", given)
        found = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        if found != hint:
            raise UserError(
                f"the detector scores in {self.precision} by OpenVINO, which computes in {found} on this processor: "
                "take another machine, or make a float32 detector by `diffad-ray tune DETECTOR --precision float32`"
            )
        self.request = compiled.create_infer_request()

    def run(self, images: Tensor) -> Detection:
        found = self.request.infer([images.numpy()], share_inputs=True)
        anomaly_map, reconstruction = (torch.from_numpy(found[place]) for place in (0, 1))
        return self.detector.judged(images, Examination(anomaly_map, reconstruction))

    def __str__(self) -> str:
        return f"{self.precision} openvino"


@cache
def _core() -> openvino.Core:
    return openvino.Core()


class _Evidence(nn.Module):
    """The evidence and the reconstruction as a module, for the conversion."""

    def __init__(self, detector: JudgedDetector):
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        found = self.detector.evidence(images)
        assert found.reconstruction is not None
        return found.anomaly_map, found.reconstruction


@torch.no_grad()
def _graph(detector: JudgedDetector, batch: int) -> openvino.Model:
    """Convert the networks for images [batch,3,S,S] in [0,1], in float32; they keep the mode of their settings."""
    side = detector.settings.image_size
    images = torch.zeros((batch, 3, side, side))
    detector.run_in(Mode(channels_last=False, precision="float32"))
    # Draws the fixed noise, which the tracing must find as constants.
    detector.evidence(images)
    with warnings.catch_warnings():
        # Torch warns of each size that becomes a constant, as it should.
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(_Evidence(detector), images, check_trace=False)
        # Not `openvino.convert_model`, which reports the conversion to the maker's servers. OpenVINO holds no reference
        # to the decoder, so it needs a name.
        decoder, frontend = TorchScriptPythonDecoder(traced), FrontEndManager().load_by_framework("pytorch")
        graph: openvino.Model = frontend.convert(frontend.load(decoder))
    graph.reshape(list(images.shape))
    detector.run_in(detector.settings.mode)
    return graph
