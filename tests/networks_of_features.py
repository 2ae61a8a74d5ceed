"""Small networks in ONNX files, for tests of features from a network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CHANNELS = 16


def write_network(path: Path, side: int | str = "side", seed: int = 0) -> Path:
    """Write a network with the outputs `fine` [1,8,S/4,S/4], `coarse` [1,8,S/8,S/8] and `mean` [1,8], and return it.

    Args:
        side: pixels a side of the images that it takes; a name leaves them free.
    """
    rng = np.random.default_rng(seed)
    weights = {"first": rng.normal(size=(8, 3, 4, 4)) / 4, "second": rng.normal(size=(8, 8, 2, 2)) / 4}
    nodes = [
        helper.make_node("Conv", ["images", "first"], ["waves"], strides=[4, 4]),
        helper.make_node("Relu", ["waves"], ["fine"]),
        helper.make_node("Conv", ["fine", "second"], ["coarse"], strides=[2, 2]),
        helper.make_node("ReduceMean", ["coarse"], ["mean"], axes=[2, 3], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "features",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, side, side])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("fine", "coarse", "mean")],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path
