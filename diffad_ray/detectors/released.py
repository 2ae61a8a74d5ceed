"""Parameters of the released DiffusionAD code, under our names."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

_DENOISER = (
    (r"^down\.0\.0\.", "conv_in."),
    (r"^down\.(\d+)\.", lambda m: f"down.{int(m[1]) - 1}."),
    (r"^time_embedding\.1\.", "time_embedding.layer1."),
    (r"^time_embedding\.3\.", "time_embedding.layer2."),
    (r"^out\.0\.", "norm_out."),
    (r"^out\.2\.", "conv_out."),
    (r"\.in_layers\.0\.", ".norm1."),
    (r"\.in_layers\.2\.", ".conv1."),
    (r"\.embed_layers\.1\.", ".time."),
    (r"\.out_layers\.0\.", ".norm2."),
    (r"\.out_layers\.3\.", ".conv2."),
    (r"\.skip_connection\.", ".skip."),
    (r"\.to_qkv\.", ".qkv."),
    (r"\.proj_out\.", ".out."),
)
_LEVELS = {"b": 0, "1": 1, "2": 2, "3": 3, "4": 4}
_SEGMENTER = (
    (r"^encoder_segment\.block(\d)\.", lambda m: f"encoder.{int(m[1]) - 1}."),
    (r"^decoder_segment\.up_?(b|\d)\.", lambda m: f"up.{_LEVELS[m[1]]}."),
    (r"^decoder_segment\.db_?(b|\d)\.", lambda m: f"decoder.{_LEVELS[m[1]]}."),
    (r"^decoder_segment\.fin_out\.0\.", "conv_out."),
)


def _renamed(state: Mapping[str, Tensor], rules: tuple, prefix: str) -> dict[str, Tensor]:
    renamed = {}
    for name, tensor in state.items():
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        renamed[prefix + name] = tensor.float() if tensor.is_floating_point() else tensor
    return renamed


def from_released(denoiser: Mapping[str, Tensor], segmenter: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State of our `DiffusionAD` from the released `unet_model_state_dict` and `seg_model_state_dict`."""
    return _renamed(denoiser, _DENOISER, "denoiser.") | _renamed(segmenter, _SEGMENTER, "segmenter.")
