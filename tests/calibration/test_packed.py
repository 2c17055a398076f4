"""What became one product is known again by the names of what it was made of."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx import helper

from aigc_calibration.onnx_file import to_proto
from aigc_calibration.packed import note_packed, packed_constants

from .conftest import make_graph


def test_names_come_back_from_the_file() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], "noted"),
        helper.make_node("MatMul", ["h", "v"], ["y"], "plain"),
    ]
    weights = {"w": np.ones((3, 5), np.float32), "v": np.ones((5, 2), np.float32)}
    model: ir.Model = make_graph(nodes, weights, {"x": [2, 3]}, {"y": [2, 2]})
    note_packed(next(node for node in model.graph if node.name == "noted"), ["a, b", "c"])
    assert packed_constants(to_proto(model).graph) == {"w": ("a, b", "c")}
