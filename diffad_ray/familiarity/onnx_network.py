"""A network in an ONNX file, whose outputs are maps of features. onnxruntime computes it on the CPU.

TorchScript files are not taken: they are pickles and contain code, and loading one may run it. The operations of an
ONNX file are a fixed list, and onnxruntime is forbidden to read other files for it.

Letters in shapes: N images, C channels, S pixels a side, B bytes.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffad_ray.errors import UserError
from diffad_ray.familiarity.fitted import FittedModule

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"Of the colours of ImageNet's images in [0, 1], by which most networks expect theirs to be normalised."
MOST_BYTES = 256 * 2**20
"Of a file that the bundle carries. Of a larger one it carries the hash, and the file is read from its path."


class OnnxNetwork(FittedModule):
    """Maps images [N,3,S,S] in [0,1] to the outputs [N,C,h,w] of a network, in float32.

    The network sees one image at a time, so that files with a fixed batch fit, and no image depends on the others.

    Args:
        path: location of the file.
        layers: names of its outputs; all of them if there are none.
    """

    fitted = ("file", "digest")
    file: Tensor
    "[B] uint8: the file; empty before `load`, and where the file is larger than `MOST_BYTES`"
    digest: Tensor
    "[32] uint8: SHA-256 of the file; empty before `load`"
    mean: Tensor
    deviation: Tensor

    def __init__(self, path: str, layers: Sequence[str]):
        super().__init__()
        self.path, self.layers = path, list(layers)
        for name in self.fitted:
            self.register_buffer(name, torch.empty(0, dtype=torch.uint8))
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None], persistent=False)
        self.register_buffer("deviation", torch.tensor(DEVIATION)[:, None, None], persistent=False)
        self._session: Any = None

    def forward(self, images: Tensor) -> list[Tensor]:
        if self._session is None:
            self._session = _session(self._data(), self.path)
        seen = ((images - self.mean) / self.deviation).cpu().contiguous().numpy()
        name = self._session.get_inputs()[0].name
        found = [self._session.run(self.layers or None, {name: seen[k : k + 1]}) for k in range(len(seen))]
        return [torch.from_numpy(np.concatenate(one)).to(images.device) for one in zip(*found, strict=True)]

    @torch.no_grad()
    def load(self, side: int) -> None:
        """Read the file, and try it with an image of `side` pixels.

        Raises:
            UserError: the file can't be read or computed, lacks a layer, does not take such images, or an output is no
                map of features.
        """
        data = _read(self.path)
        self._session = _session(data, self.path)
        given, known = self._session.get_inputs(), [output.name for output in self._session.get_outputs()]
        if len(given) != 1 or given[0].type != "tensor(float)" or len(given[0].shape) != 4:
            raise UserError(f"{self.path} must take images [N,3,H,W] of float32 and nothing else: export it so")
        if missing := [layer for layer in self.layers if layer not in known]:
            raise UserError(f"{self.path} has no output {missing[0]!r}: take layers of {', '.join(known)}")
        try:
            found = self(torch.full((1, 3, side, side), 0.5))
        # onnxruntime has no common class for its errors.
        except Exception as error:
            raise UserError(
                f"{self.path} does not take images of {side} x {side} pixels ({_first_line(error)}): train with the "
                "--image-size for which it was exported, or export it with free height and width"
            ) from error
        for name, one in zip(self.layers or known, found, strict=True):
            if one.dtype != torch.float32 or one.dim() != 4 or not one.isfinite().all():
                raise UserError(
                    f"the output {name!r} of {self.path} is {one.dtype} {list(one.shape)}, and not a map of features "
                    "[N,C,h,w] of finite float32: take other layers, or reshape it before the export"
                )
        device, carried = self.file.device, data if len(data) <= MOST_BYTES else b""
        self.file = torch.frombuffer(bytearray(carried), dtype=torch.uint8).to(device) if carried else self.file[:0]
        self.digest = torch.tensor(list(hashlib.sha256(data).digest()), dtype=torch.uint8, device=device)

    def _data(self) -> bytes:
        """Return the file that the bundle carries, or the one of its hash from the path."""
        if len(self.file):
            return self.file.cpu().numpy().tobytes()
        data = _read(self.path)
        if hashlib.sha256(data).digest() != bytes(self.digest.tolist()):
            raise UserError(
                f"{self.path} has changed since the detector was trained with it: restore it, or train anew"
            )
        return data

    def __getstate__(self) -> dict[str, Any]:
        # A session can be neither copied nor sent to another process.
        return {**self.__dict__, "_session": None}

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        self._session = None
        super()._load_from_state_dict(state_dict, prefix, *others)


def require_onnxruntime() -> None:
    """Refuse networks in ONNX files where onnxruntime is missing.

    Raises:
        UserError: it is not installed.
    """
    if find_spec("onnxruntime") is None:
        raise UserError(
            "the detector has features of a network in an ONNX file, and onnxruntime is not installed: "
            "`pip install 'diffad-ray[features]'`"
        )


def _read(path: str) -> bytes:
    # Only here, because the core needs no other packages than torch and NumPy.
    from diffad_ray import storage

    try:
        return storage.read(storage.normalised(path))
    except OSError as error:
        raise UserError(f"the network of the features can't be read: {error}") from error


def _session(data: bytes, path: str) -> Any:
    require_onnxruntime()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
    options.use_deterministic_compute, options.log_severity_level = True, 3
    # Threads that wait for work would take the processor from other actors.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Weights in other files would not be in the bundle, and a file from outside must not name files of this machine.
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.devnull)
    try:
        return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    # onnxruntime has no common class for its errors.
    except Exception as error:
        raise UserError(
            f"{path} is no ONNX file that onnxruntime can compute ({_first_line(error)}): export the network as one "
            "file, with its weights inside"
        ) from error


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
