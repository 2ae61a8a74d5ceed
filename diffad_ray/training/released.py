"""Names of the parameters in the released DiffusionAD code and in ours."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

DENOISER, SEGMENTER = "unet_model_state_dict", "seg_model_state_dict"
"Entries of a released checkpoint that hold the networks."
_OURS = {DENOISER: "denoiser.", SEGMENTER: "segmenter."}
_MOST_STAGES = 100
"Upper bound of the number of stages of a denoiser."

# Beginnings of names in the released code and in ours. The released denoiser counts the first convolution as a stage.
_BEGINNINGS = {
    DENOISER: {
        "down.0.0": "conv_in",
        **{f"down.{k}": f"down.{k - 1}" for k in range(1, _MOST_STAGES)},
        "time_embedding.1": "time_embedding.layer1",
        "time_embedding.3": "time_embedding.layer2",
        "out.0": "norm_out",
        "out.2": "conv_out",
    },
    SEGMENTER: {
        **{f"encoder_segment.block{k + 1}": f"encoder.{k}" for k in range(6)},
        **{f"decoder_segment.up{level}": f"up.{k}" for k, level in enumerate(("_b", 1, 2, 3, 4))},
        **{f"decoder_segment.db{level}": f"decoder.{k}" for k, level in enumerate(("_b", 1, 2, 3, 4))},
        "decoder_segment.fin_out.0": "conv_out",
    },
}
_LAYERS = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "embed_layers.1": "time",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "skip",
    "to_qkv": "qkv",
    "proj_out": "out",
}
"Parts of a name after the number of a block."


def _replaced(name: str, table: Mapping[str, str], where: str) -> str:
    """Replace the dotted parts of `name` that stand at `where` and are keys of the table."""
    known = "|".join(map(re.escape, table))
    return re.sub(rf"{where}(?:{known})(?=\.)", lambda found: table[found[0]], name)


def _translated(name: str, beginnings: Mapping[str, str], layers: Mapping[str, str]) -> str:
    return _replaced(_replaced(name, beginnings, "^"), layers, r"(?<=\.\d\.)")


def _reversed(table: Mapping[str, str]) -> dict[str, str]:
    return {ours: theirs for theirs, ours in table.items()}


def from_released(denoiser: Mapping[str, Tensor], segmenter: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state of our `DiffusionAD`, in float32, from the two released state dictionaries."""
    return {
        _OURS[entry] + _translated(name, _BEGINNINGS[entry], _LAYERS): (
            tensor.float() if tensor.is_floating_point() else tensor
        )
        for entry, state in ((DENOISER, denoiser), (SEGMENTER, segmenter))
        for name, tensor in state.items()
    }


def is_released(ours: str) -> bool:
    """Return whether a released checkpoint has this parameter of our `DiffusionAD`."""
    return ours.startswith(tuple(_OURS.values()))


def released_name(ours: str) -> tuple[str, str]:
    """Return the entry of a released checkpoint that has a parameter of our `DiffusionAD`, and the name in it."""
    entry = DENOISER if ours.startswith(_OURS[DENOISER]) else SEGMENTER
    name = ours.removeprefix(_OURS[entry])
    return entry, _translated(name, _reversed(_BEGINNINGS[entry]), _reversed(_LAYERS))
